"""Sellers, aggregators and workers that lie: what is really charged stays within the budgets, and others are paid."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from payer_buyer import REQUEST, OpenWallet
from payer_fakes import PRICE, FakeSeller, make_operator, no_sleep, until
from rogues import (
    LIES_ABOUT_CHARGES,
    Lie,
    LyingAggregator,
    LyingSeller,
    RogueWorker,
    ToServer,
    says_key_unknown,
    says_nothing_charged,
    serving,
)

from tallystick.errors import TallystickError
from tallystick.x402 import PaymentRequired
from tallystick_client import Budgets, DepositPolicy, Operator, PayingTransport, Wallet
from tallystick_client.payer.errors import BudgetExceededError
from tallystick_client.payer.fleet.remote import RemoteWallet
from tallystick_client.payer.fleet.serving import WalletServer
from tallystick_client.payer.wallet.grants import Payment
from tallystick_client.payer.wallet.recovery import NEW_KEYS_MAX

PER_DAY = 50 * PRICE
PER_HOST = 12 * PRICE


@pytest.fixture
async def aggregator() -> AsyncIterator[LyingAggregator]:
    liar = LyingAggregator()
    await liar.start()
    yield liar
    await liar.stop()


@pytest.fixture
def operator(aggregator: LyingAggregator) -> Operator:
    return make_operator(aggregator.target)


@pytest.fixture
def liar(aggregator: LyingAggregator, operator: Operator) -> LyingSeller:
    return LyingSeller(aggregator, operator)


@pytest.fixture
async def site(liar: LyingSeller) -> AsyncIterator[ToServer]:
    async with serving(liar) as transport:
        yield transport


@pytest.fixture
async def honest(aggregator: LyingAggregator, operator: Operator) -> AsyncIterator[ToServer]:
    async with serving(FakeSeller(aggregator, operator)) as transport:
        yield transport


async def crawl(wallet: Wallet, transport: ToServer, hosts: str, pages: int) -> int:
    """Read pages of these hosts in turn, whatever comes of it; how many were read."""
    read = 0
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, transport, sleep=no_sleep)) as http:
        for number in range(pages):
            for host in hosts:
                try:
                    read += (await http.get(f"http://{host}.example/{number}")).status_code == 200
                except TallystickError:
                    continue
    return read


@pytest.mark.parametrize("hoards", [False, True])
@pytest.mark.parametrize("lie", LIES_ABOUT_CHARGES)
async def test_w3_budgets_hold_under_sellers_that_lie_about_what_they_charged(
    open_wallet: OpenWallet,
    liar: LyingSeller,
    site: ToServer,
    honest: ToServer,
    aggregator: LyingAggregator,
    lie: Lie,
    *,
    hoards: bool,
) -> None:
    wallet = await open_wallet(
        budgets=Budgets(per_request=PRICE, per_host=PER_HOST, per_day=PER_DAY), deposit=DepositPolicy("0.1", "1")
    )
    liar.lie, liar.hoards = lie, hoards
    for round_ in range(2):
        await crawl(wallet, site, "pqr", 12)
        liar.take_all()
        if round_ == 0:
            await wallet.reconcile()
    # Three liars have at most their hosts' budgets, and what is left of the day is there for the honest.
    assert all(channel.charged <= PER_HOST for channel in aggregator.account.channels.values())
    assert aggregator.account.committed <= 3 * PER_HOST
    assert await crawl(wallet, honest, "a", 10) == 10
    await wallet.reconcile()
    liar.take_all()
    assert aggregator.account.committed <= PER_DAY
    account = (await wallet.status()).accounts[0]
    assert account.charged + account.disputed + account.unknown >= aggregator.account.committed


async def test_w3_what_a_seller_denied_is_free_again_once_the_aggregator_was_asked(
    open_wallet: OpenWallet, liar: LyingSeller, site: ToServer, honest: ToServer, aggregator: LyingAggregator
) -> None:
    wallet = await open_wallet(budgets=Budgets(total=10 * PRICE))
    liar.lie, liar.hoards = says_nothing_charged, True
    assert await crawl(wallet, site, "pqrstuvw", 1) == 8
    assert await crawl(wallet, honest, "a", 10) < 10
    await wallet.reconcile()
    liar.take_all()
    assert await crawl(wallet, honest, "b", 10) >= 7
    assert aggregator.account.committed <= 10 * PRICE


async def test_w2_a_seller_that_calls_every_key_unknown_makes_the_wallet_register_none(
    open_wallet: OpenWallet, liar: LyingSeller, site: ToServer, honest: ToServer, aggregator: LyingAggregator
) -> None:
    aggregator.keys_max = 4
    wallet = await open_wallet()
    liar.lie, liar.hoards = says_key_unknown, True
    await crawl(wallet, site, "pqr", 60)
    assert aggregator.calls.count("RegisterSpendKey") == 1
    assert aggregator.calls.count("GetAccount") <= 30
    assert await crawl(wallet, honest, "a", 10) == 10
    assert aggregator.account.committed == 10 * PRICE


async def test_w2_an_aggregator_that_forgets_keys_makes_the_wallet_register_a_few(
    open_wallet: OpenWallet, liar: LyingSeller, site: ToServer, aggregator: LyingAggregator
) -> None:
    wallet = await open_wallet()
    aggregator.forgets_keys = True
    liar.lie, liar.hoards = says_key_unknown, True
    await crawl(wallet, site, "abcdefghijklmnopqrstuvwxyz", 8)
    assert aggregator.calls.count("RegisterSpendKey") <= 1 + NEW_KEYS_MAX


async def test_w2_a_key_that_the_aggregator_lost_is_replaced(
    open_wallet: OpenWallet, honest: ToServer, aggregator: LyingAggregator
) -> None:
    wallet = await open_wallet()
    assert await crawl(wallet, honest, "a", 3) == 3
    aggregator.account.keys.clear()
    assert await crawl(wallet, honest, "a", 3) == 3
    assert aggregator.calls.count("RegisterSpendKey") == 2


@pytest.mark.parametrize("loses", [False, True])
async def test_w2_short_runs_do_not_use_up_the_accounts_keys(
    open_wallet: OpenWallet, honest: ToServer, aggregator: LyingAggregator, *, loses: bool
) -> None:
    aggregator.keys_max = 4
    for _ in range(12):
        wallet = await open_wallet()
        assert await crawl(wallet, honest, "a", 1) == 1
        if loses:
            seller = FakeSeller(aggregator, wallet.operators[0])
            offer = wallet.choose(PaymentRequired(accepts=[seller.offer("deferred", "b.example", PRICE)]))
            (await wallet.grants.pay(offer, "b.example", REQUEST)).lose()
        await wallet.close()
    assert sum(not key.revoked for key in aggregator.account.keys.values()) <= (4 if loses else 0)


def assert_revoked_alike(wallet: Wallet, aggregator: LyingAggregator) -> None:
    """The book calls a key revoked only where the aggregator takes nothing more under it."""
    told = {id_: key.revoked for id_, key in aggregator.account.keys.items()}
    assert {id_: row.revoked for id_, row in wallet.core.store.book.spend_keys.items()} == told


async def test_w3_a_key_for_which_others_were_revoked_does_not_count_as_revoked_itself(
    open_wallet: OpenWallet, honest: ToServer, aggregator: LyingAggregator
) -> None:
    aggregator.keys_max = 1
    for _ in range(2):
        wallet = await open_wallet()
        assert await crawl(wallet, honest, "a", 1) == 1
        assert_revoked_alike(wallet, aggregator)
        seller = FakeSeller(aggregator, wallet.operators[0])
        offer = wallet.choose(PaymentRequired(accepts=[seller.offer("deferred", "a.example", PRICE)]))
        (await wallet.grants.pay(offer, "a.example", REQUEST)).lose()
        await wallet.close()
    assert len(aggregator.account.keys) == 2


async def test_w3_a_key_is_not_revoked_before_its_registration_has_arrived(
    open_wallet: OpenWallet, honest: ToServer, aggregator: LyingAggregator
) -> None:
    wallet = await open_wallet()
    arrives = aggregator.hold["RegisterSpendKey"] = asyncio.Event()
    crawling = asyncio.create_task(crawl(wallet, honest, "a", 1))
    await until(lambda: "RegisterSpendKey" in aggregator.calls)
    await wallet.reconcile()
    arrives.set()
    assert await crawling == 1
    assert_revoked_alike(wallet, aggregator)


async def test_w3_an_aggregator_that_counts_too_much_gains_nothing_beyond_what_was_signed(
    open_wallet: OpenWallet, honest: ToServer, aggregator: LyingAggregator
) -> None:
    wallet = await open_wallet(budgets=Budgets(per_day=PER_DAY, per_host=PER_HOST))
    await crawl(wallet, honest, "a", 5)
    for channel in aggregator.account.channels.values():
        channel.charged = channel.ceiling = 10**30
    await wallet.reconcile()
    await crawl(wallet, honest, "b", 50)
    signed = sum(channel.ceiling for channel in (await wallet.status()).accounts[0].channels)
    assert signed <= PER_DAY


async def test_w3_an_aggregator_that_hides_charges_and_keeps_keys_takes_no_more_than_the_deposit(
    open_wallet: OpenWallet, liar: LyingSeller, site: ToServer, aggregator: LyingAggregator
) -> None:
    wallet = await open_wallet(budgets=Budgets(per_day=PER_DAY), deposit=DepositPolicy(low="0", high=PER_DAY))
    aggregator.hides_charges = aggregator.keeps_keys = True
    liar.lie = says_nothing_charged
    for _ in range(8):
        await crawl(wallet, site, "pqrs", 10)
        await wallet.reconcile()
        liar.take_all()
    assert aggregator.account.committed <= PER_DAY


# Workers.


class Fleet:
    """A served wallet and its workers."""

    def __init__(self, wallet: Wallet, target: str, seller: FakeSeller) -> None:
        self.wallet = wallet
        self.target = target
        self.seller = seller
        self.workers: list[RemoteWallet] = []

    async def worker(self) -> RemoteWallet:
        self.workers.append(await Wallet.connect(self.target, token="token-of-tests"))
        return self.workers[-1]

    def payer(self, host: str) -> Callable[[RemoteWallet], Any]:
        async def pay(worker: RemoteWallet) -> Payment:
            offer = worker.choose(PaymentRequired(accepts=[self.seller.offer("deferred", host, PRICE)]))
            return await worker.grants.pay(offer, host, REQUEST)

        return pay

    async def buy(self, worker: RemoteWallet, host: str) -> None:
        payment = await self.payer(host)(worker)
        payment.settle(self.seller.aggregator.charge(payment.proof, PRICE, REQUEST))


@pytest.fixture
async def fleet(
    open_wallet: OpenWallet, aggregator: LyingAggregator, operator: Operator, tmp_path: Path
) -> AsyncIterator[Fleet]:
    wallet = await open_wallet(
        keep_workers=True,
        budgets=Budgets(per_day=20 * PRICE),
        deposit=DepositPolicy(low="0", high="1"),
        max_headroom=8,
    )
    target = f"unix:{tmp_path / 'wallet.sock'}"
    async with WalletServer(wallet, target, "token-of-tests", report_every_s=0.05):
        fleet = Fleet(wallet, target, FakeSeller(aggregator, operator))
        yield fleet
        for worker in fleet.workers:
            await worker.close()


@pytest.mark.parametrize("spends_first", [False, True])
@pytest.mark.parametrize("is_leaving", [False, True])
async def test_w4_what_a_rogue_worker_returned_and_kept_is_not_spent_twice(
    fleet: Fleet, aggregator: LyingAggregator, *, is_leaving: bool, spends_first: bool
) -> None:
    rogues: list[RogueWorker] = []
    for number in range(6):
        rogue = RogueWorker(await fleet.worker())
        rogues.append(rogue)
        try:
            await rogue.take(fleet.payer(f"{number}.example"), 20)
        except BudgetExceededError:
            assert spends_first
        if spends_first:
            rogue.spend(aggregator, REQUEST)
        await rogue.say_returned(is_leaving=is_leaving)
    for rogue in rogues:
        rogue.spend(aggregator, REQUEST)
    assert aggregator.account.committed <= 20 * PRICE
    if not spends_first:
        # All of it was returned, so all of it is there for the honest, once its key was revoked.
        honest = await fleet.worker()
        for _ in range(20 - aggregator.account.committed // PRICE):
            await fleet.buy(honest, "a.example")
        for rogue in rogues:
            rogue.spend(aggregator, REQUEST)
    assert aggregator.account.committed <= 20 * PRICE


async def test_w4_a_workers_key_is_worth_what_it_was_granted(fleet: Fleet, aggregator: LyingAggregator) -> None:
    worker, other = await fleet.worker(), await fleet.worker()
    for host in "ab":
        for _ in range(3):
            await fleet.buy(worker, f"{host}.example")
            await fleet.buy(other, f"{host}.example")
            allotted = {live.key.key_id: live.allotted for live in fleet.wallet._keys._live.values()}
            caps = {key_id: key.cap for key_id, key in aggregator.account.keys.items() if not key.revoked}
            assert caps == allotted
            assert sum(key.spent for key in aggregator.account.keys.values()) <= 20 * PRICE


async def test_w4_at_an_aggregator_that_raises_no_caps_each_grant_has_a_key(
    fleet: Fleet, aggregator: LyingAggregator
) -> None:
    aggregator.raises_caps = False
    worker = await fleet.worker()
    for _ in range(15):
        await fleet.buy(worker, "a.example")
    await worker.close()
    fleet.workers.clear()
    account = (await fleet.wallet.status()).accounts[0]
    assert (account.charged, account.unknown, account.granted) == (15 * PRICE, 0, 0)
    assert sum(key.cap for key in aggregator.account.keys.values()) <= 20 * PRICE
    assert all(key.revoked for key in aggregator.account.keys.values())
