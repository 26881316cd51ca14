"""The two ends of an ASGI request, as the paywall needs them.

`Incoming` reads the request's body ahead where it must be hashed and tells whether the client is still there;
`Outgoing` holds the response back until it is decided whether it is paid for. Neither knows of money.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from enum import Enum
from typing import Any, Final
from urllib.parse import quote

import msgspec

from tallystick.errors import Described, MalformedError
from tallystick.requests import normal_target

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

START: Final = "http.response.start"
BODY: Final = "http.response.body"
_AHEAD_OF_RESPONSE: Final = frozenset({"http.response.push", "http.response.early_hint", "http.response.debug"})
"""Messages that carry nothing of the page."""


class BodyNotReadError(Exception):
    """A request's body could not be read ahead."""


class ClientGoneError(BodyNotReadError):
    """The client left before its request was complete."""


class BodyTooLargeError(BodyNotReadError):
    """The request's body is larger than what is read ahead."""


class RoomFullError(BodyNotReadError):
    """The bodies of other requests take all the memory there is for them."""


class ResponseRefusedError(OSError):
    """What the application gets when it goes on sending a response that is not delivered.

    An OSError, as ASGI demands of `send` to a client that is gone: frameworks stop at it quietly.
    """


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header with this name, in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def header_list(scope: Scope, name: bytes) -> list[bytes]:
    """All headers with this name, in lower case."""
    return [bytes(value) for key, value in scope["headers"] if key == name]


def request_target(scope: Scope) -> bytes:
    """Path and query as on the request line. An empty query is taken for none: servers do not tell them apart."""
    path = scope.get("raw_path") or quote(scope["path"], safe="/:@!$&'()*+,;=-._~").encode("ascii")
    path = path.partition(b"?")[0]
    query = scope.get("query_string", b"")
    return bytes(path + b"?" + query if query else path)


def url(scope: Scope) -> str:
    """The URL of the request, as far as the server knows its own name."""
    host = (header(scope, b"host") or b"").decode("latin-1")
    if not host:
        name, port = scope.get("server") or ("localhost", None)
        host = f"{name}:{port}" if port else str(name)
    return f"{scope.get('scheme', 'http')}://{host}{normal_target(request_target(scope)).decode('latin-1')}"


def content_length(scope: Scope) -> int | None:
    """How long the body is said to be; None where it is streamed up or there is none. Raises MalformedError."""
    if header(scope, b"transfer-encoding") is not None:
        return None
    value = header(scope, b"content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        got = Described(ascii(value[:20].decode("latin-1")))
        raise MalformedError("Content-Length", got, "the number of bytes of the body")
    return int(value)


def may_have_body(scope: Scope) -> bool:
    """Whether a request whose body's length was not told may have a body: chunked, or by HTTP/2 and later."""
    return header(scope, b"transfer-encoding") is not None or scope.get("http_version", "1.1") not in {"1.0", "1.1"}


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


class _Stage(Enum):
    HELD = "held"
    PASSING = "passing"
    REFUSED = "refused"


class Outgoing:
    """The application's response, held back until its first byte.

    Then `decide` is asked once, with the message that starts the response and the first of its body. It returns the
    start to send, or None after it has answered the client itself: then nothing of the response goes out.
    """

    def __init__(self, send: Send, decide: Callable[[Message, Message], Awaitable[Message | None]]) -> None:
        self._send = send
        self._decide = decide
        self._start: Message | None = None
        self._stage = _Stage.HELD

    @property
    def is_held(self) -> bool:
        """Whether nothing of the response was decided about yet."""
        return self._stage is _Stage.HELD

    @property
    def is_refused(self) -> bool:
        """Whether the client got another response than the application's."""
        return self._stage is _Stage.REFUSED

    async def send(self, message: Message) -> None:
        """What the application calls."""
        if self._stage is _Stage.PASSING or message["type"] in _AHEAD_OF_RESPONSE:
            await self._send(message)
        elif self._stage is _Stage.REFUSED:
            raise ResponseRefusedError("the response is not delivered: it was not paid for")
        elif message["type"] == START:
            self._start = message
        else:
            await self._first_byte(message)

    async def _first_byte(self, message: Message) -> None:
        assert self._start is not None, "a body has a start before it"
        start = await self._decide(self._start, message)
        if start is None:
            self._stage = _Stage.REFUSED
            return
        self._stage = _Stage.PASSING
        await self._send(start)
        await self._send(message)


async def respond(send: Send, status: int, body: object, headers: Iterable[tuple[str, str]] = ()) -> None:
    """Send a whole JSON response that no cache keeps."""
    data = msgspec.json.encode(body)
    all_headers = [
        ("content-type", "application/json"),
        ("content-length", str(len(data))),
        ("cache-control", "no-store"),
        *headers,
    ]
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in all_headers]
    await send({"type": START, "status": status, "headers": encoded})
    await send({"type": BODY, "body": data, "more_body": False})


def make_private(headers: Headers) -> Headers:
    """The headers with a Cache-Control that keeps the page out of shared caches, or the stricter one they had."""
    directives = [
        directive.strip()
        for name, value in headers
        if name.lower() == b"cache-control"
        for directive in value.split(b",")
        if directive.strip()
    ]
    names = {directive.partition(b"=")[0].lower() for directive in directives}
    others = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
    if not names & {b"private", b"no-store"}:
        shared = {b"public", b"s-maxage", b"proxy-revalidate"}
        kept = [directive for directive in directives if directive.partition(b"=")[0].lower() not in shared]
        directives = [b"private", *kept]
    return [*others, (b"cache-control", b", ".join(directives))]
