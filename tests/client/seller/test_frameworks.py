"""The paywall under FastAPI, Starlette's own ways and a real server."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import fastapi
import grpc
import httpx2
import pytest
import uvicorn
from fastapi.responses import StreamingResponse

from tallystick import x402
from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum
from tallystick_client import Aggregator, Paywall, Rule

SELLER = "0x" + "5e" * 20
RULES = [Rule(path="/articles/*", price="0.001 USDC")]


def fastapi_app(aggregator: Aggregator, rules: list[Rule] = RULES) -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    app.add_middleware(Paywall, aggregator=aggregator, pay_to=SELLER, rules=rules)
    app.state.chunks = 0

    @app.get("/articles/{number}")
    async def article(number: int, request: fastapi.Request) -> dict[str, Any]:
        return {"article": number, "paid": request.scope["tallystick"].amount}

    @app.get("/articles/slow/{number}")
    async def slow(number: int, request: fastapi.Request) -> dict[str, int]:
        while not await request.is_disconnected():  # noqa: ASYNC110 - ASGI has no event for it
            await asyncio.sleep(0.002)
        return {"article": number}

    @app.get("/articles/stream/endless")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                app.state.chunks += 1
                yield b"x" * 100
                await asyncio.sleep(0)

        return StreamingResponse(chunks())

    @app.get("/free")
    async def free() -> str:
        return "free"

    return app


@contextlib.asynccontextmanager
async def serve(app: Any, root_path: str = "") -> AsyncIterator[tuple[str, int]]:
    """A real server on a free port, started and stopped with its lifespan."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None, ws="none", root_path=root_path))
        task = asyncio.create_task(server.serve([listener]))
        async with asyncio.timeout(10):
            while not server.started and not task.done():  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.005)
        yield listener.getsockname()[:2]
        server.should_exit = True
        await task


async def test_fastapi_sells_and_gives_away(running: Any, buyer: Any, fake: Any) -> None:
    async with serve(fastapi_app(running.client())) as (host, port), httpx2.AsyncClient() as http:
        site = f"http://{host}:{port}"
        assert (await http.get(f"{site}/free")).json() == "free"
        assert (await http.head(f"{site}/articles/7")).status_code == 405
        asked = await http.get(f"{site}/articles/7")
        assert buyer.required(asked).resource.url == f"{site}/articles/7"
        payment = buyer.deferred(buyer.terms(asked, "deferred"), "/articles/7")
        paid = await http.get(f"{site}/articles/7", headers=payment)
        assert (paid.status_code, paid.json()) == (200, {"article": 7, "paid": 1000})
        assert buyer.receipt(paid).extra["chargedAmount"] == "1000"
        payment = buyer.deferred(buyer.terms(asked, "deferred"), "/articles/none")
        invalid = await http.get(f"{site}/articles/none", headers=payment)
        assert invalid.status_code == 422
        assert fake.statuses() == ["charged", "released"]


@pytest.mark.parametrize("pattern", ["/articles/*", "/api/articles/*"])
async def test_p1_behind_a_prefix_of_the_server_pages_are_sold_as_clients_see_them(
    running: Any, buyer: Any, pattern: str
) -> None:
    rules = [Rule(path=pattern, price="0.001 USDC", methods=["GET"])]
    async with (
        serve(fastapi_app(running.client(), rules), root_path="/api") as (host, port),
        httpx2.AsyncClient(base_url=f"http://{host}:{port}") as http,
    ):
        # The proxy in front takes /api away; the server puts it back, and so the client's own path is hashed.
        asked = await http.get("/articles/7")
        required = buyer.required(asked)
        assert required.resource.url.endswith("/api/articles/7")
        ahead = x402.read_pay_ahead(required.extensions)
        assert ahead is not None
        assert ahead.covers("GET", b"/api/articles/8")
        payment = buyer.deferred(buyer.terms(asked, "deferred"), "/api/articles/7")
        assert (await http.get("/articles/7", headers=payment)).status_code == 200
        assert (await http.get("/free")).status_code == 200


