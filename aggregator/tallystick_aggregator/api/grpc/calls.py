"""What every method shares: who calls, by a token in the metadata `authorization: Bearer <token>`, and how it ends.

A refusal becomes its response, what goes wrong becomes a gRPC status, and nothing of the inside leaks.
"""

import functools
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NoReturn, ParamSpec, TypeVar, cast

import grpc
import grpc.aio

from tallystick.errors import MalformedError
from tallystick_aggregator.api.grpc.codec import write_refusal
from tallystick_aggregator.auth.credentials import DeniedError, UnauthenticatedError
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.store.port import StoreUnavailableError

log = logging.getLogger(__name__)

TOKEN_CHARS_MAX: Final = 256
_BEARER: Final = "Bearer "

ServicerContext = grpc.aio.ServicerContext[Any, Any]


class RejectedError(DeniedError):
    """A call that is not taken for another reason than who calls: a gRPC status and one sentence."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(denied: DeniedError) -> grpc.StatusCode:
    """Return the gRPC status that tells why a call is not taken."""
    if isinstance(denied, RejectedError):
        return denied.status
    is_unknown = isinstance(denied, UnauthenticatedError)
    return grpc.StatusCode.UNAUTHENTICATED if is_unknown else grpc.StatusCode.PERMISSION_DENIED


def has_token(context: ServicerContext) -> bool:
    """Whether the caller shows a token at all."""
    return any(key == "authorization" for key, _ in context.invocation_metadata() or ())


def token_of(context: ServicerContext) -> str:
    """Return the token in the call's metadata; raises DeniedError where there is not exactly one."""
    return token_in(context.invocation_metadata())


def token_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return the token in this metadata; raises DeniedError where there is not exactly one."""
    values = [value for key, value in metadata or () if key == "authorization"]
    if not values:
        raise UnauthenticatedError("the call carries no token; send the metadata 'authorization: Bearer <token>'")
    value = values[0]
    if len(values) > 1 or not isinstance(value, str) or not value.startswith(_BEARER) or len(value) > TOKEN_CHARS_MAX:
        raise UnauthenticatedError("the metadata 'authorization' must be one 'Bearer <token>', nothing else")
    return value[len(_BEARER) :]


# How a method ends.

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
