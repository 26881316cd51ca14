"""From a price list to its listing, and to a first page that is paid for ahead: a FastAPI site behind the paywall, the
HTTP edge of a running aggregator, and our transport.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from market import PRICE, PRICE_TEXT, Market, tallystick

from tallystick.hexadecimal import checksum
from tallystick.x402 import PAYMENT_SIGNATURE_HEADER
from tallystick_client import Aggregator, DepositPolicy, PayingTransport, Paywall, Rule, Wallet


class ListingMarket(Market):
    """A market whose aggregator is reached over HTTP too, at `http`."""

    def prepare(self) -> None:
        # Spelled otherwise than the server's, whose port a restart keeps.
        self.config.write_text(self.config.read_text() + "\n[http]\nlisten = '127.0.0.1:0'\n")

    def serve(self) -> None:
        super().serve()
        self.http = self.server.wait_for("HTTP facilitator at ")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListingMarket]:
    with ListingMarket(tmp_path_factory.mktemp("listing")) as running:
        yield running


@asynccontextmanager
async def site(market: ListingMarket) -> AsyncIterator[str]:
    """A site that sells /articles/* and has its aggregator list it; its URL."""
    app = FastAPI()

    @app.get("/articles/{name}")
    async def article(name: str) -> str:
        return f"article {name}"

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app.add_middleware(
            Paywall,
            aggregator=Aggregator(market.aggregator, token=market.seller_token),
            pay_to=checksum(market.receiver),
            rules=[Rule(path="/articles/*", price=PRICE_TEXT, description="An article")],
            base_url=url,
            list_resources=True,
        )
        # Before it starts: what is of an origin that is not bound is not listed.
        tallystick("seller", "origins", "shop", url, "--config", str(market.config))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None, ws="none"))
        task = asyncio.create_task(server.serve([listener]))
        try:
            async with asyncio.timeout(20):
                while not server.started and not task.done():  # noqa: ASYNC110 - the server has no event for it
                    await asyncio.sleep(0.005)
            yield url
        finally:
            server.should_exit = True
            await task


class Requests(httpx2.AsyncHTTPTransport):
    """Remembers the paths that were asked for, and how many of them with a payment."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []
        self.payments = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.paths.append(request.url.path)
        self.payments += PAYMENT_SIGNATURE_HEADER in request.headers
        return await super().handle_async_request(request)


async def listed(http: httpx2.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    return list((await http.get(f"/discovery/resources{query}")).json()["items"])


async def test_a_site_is_found_and_its_first_page_is_paid_for_ahead(market: ListingMarket, tmp_path: Path) -> None:
    async with site(market) as url, httpx2.AsyncClient(base_url=market.http, timeout=20) as http:
        async with asyncio.timeout(20):
            while not await listed(http):
                pass
        (found,) = await listed(http, f"?type=http&payTo={checksum(market.receiver)}&scheme=deferred")
        assert (found["resource"], found["description"]) == (url + "/articles/*", "An article")
        assert found["extensions"]["bazaar"]["routeTemplate"] == "/articles/:part1"
        assert {offer["amount"] for offer in found["accepts"]} == {str(PRICE)}
        assert await listed(http, "?scheme=nothing") == []

        wire = Requests()
        wallet = await Wallet.open(
            tmp_path / "wallet.db",
            key=market.payer(),
            operators=[market.operator],
            deposit=DepositPolicy(low="0.01", high="0.5"),
        )
        transport = PayingTransport(wallet, wire, read_manifests=True)
        async with wallet, httpx2.AsyncClient(transport=transport, base_url=url, timeout=60) as buyer:
            pages = [await buyer.get(f"/articles/{name}") for name in ("first", "second")]
            assert [page.json() for page in pages] == ["article first", "article second"]
            assert (await wallet.status()).accounts[0].charged == 2 * PRICE
        # One manifest, and no 402.
        assert wire.paths == ["/.well-known/x402.json", "/articles/first", "/articles/second"]
        assert wire.payments == 2

    # The list is the store's: another process of the aggregator has it.
    market.server.stop()
    market.serve()
    async with httpx2.AsyncClient(base_url=market.http, timeout=20) as http:
        assert [one["resource"] for one in await listed(http)] == [url + "/articles/*"]
        # And the operator's to end.
        tallystick("seller", "origins", "shop", "--config", str(market.config))
        async with asyncio.timeout(20):
            while await listed(http):
                pass
