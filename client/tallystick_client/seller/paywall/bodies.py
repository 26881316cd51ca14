"""ASGI request bodies that are read ahead, within a bound for all of them together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tallystick_client.seller.paywall.steps import ClientGoneError, RoomFullError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class Backpressure:
    """Memory for the bodies that are read ahead, of all requests together."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.bytes_taken = 0

    def take(self, size: int) -> None:
        """Take some of it; raises RoomFullError."""
        if self.bytes_taken + size > self._bytes_max:
            raise RoomFullError
        self.bytes_taken += size

    def give_back(self, size: int) -> None:
        """Give some of it back."""
        self.bytes_taken -= size


class Incoming:
    """The request's messages: read ahead, and given on to the application as if nobody had."""

    def __init__(self, receive: Receive, room: Backpressure) -> None:
        self.is_untouched = True
        """Whether nobody here has received anything."""
        self._receive = receive
        self._room = room
        self._taken = 0
        self._body: bytes | None = None
        self._read: deque[Message] = deque()
        self._next: asyncio.Future[Message] | None = None

    async def read_ahead(self, bytes_max: int) -> bytes | None:
        """The whole body, or None as soon as it is longer; the application gets it in either case.

        Raises ClientGoneError or RoomFullError.
        """
        self.is_untouched = False
        if self._body is not None:
            return self._body
        size, more = 0, True
        while more and size <= bytes_max:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            self._room.take(len(chunk))
            self._taken += len(chunk)
            size += len(chunk)
            self._read.append(message)
            more = message.get("more_body", False)
        if size > bytes_max:
            return None
        self._body = b"".join(message.get("body", b"") for message in self._read)
        self._read.clear()
        self._read.append({"type": "http.request", "body": self._body, "more_body": False})
        return self._body

    async def receive(self) -> Message:
        """What the application calls."""
        if self._read:
            message = self._read.popleft()
            # From here on it is the application's memory.
            self._body = None
            self._give_back(min(self._taken, len(message.get("body", b""))))
            return message
        # `is_client_gone` may await the same message; a caller that is cancelled does not lose it for the others.
        message = await asyncio.shield(self._awaited())
        if message["type"] != "http.disconnect":
            self._next = None
        return message

    async def is_client_gone(self) -> bool:
        """Whether the client has left, as far as the server knows by now.

        Reads past what the application has not read yet, but never into a body that is being streamed up.
        """
        self.is_untouched = False
        while True:
            awaited = self._awaited()
            if not awaited.done():
                # One turn of the event loop: servers that know of it answer without waiting.
                await asyncio.sleep(0)
            if not awaited.done():
                return False
            message = awaited.result()
            if message["type"] == "http.disconnect":
                return True
            self._next = None
            self._read.append(message)
            if message.get("more_body", False):
                return False

    async def close(self) -> None:
        """Stop waiting for messages, and give back what memory they took."""
        self._give_back(self._taken)
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])

    def _give_back(self, size: int) -> None:
        self._taken -= size
        self._room.give_back(size)

    def _awaited(self) -> asyncio.Future[Message]:
        if self._next is None:
            self._next = asyncio.ensure_future(self._receive())
        return self._next
