"""How many calls of one caller are under way at once, and for how long, so that seats stay for the others (threat 28).

All calls share the server's `CALLS_MAX` seats. A seller, whose token is good, takes one and nothing is in its way,
unless it has opened many calls without saying what it wants: from then on its calls have seats and a time limit of
their own. (Streams are counted by `ChargeService`.) Everybody else shares a few, by kind of call: those that never end
by themselves are ended, and a caller that opens a call has to say what it wants. Without that, eight connections of one
caller would fill the server and every seller would be refused.
"""

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from tallystick_aggregator.api.grpc.calls import RejectedError, status_of, token_in
from tallystick_aggregator.auth.credentials import DeniedError, Principals


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How many calls of each kind there are at once, and how long they last."""

    strangers_max: int = 2_048
    """Calls without a good token: payers, who prove theirs by signatures."""
    probes_max: int = 256
    """Health checks."""
    watches_max: int = 32
    """Watches of the health, and reflection."""
    watch_s_max: float = 600.0
    """How long one of those may last; who wants to know more calls again."""
    request_s_max: float = 10.0
    """How long a stranger may take to say what it calls for."""
    silent_max: int = 256
    """Calls that a seller may have opened, ever, without saying what for: each is a seat that nobody can take back."""
    seller_calls_max: int = 1_024
    """Calls of a seller that has opened that many."""


Handler = Any
"""A grpc.RpcMethodHandler: its attributes are not in the library's types."""

_LONG: Final = ("/grpc.health.v1.Health/Watch", "/grpc.reflection.")
_PROBES: Final = "/grpc.health.v1.Health/"


class ConcurrencyLimits(grpc.aio.ServerInterceptor):
    """Gives strangers' calls their few seats and their time."""

    def __init__(self, principals: Principals, limits: CallLimits | None = None) -> None:
        self._limits = limits = limits or CallLimits()
        self._principals = principals
        self._strangers = _Pool("calls without a token", limits.strangers_max)
        self._probes = _Pool("health checks", limits.probes_max)
        self._watches = _Pool("health watches and reflections", limits.watches_max)
        self.silent: Counter[str] = Counter()
        """By seller: calls that were opened and not followed by a request."""
        self._sellers: dict[str, _Pool] = {}
        self._told: dict[tuple[str, str], Handler] = {}
        """By seller and method: the handler that counts its silent calls."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Let sellers pass that say what they want; put anybody else's call on a seat."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None:  # no such method
            return handler
        if method.startswith(_LONG):
            return self._seated(handler, self._watches, self._limits.watch_s_max)
        if method.startswith(_PROBES):
            return self._seated(handler, self._probes)
        seller = self._seller(handler_call_details.invocation_metadata)
        if seller is None:
            return self._seated(handler, self._strangers)
        if handler.request_streaming:
            return handler
        if self.silent[seller] >= self._limits.silent_max:
            pool = self._sellers.setdefault(
                seller, _Pool("calls of a token that opens silent ones", self._limits.seller_calls_max)
            )
            return self._seated(handler, pool)
        self.silent[seller] += 1
        told = self._told.get((seller, method))
        if told is None:
            told = self._told[seller, method] = _told(handler, self.silent, seller)
        return told

    def _seated(self, handler: Handler, pool: "_Pool", limit_s: float | None = None) -> Handler:
        """Wrap a handler. To the library it reads a stream: only so is it asked before the request has come."""
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        request_s_max = self._limits.request_s_max

        async def call(requests: AsyncIterator[Any], context: Any) -> Any:
            try:
                with pool.seat():
                    request = requests if handler.request_streaming else await _first(requests, request_s_max)
                    return await _within(limit_s, _answer(behaviour(request, context), context))
            except DeniedError as denied:
                await context.abort(status_of(denied), denied.message)

        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(call, handler.request_deserializer, handler.response_serializer)

    def _seller(self, metadata: Sequence[tuple[str, str | bytes]] | None) -> str | None:
        try:
            return self._principals.require(token_in(metadata)).name
        except DeniedError:
            return None


class _Pool:
    """So many seats."""

    def __init__(self, what: str, size: int) -> None:
        self._what = what
        self._size = size
        self._taken = 0

    @contextmanager
    def seat(self) -> Generator[None, None, None]:
        """Sit down; raises DeniedError where all seats are taken."""
        if self._taken >= self._size:
            raise RejectedError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"at most {self._size} {self._what} at once")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


def _told(handler: Handler, silent: Counter[str], seller: str) -> Handler:
    """Wrap a handler of single requests: a call is no longer silent when its request has come."""

    def read(data: bytes) -> Any:
        silent[seller] -= 1
        return handler.request_deserializer(data)

    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(handler.unary_stream, read, handler.response_serializer)
    return grpc.unary_unary_rpc_method_handler(handler.unary_unary, read, handler.response_serializer)


async def _first(requests: AsyncIterator[Any], limit_s: float) -> Any:
    try:
        async with asyncio.timeout(limit_s):
            return await anext(requests)
    except TimeoutError:
        raise RejectedError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no request came within {limit_s:g} s") from None
    except StopAsyncIteration:
        raise RejectedError(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request") from None


async def _answer(outcome: Any, context: Any) -> Any:
    """Answer as the behaviour does: by one message, by `context.write`, or by yielding."""
    if not inspect.isasyncgen(outcome):
        return await outcome
    async for message in outcome:
        await context.write(message)
    return None


async def _within(limit_s: float | None, answer: Awaitable[Any]) -> Any:
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            return await answer
    except TimeoutError:
        if not limit.expired():
            raise
        raise RejectedError(
            grpc.StatusCode.UNAVAILABLE, f"a call of this kind lasts at most {limit_s:g} s; call again"
        ) from None
