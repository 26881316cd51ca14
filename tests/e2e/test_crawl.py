"""A crawl of a site with free pages, cheap pages and one dear page, against a running paywall and aggregator."""

import asyncio
import random
from typing import Any

import httpx2
import pytest
from market import PRICE, Market

from tallystick_client import Budgets, PayingTransport
from tallystick_client.payer.errors import BudgetExceededError

AT_ONCE = 16


@pytest.mark.parametrize("pages", [50, pytest.param(1_000, marks=pytest.mark.timeout(600))])
async def test_w1_a_crawl_reads_every_page_but_the_dear_one_and_pays_each_once(
    market: Market, shopper: Any, pages: int
) -> None:
    cheap = [f"cheap-{pages}-{number}" for number in range(pages)]
    free = [f"free-{pages}-{number}" for number in range(pages)]
    names = [*cheap, *free]
    random.Random(pages).shuffle(names)
    names.insert(pages // 2, "dear")
    refused: list[BudgetExceededError] = []
    turn = asyncio.Semaphore(AT_ONCE)

    async with shopper(budgets=Budgets(per_request="0.01"), name=f"crawl-{pages}") as payer:

        async def read(name: str) -> None:
            async with turn:
                try:
                    answer = await payer.http.get(f"/site/{name}")
                except BudgetExceededError as error:
                    assert name == "dear"
                    refused.append(error)
                    return
                assert (answer.status_code, answer.json()) == (200, f"site {name}")
                charged = answer.extensions["payment"].charged if "payment" in answer.extensions else 0
                assert charged == (PRICE if name.startswith("cheap") else 0)

        await asyncio.gather(*map(read, names))
        await payer.wallet.flush()
        (account,) = (await payer.wallet.status()).accounts
    assert [error.budget for error in refused] == ["per_request"]
    assert (account.charged, account.unknown, account.disputed) == (pages * PRICE, 0, 0)
    handled = (market.folder / "handled.log").read_text().splitlines()
    served = [line.removeprefix("site ") for line in handled if line.startswith("site ")]
    assert sorted(name for name in served if f"-{pages}-" in name) == sorted([*cheap, *free])
    assert "dear" not in served


class Counting(httpx2.AsyncHTTPTransport):
    """Counts what goes over the wire."""

    count = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.count += 1
        return await super().handle_async_request(request)


async def test_w6_payments_are_sent_ahead_where_the_paywall_published_its_price(market: Market, shopper: Any) -> None:
    async with shopper(name="ahead") as payer:
        wire = Counting()
        async with httpx2.AsyncClient(transport=PayingTransport(payer.wallet, wire), base_url=market.url) as http:
            for number in range(10):
                assert (await http.get(f"/paid/page/ahead-{number}")).status_code == 200
            assert wire.count == 11
            assert (await http.get("/site/free-ahead")).status_code == 200
            assert (await http.get("/free")).status_code == 200
            assert wire.count == 13
            # Inside the pattern, and not to be had: answered as free, and no longer paid for ahead.
            assert (await http.get("/paid/missing")).extensions["payment"].charged == 0
        (account,) = (await payer.wallet.status()).accounts
    assert (account.charged, account.unknown) == (10 * PRICE, 0)
