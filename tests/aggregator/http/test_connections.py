"""What a stranger can do with connections alone: none stays for longer than it may, and none takes more than it may."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_twin import HttpEdge, http_edge

from tallystick_aggregator.api.http.connections import PIPELINED_MAX
from tallystick_aggregator.api.http.limits import HttpLimits

GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
WITHIN_S = 8.0
"""Many times what the limits allow; without them a connection stays for ever."""


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[HttpEdge]:
    """A server that waits for half a second, and for a second between requests."""
    async with http_edge(tmp_path, limits=HttpLimits(head_s_max=0.5, body_s_max=0.5, idle_s_max=1.0)) as edge:
        yield edge


async def until_closed(edge: HttpEdge, first: bytes, then: bytes = b"") -> bytes:
    """Send, read the answer, send the rest; returns all that came, once the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.server.port)
    try:
        writer.write(first)
        answer = await reader.read(65_536)
        writer.write(then)
        async with asyncio.timeout(WITHIN_S):
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
