"""kill -9 of the aggregator between charges: everything that was accepted is there, exactly once."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from market import PRICE, Market, tallystick

from tallystick_client import DepositPolicy, PayingTransport, Wallet
from waiting import until


@pytest.mark.timeout(180)
async def test_what_was_accepted_before_a_kill_is_settled_after_it(tmp_path: Path) -> None:
    with Market(tmp_path) as market:
        wallet = await Wallet.open(
            tmp_path / "wallet.db",
            key=market.payer(),
            operators=[market.operator],
            deposit=DepositPolicy(low="0.01", high="0.5"),
        )
        transport = PayingTransport(wallet)
        async with wallet, httpx2.AsyncClient(transport=transport, base_url=market.url, timeout=60) as http:
            paid = await fetch(http, "before", 20)
            market.server.kill()
            refused = await http.get("/paid/page/during")
            assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
            market.serve()
            paid += await fetch(http, "after", 20)
            await wallet.reconcile()
            (account,) = (await wallet.status()).accounts
            assert account.charged == paid * PRICE
        tallystick("settle", "--aggregator", market.aggregator, TALLYSTICK_TOKEN=market.seller_token)
        assert market.received() == paid * PRICE


async def fetch(http: httpx2.AsyncClient, name: str, pages: int) -> int:
    """Fetch so many pages at once; all must be served, the aggregator's return awaited."""
    answers: list[Any] = []

    async def is_back() -> bool:
        return (await http.get(f"/paid/page/{name}-probe")).status_code == 200

    await until(is_back, 20)
    answers = await asyncio.gather(*(http.get(f"/paid/page/{name}-{number}") for number in range(pages)))
    assert {answer.status_code for answer in answers} == {200}
    return pages + 1
