"""Who calls: a seller's token in the metadata `authorization: Bearer <token>`, and what it may do.

Payers have no token: they sign their calls (`schemes.deferred.calls`). Tokens are never logged and never echoed.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc
import grpc.aio

from tallystick.hexadecimal import checksum
from tallystick_aggregator.auth.credentials import Principal, Scope

TOKEN_CHARS_MAX: Final = 256
_BEARER: Final = "Bearer "

ServicerContext = grpc.aio.ServicerContext[Any, Any]


class Denied(Exception):
    """A call that is not taken from this caller: a gRPC status and one sentence."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Principals:
    """Tells callers by their tokens."""

    def __init__(self, lookup: Callable[[str], Principal | None]) -> None:
        """`lookup` knows the tokens that are good now; it answers from memory."""
        self._lookup = lookup

    def require(self, token: str, scope: Scope | None = None) -> Principal:
        """Return the principal of a token, which has the scope; raises Denied."""
        principal = self._lookup(token)
        if principal is None:
            raise Denied(grpc.StatusCode.UNAUTHENTICATED, "the token is not known here, or was revoked")
        if scope is not None and scope not in principal.scopes:
            raise Denied(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the token of {principal.name!r} lacks the scope {scope.value!r}",
            )
        return principal

    def caller(self, context: ServicerContext, scope: Scope | None = None) -> Principal:
        """Return who makes this call; raises Denied."""
        return self.require(token_of(context), scope)


def has_token(context: ServicerContext) -> bool:
    """Whether the caller shows a token at all."""
    return any(key == "authorization" for key, _ in context.invocation_metadata() or ())


def token_of(context: ServicerContext) -> str:
    """Return the token in the call's metadata; raises Denied where there is not exactly one."""
    return token_in(context.invocation_metadata())


def token_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return the token in this metadata; raises Denied where there is not exactly one."""
    values = [value for key, value in metadata or () if key == "authorization"]
    if not values:
        raise Denied(
            grpc.StatusCode.UNAUTHENTICATED,
            "the call carries no token; send the metadata 'authorization: Bearer <token>'",
        )
    value = values[0]
    if len(values) > 1 or not isinstance(value, str) or not value.startswith(_BEARER) or len(value) > TOKEN_CHARS_MAX:
        raise Denied(
            grpc.StatusCode.UNAUTHENTICATED, "the metadata 'authorization' must be one 'Bearer <token>', nothing else"
        )
    return value[len(_BEARER) :]


def require_receiver(principal: Principal, receiver: bytes) -> None:
    """Check that the principal acts for this receiver; raises Denied."""
    if receiver not in principal.receivers:
        raise Denied(
            grpc.StatusCode.PERMISSION_DENIED,
            f"the token of {principal.name!r} is not for the receiver {checksum(receiver)}",
        )
