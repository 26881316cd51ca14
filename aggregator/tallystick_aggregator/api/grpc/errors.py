"""The outermost layer of every method: a refusal becomes its response, what goes wrong becomes a gRPC status, and
nothing of the inside leaks.
"""

import functools
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

import grpc
import grpc.aio

from tallystick.errors import MalformedError
from tallystick_aggregator.api.grpc.principals import ServicerContext, status_of
from tallystick_aggregator.api.grpc.responses import write_refusal
from tallystick_aggregator.auth.principals import DeniedError
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.store.port import StoreUnavailableError

log = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])


P = ParamSpec("P")
Response = TypeVar("Response")


def refusing(
    response: Callable[..., Response],
) -> Callable[[Callable[P, Awaitable[Response | Refusal]]], Callable[P, Awaitable[Response]]]:
    """Make a method's refusal the response that carries it; errors are `guarded` too."""

    def wrap(method: Callable[P, Awaitable[Response | Refusal]]) -> Callable[P, Awaitable[Response]]:
        @functools.wraps(method)
        async def call(*arguments: P.args, **keywords: P.kwargs) -> Response:
            answer = await method(*arguments, **keywords)
            return response(refusal=write_refusal(answer)) if isinstance(answer, Refusal) else answer

        return guarded(call)

    return wrap


def guarded(method: Method) -> Method:
    """Make a method's errors statuses: malformed is INVALID_ARGUMENT, DeniedError as it says, the unexpected
    INTERNAL.
    """

    @functools.wraps(method)
    async def call(self: object, request: object, context: ServicerContext) -> Any:
        try:
            return await method(self, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the outermost edge
            await _abort(context, method.__qualname__, error)

    return cast("Method", call)


async def _abort(context: Any, method: str, error: Exception) -> NoReturn:
    if isinstance(error, MalformedError):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    if isinstance(error, DeniedError):
        await context.abort(status_of(error), error.message)
    if isinstance(error, StoreUnavailableError):
        # Not a refusal: whether it was stored is not known. The same call with the same ids finds out.
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"{error}; send the same call again to learn its outcome")
    # The caller gets a number to quote; what happened stands in the log under it.
    incident = secrets.token_hex(8)
    log.error("unexpected failure in %s", method, exc_info=error, extra={"incident": incident})
    await context.abort(grpc.StatusCode.INTERNAL, f"an unexpected failure, logged as incident {incident}")
    raise AssertionError("abort raises")
