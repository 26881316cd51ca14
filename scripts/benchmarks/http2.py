"""A caller of unary gRPC methods that costs next to nothing: HTTP/2 frames, written and read by hand (RFC 9113).

A load must not take the processor that it measures: a call by gRPC's own client costs a hundred microseconds, a third
of what the server needs. Only what a benchmark of one method needs is here. The header block of a connection's first
call puts all fields into the server's table (RFC 7541 §6.2.1); the calls after it name them by their places there.
"""

import asyncio
import ssl
from collections.abc import Callable
from struct import Struct
from typing import Final, cast

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW: Final = 65_535
WINDOW_MAX: Final = 2**31 - 1
_INITIAL_WINDOW_SIZE: Final = 4
"""The number of a setting."""
_HEAD: Final = Struct(">HBBBI")
"""A frame's length (its upper 16 bits, its lowest 8), type, flags and stream."""
_PREFIX_BYTES: Final = 5
"""Before a gRPC message: whether it is compressed, and its length."""
_FIRST_DYNAMIC: Final = 62
"""Where the newest entry of the table of header fields is."""


class CallFailedError(Exception):
    """A call had no answer, or the connection ended."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def header_blocks(path: str, authority: str, token: str, scheme: str) -> tuple[bytes, bytes]:
    """The header block of a connection's first call, and of all others."""
    post, scheme_ = b"\x83", b"\x86" if scheme == "http" else b"\x87"
    fields = (
        (b"\x44", path),  # the name is in the static table
        (b"\x41", authority),
        (b"\x5f", "application/grpc"),
        (b"\x40\x02te", "trailers"),
        (b"\x57", f"Bearer {token}"),
    )
    first = post + scheme_ + b"".join(name + _text(value) for name, value in fields)
    again = post + scheme_ + bytes(0x80 | (_FIRST_DYNAMIC + place) for place in reversed(range(len(fields))))
    return first, again


def message(body: bytes) -> bytes:
    """A gRPC message."""
    return b"\0" + len(body).to_bytes(4, "big") + body


def _text(value: str) -> bytes:
    data = value.encode()
    assert len(data) < 0x7F, "longer texts have another form, which nothing needs here"
    return bytes((len(data),)) + data


class Connection(asyncio.Protocol):
    """One connection. `answered(stream, body)` hears of every answer; `call` starts another.

    What is called within one turn of the event loop is sent together.
    """

    def __init__(self, blocks: tuple[bytes, bytes], answered: Callable[[int, bytes], None]) -> None:
        self._first, self._block = blocks
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._out: list[bytes] = []
        self._flushing = False
        self._next_stream = 1
        self._bodies: dict[int, bytes] = {}
        self._room = INITIAL_WINDOW
        self._waiting: list[tuple[bytes, int]] = []
        """Requests, and what each takes of the window: its message, not the frames' heads (RFC 9113 §6.9.1)."""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection ends; fails if anything was wrong with it."""

    @classmethod
    async def open(
        cls,
        port: int,
        path: str,
        token: str,
        answered: Callable[[int, bytes], None],
        tls: ssl.SSLContext | None = None,
    ) -> "Connection":
        """Connect to a port of 127.0.0.1."""
        blocks = header_blocks(path, f"localhost:{port}", token, "https" if tls else "http")
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: cls(blocks, answered),
            "127.0.0.1",
            port,
            ssl=tls,
            server_hostname="localhost" if tls else None,
        )
        return connection

    def call(self, body: bytes) -> int:
        """Start a call; returns its stream."""
        stream = self._next_stream
        self._next_stream += 2
        framed = message(body)
        headers = frame(HEADERS, END_HEADERS, stream, self._first)
        self._first = self._block
        self._waiting.append((headers + frame(DATA, END_STREAM, stream, framed), len(framed)))
        self._flush_soon()
        return stream

    def close(self) -> None:
        """End the connection."""
        assert self._transport is not None
        if not self.lost.done():
            self.lost.set_result(None)
        self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, and that answers may come without end."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its type
        window = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + WINDOW_MAX.to_bytes(4, "big")
        more = (WINDOW_MAX - INITIAL_WINDOW).to_bytes(4, "big")
        self._transport.write(PREFACE + frame(SETTINGS, 0, 0, window) + frame(WINDOW_UPDATE, 0, 0, more))

    def data_received(self, data: bytes) -> None:
        """Read all frames that are complete."""
        received = self._received + data if self._received else data
        position, end = 0, len(received)
        while position + _HEAD.size <= end:
            high, low, kind, flags, stream = _HEAD.unpack_from(received, position)
            stop = position + _HEAD.size + (high << 8 | low)
            if stop > end:
                break
            self._take(kind, flags, stream, received[position + _HEAD.size : stop])
            position = stop
        self._received = received[position:]
        self._flush_soon()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        if not self.lost.done():
            self.lost.set_exception(error or CallFailedError("the server ended the connection"))

    # Frames.

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._bodies[stream] = self._bodies.get(stream, b"") + payload
        elif kind == HEADERS:
            if flags & END_STREAM:
                self._end(stream)
        elif kind == SETTINGS and not flags & ACK:
            self._out.append(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._room += int.from_bytes(payload, "big")
        elif kind in {RST_STREAM, GOAWAY}:
            raise CallFailedError(f"the server sent frame {kind} on stream {stream}: {payload!r}")

    def _end(self, stream: int) -> None:
        body = self._bodies.pop(stream, b"")
        if len(body) < _PREFIX_BYTES:
            raise CallFailedError("a call ended without an answer: its status was not OK")
        self._answered(stream, body[_PREFIX_BYTES:])

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        sent = 0
        for request, size in self._waiting:
            if size > self._room:
                break
            self._room -= size
            self._out.append(request)
            sent += 1
        del self._waiting[:sent]
        if self._out:
            assert self._transport is not None
            self._transport.write(b"".join(self._out))
            self._out.clear()
