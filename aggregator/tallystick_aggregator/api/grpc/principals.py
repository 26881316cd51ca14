"""Who calls: a seller's token in the metadata `authorization: Bearer <token>`. And calls that are rejected here."""

from collections.abc import Iterable
from typing import Any, Final

import grpc
import grpc.aio

from tallystick_aggregator.auth.principals import DeniedError, UnauthenticatedError

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
