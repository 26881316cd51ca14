"""kill -9 of a paying process at each disk write of its channel's book, and books that are lost or old.

Whatever was lost, the channel is used again: each page is charged once, there is one deposit, and no voucher allows
more than the pages cost.
"""

import asyncio
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_seller import DEFAULTS, BatchBuyer, BatchSeller, tell_held
from payer_buyer import OpenWallet
from payer_fakes import PRICE, FakeAggregator, no_sleep, served, write_operator_file

from tallystick.signatures import Signer
from tallystick_client import Budgets, Operator, PayingTransport
from tallystick_client.payer.errors import BudgetExceededError, ChannelDisputedError
from tallystick_client.payer.wallet.schemes.batch_settlement import BatchSettlementScheme

SCRIPT = Path(__file__).parent / "batch_payer.py"
KEY = bytes([0x31] * 32)
PATHS = ["/1", "/2", "/3"]
AGAIN = "/again"
BUDGET = (len(PATHS) + 1) * PRICE
"""What the pages cost, and not an atomic unit more: a voucher that runs ahead has no room."""


class Paying:
    """One payer's processes, one after the other, on one book."""

    def __init__(self, folder: Path, operator: Operator, aggregator: FakeAggregator) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.seller = BatchSeller()
        tell_held(aggregator, self.seller, Signer(KEY).address)
        self.operator = folder / "operator.json"
        write_operator_file(operator, self.operator)
        self.got: list[str] = []

    async def run(self, paths: list[str], at: int = 0, moment: str = "") -> int:
        """Buy what is not bought yet, in a process that is killed at this write; its number of writes, or -9."""
        async with served(self.seller) as port:  # type: ignore[arg-type]
            self.seller.receiver = lambda _: bytes([0x5E] * 20)  # type: ignore[method-assign]
            order = {
                "wallet": str(self.folder / "wallet.db"),
                "key": KEY.hex(),
                "operator": str(self.operator),
                "url": f"http://127.0.0.1:{port}",
                "budget": BUDGET,
                "paths": [path for path in paths if path not in self.got],
                "at": at,
                "moment": moment,
            }
            child = await asyncio.create_subprocess_exec(
                sys.executable, str(SCRIPT), json.dumps(order), stdout=asyncio.subprocess.PIPE
            )
            output, _ = await asyncio.wait_for(child.communicate(), 30)
        lines = output.decode().split()
        self.got += [line for line in lines if line.startswith("/")]
        return int(lines[-1]) if child.returncode == 0 else int(child.returncode or 0)


@pytest.mark.timeout(300)
async def test_a_kill_at_any_write_of_the_book_pays_for_no_page_twice(
    tmp_path: Path, operator: Operator, aggregator: FakeAggregator
) -> None:
    writes = await Paying(tmp_path / "count", operator, aggregator).run(PATHS)
    assert writes >= len(PATHS) + 1
    for at in range(1, writes + 1):
        for moment in ("before", "within", "after"):
            case = f"{moment}-{at}"
            paying = Paying(tmp_path / case, operator, aggregator)
            assert await paying.run(PATHS, at, moment) == -9, case
            assert await paying.run([*PATHS, AGAIN]) >= 1, case
            seller = paying.seller
            assert sorted(paying.got) == sorted([*PATHS, AGAIN]) == sorted(seller.served), case
            assert seller.facilitator.channel.charged == BUDGET == max(seller.ceilings), case
            assert len(seller.facilitator.channel.salts) == 1, case
            most = 0
            for ceiling in seller.ceilings:
                assert ceiling <= most + PRICE, case
                most = max(most, ceiling)


# Books that are lost, or old copies.


@pytest.fixture
def shop() -> BatchSeller:
    return BatchSeller()


@pytest.fixture
def open_buyer(open_wallet: OpenWallet, shop: BatchSeller, aggregator: FakeAggregator) -> Callable[..., Any]:
    async def open_(path: Path, **settings: Any) -> BatchBuyer:
        schemes = (BatchSettlementScheme(sleep=no_sleep),)
        wallet = await open_wallet(path=path, **{**DEFAULTS, "schemes": schemes, **settings})
        tell_held(aggregator, shop, wallet.address)
        return BatchBuyer(wallet, shop, PayingTransport(wallet, shop, sleep=no_sleep))

    return open_


async def copies(open_buyer: Callable[..., Any], folder: Path) -> list[Path]:
    """Copies of one book, after no page and after each of four."""
    found = []
    for number in range(5):
        buyer = await open_buyer(folder / "book.db")
        if number:
            assert (await buyer.get(f"/{number}")).status_code == 200
        await buyer.wallet.close()
        found.append(folder / f"copy-{number}.db")
        shutil.copy(folder / "book.db", found[-1])
    return found


@pytest.mark.parametrize("pages", [0, 1, 2, 4])
async def test_a_copy_of_the_book_goes_on_with_the_channel_from_the_sellers_proof(
    open_buyer: Callable[..., Any], shop: BatchSeller, tmp_path: Path, pages: int
) -> None:
    book = (await copies(open_buyer, tmp_path))[pages]
    refused = int(pages < 4)  # the voucher over the old total, which counts as spent all the same
    buyer = await open_buyer(book, budgets=Budgets(total=(pages + refused + 2) * PRICE))
    for path in ("/next", "/after"):
        assert (await buyer.get(path)).status_code == 200
    assert buyer.channel.counted == buyer.channel.signed == shop.facilitator.channel.charged == 6 * PRICE
    assert max(shop.ceilings) == 6 * PRICE
    assert buyer.channel.balance == shop.facilitator.channel.balance == 50_000, "no second deposit"
    with pytest.raises(BudgetExceededError):
        await buyer.get("/more")
    assert max(shop.ceilings) == 6 * PRICE


async def test_a_copy_that_lacks_one_page_cannot_tell_it_from_the_next_and_pays_that_no_second_time(
    open_buyer: Callable[..., Any], shop: BatchSeller, tmp_path: Path
) -> None:
    buyer = await open_buyer((await copies(open_buyer, tmp_path))[3])
    assert (await buyer.get("/next")).status_code == 402, "as far as this book knows, it was charged for this"
    assert max(shop.ceilings) == 4 * PRICE
    assert (await buyer.get("/next")).status_code == 200
    assert buyer.channel.counted == shop.facilitator.channel.charged == 5 * PRICE


@pytest.mark.parametrize("pages", range(3))
async def test_a_copy_of_the_book_believes_no_total_without_its_own_signature(
    open_buyer: Callable[..., Any], shop: BatchSeller, tmp_path: Path, pages: int
) -> None:
    book = (await copies(open_buyer, tmp_path))[pages]
    buyer = await open_buyer(book)
    shop.lie = lambda extra: {name: said for name, said in extra.items() if name != "voucherState"}
    before = len(shop.ceilings)
    with pytest.raises(ChannelDisputedError, match=f"got 4000 as what was charged, allowed at most {pages + 1}000"):
        await buyer.get("/next")
    assert shop.ceilings[before:] == [(pages + 1) * PRICE], "it allows nothing that was not allowed before"
    assert shop.served == ["/1", "/2", "/3", "/4"]
