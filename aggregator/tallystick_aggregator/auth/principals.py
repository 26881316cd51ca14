"""Who calls, and what it may do: sellers by their tokens. Each edge takes the token from where its callers put it.

Payers have no token: they sign their calls (`accounts.signed_calls`). Tokens are never logged and never echoed.
"""

from collections.abc import Callable

from tallystick.hexadecimal import checksum
from tallystick_aggregator.auth.credentials import Principal, Scope


class DeniedError(Exception):
    """A call that is not taken from this caller; one sentence says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UnauthenticatedError(DeniedError):
    """Nobody is known by what the caller showed."""


class ForbiddenError(DeniedError):
    """The caller is known, and may not do this."""


class Principals:
    """Tells callers by their tokens."""

    def __init__(self, lookup: Callable[[str], Principal | None]) -> None:
        """`lookup` knows the tokens that are good now; it answers from memory."""
        self._lookup = lookup

    def require(self, token: str, scope: Scope | None = None) -> Principal:
        """Return the principal of a token, which has the scope; raises DeniedError."""
        principal = self._lookup(token)
        if principal is None:
            raise UnauthenticatedError("the token is not known here, or was revoked")
        if scope is not None and scope not in principal.scopes:
            raise ForbiddenError(f"the token of {principal.name!r} lacks the scope {scope.value!r}")
        return principal


def require_receiver(principal: Principal, receiver: bytes) -> None:
    """Check that the principal acts for this receiver; raises DeniedError."""
    if receiver not in principal.receivers:
        raise ForbiddenError(f"the token of {principal.name!r} is not for the receiver {checksum(receiver)}")
