"""What a stranger can do with connections alone: none stays for longer than it may, and none takes more than it may."""

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_twin import HttpEdge, http_edge

from tallystick_aggregator.api.http.connections import PIPELINED_MAX, OneWrite
from tallystick_aggregator.api.http.limits import HttpLimits

GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
WITHIN_S = 8.0
"""Many times what the limits allow; without them a connection stays for ever."""


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[HttpEdge]:
    """A server that waits for half a second, and for a second between requests."""
    async with http_edge(tmp_path, limits=HttpLimits(head_s_max=0.5, body_s_max=0.5, idle_s_max=1.0)) as edge:
        yield edge


class Written(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, written: list[bytes]) -> None:
        super().__init__()
        self._written = written
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written.append(bytes(data))

    def close(self) -> None:
        self._is_closing = True

    def is_closing(self) -> bool:
        return self._is_closing


@pytest.fixture
def written() -> list[bytes]:
    return []


async def until_closed(edge: HttpEdge, first: bytes, then: bytes = b"") -> bytes:
    """Send, read the answer, send the rest; returns all that came, once the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.server.port)
    try:
        writer.write(first)
        async with asyncio.timeout(WITHIN_S):
            answer = await reader.read(65_536)
            writer.write(then)
            return answer + await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("then", [b"", b"\r\n", b"G"], ids=["silence", "an empty line", "a letter"])
async def test_a_connection_without_a_further_request_is_closed(hasty: HttpEdge, then: bytes) -> None:
    assert b" 200 " in await until_closed(hasty, GET, then)


async def test_what_is_left_of_a_request_that_was_answered_keeps_no_connection(hasty: HttpEdge) -> None:
    """401 comes before the body; what is sent of that afterwards is nothing that anybody waits for."""
    head = b"POST /verify HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n"
    assert b" 401 " in await until_closed(hasty, head, b"{")


async def test_few_requests_of_a_connection_wait_for_an_earlier_one(hasty: HttpEdge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty.server.port)
    writer.write(GET * (PIPELINED_MAX + 1))
    assert (await reader.read()).count(b" 200 ") == PIPELINED_MAX + 1
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty.server.port)
    writer.write(GET * (PIPELINED_MAX + 2))
    assert (await reader.read()).count(b" 200 ") == 0
    writer.close()


async def test_connections_beyond_the_most_are_closed_before_they_ask(tmp_path: Path) -> None:
    async with http_edge(tmp_path, limits=HttpLimits(connections_max=3)) as edge:
        opened = [await asyncio.open_connection("127.0.0.1", edge.server.port) for _ in range(2)]
        # The last one is answered that there are too many, the one beyond it not at all.
        assert b" 503 " in await until_closed(edge, GET)
        opened.append(await asyncio.open_connection("127.0.0.1", edge.server.port))
        assert await until_closed(edge, b"") == b""
        for _, writer in opened:
            writer.close()


async def test_an_answers_head_and_body_are_written_at_once(written: list[bytes]) -> None:
    """One system call for each answer, and one packet; with `100 Continue` before it where that is waited for."""
    transport = OneWrite(Written(written))
    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert written == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    transport.write(b"body")
    transport.write(b"more")
    assert written[1:] == [b"HTTP/1.1 200 OK\r\n\r\nbody", b"more"]


async def test_a_head_whose_body_never_comes_is_written_before_the_end(written: list[bytes]) -> None:
    beneath = Written(written)
    transport = OneWrite(beneath)
    transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert (written, transport.is_closing()) == ([], False)
    transport.close()
    assert (written, transport.is_closing()) == ([b"HTTP/1.1 200 OK\r\n\r\n"], True)


async def test_a_body_that_is_waited_for_is_asked_for_at_once(hasty: HttpEdge) -> None:
    head = b"POST /verify HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n"
    token = b"authorization: " + hasty.news["authorization"].encode() + b"\r\n\r\n"
    answer = await until_closed(hasty, head + token, b"{}")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 "), answer


async def test_who_does_not_read_the_answers_is_cut_off(hasty: HttpEdge) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.setblocking(False)
        await loop.sock_connect(deaf, ("127.0.0.1", hasty.server.port))

        async def ask_on() -> None:
            while True:
                await loop.sock_sendall(deaf, b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n")
                await asyncio.sleep(0)

        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            await asyncio.wait_for(ask_on(), WITHIN_S)


async def test_what_is_no_request_writes_no_line_to_the_log(hasty: HttpEdge, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nnoise"
    with caplog.at_level(logging.DEBUG):
        for data in (b"noise\r\n\r\n", upgrade, GET * (PIPELINED_MAX + 2)):
            await until_closed(hasty, data)
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


def test_the_process_takes_all_the_open_files_that_it_may_have() -> None:
    """In a process of its own, which may have fewer at first, as on many systems."""
    program = (
        "import resource as r; hard = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (256, hard));"
        "from tallystick_aggregator.runtime.serve import tune; tune();"
        "print(r.getrlimit(r.RLIMIT_NOFILE) == (hard, hard))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "True"
