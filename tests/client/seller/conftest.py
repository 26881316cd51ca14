"""What the sellers' tests share; their helpers are importable by name."""

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

sys.path.append(str(Path(__file__).parent))

from seller_fakes import SELLER, FakeAggregator, Running, refusal, start_server
from seller_shop import Buyer, Exchange, Message, Shop, hello

from tallystick.v1 import common_pb2
from tallystick_client import Aggregator, Paywall, Rule


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    started = await start_server(FakeAggregator())
    yield started
    await started.stop()


@pytest.fixture
def restart() -> Callable[[FakeAggregator, int], Awaitable[Running]]:
    return start_server


@pytest.fixture
def fake(running: Running) -> FakeAggregator:
    return running.fake


@pytest.fixture
async def aggregator(running: Running) -> AsyncIterator[Aggregator]:
    async with running.client(timeout_s=2.0, chain_timeout_s=2.0) as client:
        yield client


@pytest.fixture
def buyer() -> Buyer:
    return Buyer()


OpenShop = Callable[..., Shop]


@pytest.fixture
async def open_shop(aggregator: Aggregator, buyer: Buyer) -> AsyncIterator[OpenShop]:
    """Opens shops: `open_shop(handler, rules=..., **settings)`. A handler is an ASGI application."""
    clients: list[httpx2.AsyncClient] = []
    shops: list[Shop] = []

    def open_(handler: Any = None, *, rules: Any = None, **settings: Any) -> Shop:
        async def app(scope: Message, receive: Any, send: Any) -> None:
            shops[index].served.append(scope["path"])
            await (handler or hello)(scope, receive, send)

        index = len(shops)
        settings.setdefault("aggregator", aggregator)
        settings.setdefault("settle_patience_s", 0.5)
        paywall = Paywall(
            app,
            pay_to="0x" + SELLER.hex(),
            rules=rules or [Rule(path="/articles/*", price="0.001 USDC")],
            **settings,
        )
        client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(paywall, raise_app_exceptions=False), base_url="http://shop.test"
        )
        clients.append(client)
        shops.append(Shop(paywall, client, buyer))
        return shops[index]

    yield open_
    for shop in shops:
        await shop.paywall.finish()
    for client in clients:
        await client.aclose()


@pytest.fixture
def exchange() -> Callable[..., Exchange]:
    def make(app: Any, target: str, headers: dict[str, str], *, method: str = "GET", body: bytes = b"") -> Exchange:
        path, _, query = target.partition("?")
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "server": ("shop.test", 80),
        }
        made = Exchange(app, scope)
        made.incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        return made

    return make


@pytest.fixture
def refusal_of() -> Callable[..., common_pb2.Refusal]:
    return refusal


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Waits until a condition holds, which may be a coroutine's, for at most ten seconds."""

    async def wait(condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not (await holds if inspect.isawaitable(holds := condition()) else holds):  # noqa: ASYNC110 - conditions of all kinds
                await asyncio.sleep(0.002)

    return wait