async def test_p19_a_bare_question_mark_is_sold_by_a_real_server(running: Any, buyer: Any) -> None:
    async with serve(fastapi_app(running.client())) as (host, port), httpx2.AsyncClient() as http:
        page = f"http://{host}:{port}/articles/7?"
        payment = buyer.deferred(buyer.terms(await http.get(page), "deferred"), "/articles/7?")
        assert (await http.get(page, headers=payment)).status_code == 200


async def test_a_client_that_hangs_up_on_a_real_server_is_not_charged(
    running: Any, buyer: Any, fake: Any, until: Any
) -> None:
    app = fastapi_app(running.client())
    async with serve(app) as (host, port), httpx2.AsyncClient() as http:
        asked = await http.get(f"http://{host}:{port}/articles/slow/7")
        payment = buyer.deferred(buyer.terms(asked, "deferred"), "/articles/slow/7")["PAYMENT-SIGNATURE"]
        _, writer = await asyncio.open_connection(host, port)
        writer.write(f"GET /articles/slow/7 HTTP/1.1\r\nHost: x\r\nPAYMENT-SIGNATURE: {payment}\r\n\r\n".encode())
        await until(lambda: "reserved" in fake.statuses())
        writer.close()
        await writer.wait_closed()
        await until(lambda: "reserved" not in fake.statuses())
    assert fake.statuses() == ["released"]


async def test_a_stream_refused_at_its_first_byte_ends(running: Any, buyer: Any, fake: Any, refusal_of: Any) -> None:
    app = fastapi_app(running.client())
    async with serve(app) as (host, port), httpx2.AsyncClient() as http:
        page = f"http://{host}:{port}/articles/stream/endless"
        payment = buyer.deferred(buyer.terms(await http.get(page), "deferred"), "/articles/stream/endless")
        fake.settle_trouble = [refusal_of("INSUFFICIENT_CEILING")]
        assert (await http.get(page, headers=payment)).status_code == 402
        # While these are served, a stream that goes on would make hundreds of chunks.
        for _ in range(3):
            assert (await http.get(f"http://{host}:{port}/free")).status_code == 200
        assert app.state.chunks <= 2


async def test_a_stream_that_is_paid_flows(running: Any, buyer: Any, fake: Any) -> None:
    async with serve(fastapi_app(running.client())) as (host, port), httpx2.AsyncClient() as http:
        page = f"http://{host}:{port}/articles/stream/endless"
        payment = buyer.deferred(buyer.terms(await http.get(page), "deferred"), "/articles/stream/endless")
        async with http.stream("GET", page, headers=payment) as response:
            assert response.status_code == 200
            assert fake.statuses() == ["charged"]
            received = 0
            async for chunk in response.aiter_bytes():
                received += len(chunk)
                if received > 10_000:
                    break


async def why_it_does_not_start(running: Any, rules: Any = RULES) -> str:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    events: asyncio.Queue[Any] = asyncio.Queue()
    events.put_nowait({"type": "lifespan.startup"})
    async with running.client() as aggregator:
        app = fastapi_app(aggregator, rules)
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, events.get, send)
    assert [message["type"] for message in messages] == ["lifespan.startup.failed"]
    return str(messages[0]["message"])


async def test_the_server_does_not_start_with_a_price_that_cannot_be_asked_for(running: Any) -> None:
    assert await why_it_does_not_start(running, [*RULES, Rule(path="/eu/*", price="0.001 EURC")]) == (
        "rule '/eu/*': price: got '0.001 EURC', allowed a token that the aggregator takes: USDC on eip155:31337"
    )


async def test_the_server_does_not_start_with_an_address_that_the_token_is_not_for(running: Any, fake: Any) -> None:
    theirs = bytes([0xAA] * 20), bytes([0xBB] * 20)
    fake.receivers = theirs
    assert await why_it_does_not_start(running) == (
        f"pay_to: got {checksum(bytes.fromhex(SELLER[2:]))}, allowed a receiver of the aggregator's token: "
        f"{checksum(theirs[0])}, {checksum(theirs[1])}"
    )


