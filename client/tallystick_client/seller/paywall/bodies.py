"""Reading request bodies ahead: within the limits of one body, of all that are held at once, and of time."""

import asyncio
from dataclasses import dataclass

from tallystick_client.seller.paywall.asgi import (
    Backpressure,
    BodyNotReadError,
    BodyTooLargeError,
    Incoming,
    Scope,
    content_length,
    may_have_body,
)


class BodyTooSlowError(BodyNotReadError):
    """The request's body did not come in time."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """`bytes_max` of one body, `room` for all of them, and how long one may take."""

    bytes_max: int
    room: Backpressure
    patience_s: float


class BodyReader:
    """Reads the body of one request, when it must be known.

    Raises BodyTooLargeError, BodyTooSlowError, RoomFullError and ClientGoneError; when made, MalformedError on a wrong
    Content-Length.
    """

    def __init__(self, scope: Scope, incoming: Incoming, limits: BodyLimits) -> None:
        self._length = content_length(scope)
        self._is_streamed = self._length is None and may_have_body(scope)
        self._incoming = incoming
        self._limits = limits

    @property
    def is_expected(self) -> bool:
        """Whether there may be a body at all."""
        return self._is_streamed or bool(self._length)

    async def read_bound(self) -> bytes:
        """The body that a payment is bound to: one whose length was told; nothing of one that is streamed up."""
        return b"" if self._is_streamed else await self.read_if_length_is_told() or b""

    async def read_if_length_is_told(self) -> bytes | None:
        """The body, None where it is streamed up."""
        if self._is_streamed:
            return None
        if not self._length:
            return b""
        if self._length > self._limits.bytes_max:
            raise BodyTooLargeError
        body = await self.read_ahead()
        if body is None:
            raise BodyTooLargeError
        return body

    async def read_ahead(self) -> bytes | None:
        """The body, however it comes; None where it is too long to be read ahead."""
        try:
            async with asyncio.timeout(self._limits.patience_s):
                return await self._incoming.read_ahead(self._limits.bytes_max)
        except TimeoutError:
            raise BodyTooSlowError from None
