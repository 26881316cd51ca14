"""What a connection may take up besides the requests that it asks.

uvicorn bounds neither how long a request's line and headers may take nor how long they are, nor how long a connection
stays that sends what is no request, or does not read its answers; with enough of them one caller would keep all others
out (threat 28).
"""

import asyncio
import math
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

BODY_IS_HERE: Final = "body_is_here"
"""In a request's `state`: true once all of its body has come, so that nobody need watch the time."""
PIPELINED_MAX: Final = 8
"""Requests of a connection that wait for the answer to an earlier one. No client in use sends any; a packet holds
thousands of them."""
_TOO_LONG: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

_CONTINUE: Final = b"HTTP/1.1 100 "
"""Begins what asks for the body of a request, before its answer."""


class OneWrite(asyncio.Transport):
    """Holds an answer's head back until its body comes: one system call, and one packet, for both.

    It stands between uvicorn's cycle of one request and the connection, and offers what that asks of a transport.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._head: bytes | None = None
        self._is_head = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hold what is the head, and write all else."""
        data = bytes(data)
        if self._is_head and not data.startswith(_CONTINUE):
            self._is_head, self._head = False, data
        else:
            self._transport.write(self._taken() + data)

    def close(self) -> None:
        """Write what is held, and close."""
        if self._head is not None:
            self._transport.write(self._taken())
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is at its end."""
        return self._transport.is_closing()

    def _taken(self) -> bytes:
        head, self._head = self._head or b"", None
        return head


class PipelineError(Exception):
    """Too many requests at once on one connection: the parser stops, and uvicorn answers 400 and closes."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1, whose requests have to begin in time and within a size. Make one by `bounded`."""

    head_bytes_max: int
    head_s_max: float

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0
        self._is_head = True
        self._has_begun = False
        """Whether a part of a head has come, and not all."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request; end what is one connection too many, which would take a file from others
        than HTTP's callers.
        """
        super().connection_made(transport)
        if len(self.connections) > (self.limit_concurrency or math.inf):
            transport.abort()
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless this is too much for a line and headers."""
        if self._is_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # What came with the end of the headers is no head: only one that is not complete yet can be too long.
        if self._is_head and self._head_bytes > self.head_bytes_max and not self.transport.is_closing():
            self.transport.write(_TOO_LONG)
            self.transport.close()
        elif self._head_timer is None and (self._has_begun or self._is_idle_for_good()):
            # The head's rest is yet to come, or this was nothing of a request: an empty line, or what is left of one
            # that was answered before its end. Most heads come in one piece, and need no timer.
            self._await_head()

    def pause_writing(self) -> None:
        """Wait for a caller that does not read its answers, but not for long."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.head_s_max, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that asks nothing more."""
        self._give_up()

    def on_message_begin(self) -> None:
        """Wait for the rest of a request that has begun. Raises PipelineError."""
        if len(self.pipeline) >= PIPELINED_MAX:
            raise PipelineError
        super().on_message_begin()
        self._has_begun = True

    def on_headers_complete(self) -> None:
        """Take the request."""
        self._is_head = self._has_begun = False
        self._stop_waiting()
        before = self.cycle
        super().on_headers_complete()
        if (cycle := self.cycle) is not before:
            cycle.transport = OneWrite(self.transport)

    def on_message_complete(self) -> None:
        """Be ready for the next one."""
        super().on_message_complete()
        self._is_head, self._head_bytes = True, 0
        self.scope.setdefault("state", {})[BODY_IS_HERE] = True

    def _is_idle_for_good(self) -> bool:
        return self.timeout_keep_alive_task is None and self._is_idle()

    def _is_idle(self) -> bool:
        # uvicorn's attribute is None before the first request.
        return not self.cycle or self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_s_max, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # what its caller does not read would keep it open
        else:
            self.transport.close()


def bounded(bytes_max: int, s_max: float) -> type[BoundedProtocol]:
    """Return the protocol with these bounds."""

    class Bounded(BoundedProtocol):
        head_bytes_max = bytes_max
        head_s_max = s_max

    return Bounded