async def test_the_server_does_not_start_with_a_token_that_may_not_charge(running: Any, fake: Any) -> None:
    fake.scopes = ["read", "settle"]
    assert await why_it_does_not_start(running) == (
        "token: got one with the scopes read, settle, allowed one with the scope charge"
    )


async def test_the_server_does_not_start_with_a_token_that_the_aggregator_rejects(running: Any, fake: Any) -> None:
    fake.supported_trouble = [grpc.StatusCode.UNAUTHENTICATED]
    assert await why_it_does_not_start(running) == "the aggregator rejected the call (UNAUTHENTICATED): not for you"


async def test_an_aggregator_that_does_not_tell_whom_a_token_is_for_is_taken(running: Any, fake: Any) -> None:
    fake.receivers, fake.scopes = [], []
    async with serve(fastapi_app(running.client())) as (host, port), httpx2.AsyncClient() as http:
        assert (await http.get(f"http://{host}:{port}/articles/1")).status_code == 402


async def test_nobody_is_asked_to_sign_what_cannot_be_charged(open_shop: Any, fake: Any) -> None:
    """Where the server does not tell that it starts, the first request finds out."""
    fake.receivers = [bytes([0xAA] * 20)]
    answer = await open_shop().http.get("/articles/1")
    assert answer.status_code == 500


async def test_the_server_starts_though_the_aggregator_is_away(running: Any, caplog: Any) -> None:
    await running.stop()
    async with serve(fastapi_app(running.client())) as (host, port), httpx2.AsyncClient() as http:
        assert (await http.get(f"http://{host}:{port}/free")).status_code == 200
        assert (await http.get(f"http://{host}:{port}/articles/1")).status_code == 503
    assert "prices are not checked" in caplog.text


async def test_the_connection_is_closed_when_the_server_stops(running: Any) -> None:
    aggregator = running.client()
    async with serve(fastapi_app(aggregator)):
        assert aggregator._connected is not None
    assert aggregator._connected is None


async def test_an_application_without_lifespan_works(open_shop: Any) -> None:
    async def bare(scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError(f"no {scope['type']} here")

    shop = open_shop()
    shop.paywall.app = bare
    with pytest.raises(RuntimeError, match="no lifespan here"):
        await shop.paywall({"type": "lifespan"}, None, None)


async def test_websockets_pass(open_shop: Any) -> None:
    seen: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    shop = open_shop(rules=[Rule(path="*", price="1 USDC")])
    shop.paywall.app = app
    await shop.paywall({"type": "websocket", "path": "/articles/1"}, None, None)
    assert seen == ["websocket"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pay_to": "0x12"}, "pay_to: got 0x and 2 hex digits"),
        ({"pay_to": "0x" + "00" * 20}, "pay_to: got '0x00"),
        ({"rules": []}, "rules: got none, allowed at least one Rule"),
        ({"network": "base"}, "network: got 'base', allowed a CAIP-2 name"),
        ({"max_body_bytes": -1}, "max_body_bytes: got -1, allowed an integer of at least 0"),
        ({"keep_responses_bytes": 1.5}, "keep_responses_bytes: got a value of type float"),
        ({"max_timeout_s": 0}, "max_timeout_s: got 0, allowed an integer of at least 1"),
    ],
)
def test_a_wrong_setting_is_told(settings: dict[str, Any], message: str) -> None:
    aggregator = Aggregator("127.0.0.1:1", token="t")
    with pytest.raises(MalformedError) as caught:
        Paywall(None, **{"aggregator": aggregator, "pay_to": SELLER, "rules": RULES, **settings})  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("path", ["/articles/1", "/robots.txt", "/.well-known/x402"])
async def test_head_and_what_crawlers_read_first_are_free(open_shop: Any, path: str, fake: Any) -> None:
    shop = open_shop(rules=[Rule(path="*", price="1 USDC")])
    response = await shop.http.head(path) if path.startswith("/articles") else await shop.http.get(path)
    assert response.status_code == 200
    assert "cache-control" not in response.headers
    assert fake.calls == []
