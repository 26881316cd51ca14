"""The two ends of a request: what is read ahead is given on, and who left is noticed."""

import asyncio
from typing import Any

import pytest

from tallystick.errors import MalformedError
from tallystick_client.seller.paywall.asgi import request_head
from tallystick_client.seller.paywall.bodies import Backpressure, Incoming
from tallystick_client.seller.paywall.headers import make_private
from tallystick_client.seller.paywall.outgoing import Outgoing, ResponseRefusedError, Stage
from tallystick_client.seller.paywall.steps import ClientGoneError, RequestHead


def chunk(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


def incoming(*messages: dict[str, Any], room: Backpressure | None = None) -> tuple[Incoming, asyncio.Queue[Any]]:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    for message in messages:
        queue.put_nowait(message)
    return Incoming(queue.get, room or Backpressure(1_000)), queue


async def test_a_body_read_ahead_reaches_the_application_once_and_whole() -> None:
    request, queue = incoming(chunk(b"a", more=True), chunk(b"b"))
    assert await request.read_ahead(10) == b"ab"
    assert await request.read_ahead(10) == b"ab"
    assert await request.receive() == chunk(b"ab")
    queue.put_nowait(GONE)
    assert await request.receive() == GONE
    assert await request.receive() == GONE, "a disconnect is told as often as it is asked for"


async def test_a_body_that_grows_too_large_is_not_read_to_its_end() -> None:
    request, queue = incoming(chunk(b"abc", more=True), chunk(b"d", more=True), chunk(b"e"))
    assert await request.read_ahead(3) is None
    assert queue.qsize() == 1
    assert [await request.receive() for _ in range(3)] == [
        chunk(b"abc", more=True),
        chunk(b"d", more=True),
        chunk(b"e"),
    ]


async def test_a_client_that_leaves_while_its_body_is_read_is_noticed() -> None:
    request, _ = incoming(chunk(b"a", more=True), GONE)
    with pytest.raises(ClientGoneError):
        await request.read_ahead(10)


async def test_a_client_that_waits_is_there() -> None:
    request, _ = incoming(chunk(b""))
    assert not await request.is_client_gone()
    assert await request.receive() == chunk(b"")
    assert not await request.is_client_gone()
    await request.close()


async def test_a_client_that_left_is_noticed_behind_an_unread_body() -> None:
    request, _ = incoming(chunk(b"a"), GONE)
    assert await request.is_client_gone()
    assert await request.receive() == chunk(b"a")
    assert await request.receive() == GONE


async def test_a_body_that_is_streamed_up_is_not_read_past_its_next_chunk() -> None:
    request, queue = incoming(chunk(b"a", more=True), chunk(b"b", more=True))
    assert not await request.is_client_gone()
    assert queue.qsize() == 1
    assert [await request.receive(), await request.receive()] == [chunk(b"a", more=True), chunk(b"b", more=True)]


async def test_who_listens_for_a_disconnect_hears_of_it_though_the_paywall_asked_first() -> None:
    request, queue = incoming(chunk(b""))
    await request.receive()
    listener = asyncio.create_task(request.receive())
    assert not await request.is_client_gone()
    queue.put_nowait(GONE)
    assert await listener == GONE
    assert await request.is_client_gone()


async def test_a_listener_that_gives_up_takes_nothing_with_it() -> None:
    request, queue = incoming()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(request.receive(), 0.01)
    queue.put_nowait(chunk(b"late"))
    assert await request.receive() == chunk(b"late")


async def test_nothing_goes_out_before_it_is_decided() -> None:
    events: list[str] = []

    async def send(message: Any) -> None:
        events.append(message["type"])

    async def decide(start: Any, first: Any) -> Any:
        events.append(f"decide {start['status']} {first['body']!r}")
        return start

    response = Outgoing(send, decide)
    await response.send({"type": "http.response.early_hint", "links": []})
    await response.send({"type": "http.response.start", "status": 200})
    assert events == ["http.response.early_hint"]
    await response.send({"type": "http.response.body", "body": b"a", "more_body": True})
    await response.send({"type": "http.response.body", "body": b""})
    assert events[1:] == [
        "decide 200 b'a'",
        "http.response.start",
        "http.response.body",
        "http.response.body",
    ]
    assert response.stage is not Stage.HELD


async def test_a_refused_response_stays_inside_and_stops_its_sender() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def decide(_start: Any, _first: Any) -> None:
        return None

    response = Outgoing(send, decide)
    await response.send({"type": "http.response.start", "status": 200})
    await response.send({"type": "http.response.body", "body": b"secret", "more_body": True})
    with pytest.raises(ResponseRefusedError):
        await response.send({"type": "http.response.body", "body": b"secret"})
    assert (sent, response.stage) == ([], Stage.REFUSED)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], b"private"),
        ([b"public, max-age=60"], b"private, max-age=60"),
        ([b"Public", b"s-maxage=9"], b"private"),
        ([b"max-age=60"], b"private, max-age=60"),
        ([b"no-cache"], b"private, no-cache"),
        ([b"no-store"], b"no-store"),
        ([b"private, max-age=5"], b"private, max-age=5"),
        ([b"public, no-store"], b"public, no-store"),
    ],
)
def test_paid_pages_are_private_or_stricter(before: list[bytes], after: bytes) -> None:
    headers = [(b"x", b"y"), *((b"Cache-Control", value) for value in before)]
    assert make_private(headers) == [(b"x", b"y"), (b"vary", b"PAYMENT-SIGNATURE"), (b"cache-control", after)]


def head(**values: Any) -> RequestHead:
    scope = {"method": "GET", "path": "/a b", "raw_path": b"/a%20b", "query_string": b"", "headers": [], **values}
    return request_head(scope)


def test_the_target_is_what_stood_on_the_request_line() -> None:
    assert head().target == b"/a%20b"
    assert head(raw_path=b"/%61%2Fb", query_string=b"x=%20&&").target == b"/%61%2Fb?x=%20&&"


def test_a_server_that_keeps_no_raw_path_gets_one() -> None:
    assert head(raw_path=None, query_string=b"q").target == b"/a%20b?q"


def test_the_url_names_the_host_that_was_asked_for_or_else_the_server() -> None:
    assert head(scheme="https", headers=[(b"host", b"a.test:8443")]).url == "https://a.test:8443/a%20b"
    assert head(server=("127.0.0.1", 80)).url == "http://127.0.0.1:80/a%20b"
    assert head(server=("/run/app.sock", None)).url == "http:///run/app.sock/a%20b"
    assert head().url == "http://localhost/a%20b"


def test_a_length_counts_only_where_the_body_is_not_chunked() -> None:
    length = (b"content-length", b"5")
    assert head().content_length is None
    assert head(headers=[length]).content_length == 5
    assert head(headers=[length, (b"transfer-encoding", b"chunked")]).content_length is None
    with pytest.raises(MalformedError, match="Content-Length: got '-5'"):
        assert head(headers=[(b"content-length", b"-5")]).content_length is None
