"""A wallet that dies at any moment promises nothing twice.

Whatever was handed out before a crash, every payment that left may still be charged after it, together with all that
the next run pays: none is refused for a ceiling or a deposit that was promised twice, no budget is exceeded, and the
book never holds less than the aggregator.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from payer_buyer import REQUEST, CrashError, OpenWallet, die
from payer_fakes import PRICE, FakeAggregator, FakeSeller

from tallystick.x402 import PaymentRequired
from tallystick_client import Budgets, DepositPolicy, Wallet
from tallystick_client.payer.errors import BookUnavailableError, BudgetExceededError
from tallystick_client.payer.wallet.grants import Payment
from tallystick_client.payer.wallet.store import Statement
from tallystick_client.payer.wallet.timing import Timing

BUDGET = 60 * PRICE


class World:
    """One payer's life: its wallet now, and every payment that ever left it."""

    def __init__(self, open_wallet: OpenWallet, seller: FakeSeller, proof: str = "spend_key") -> None:
        self.open_wallet = open_wallet
        self.seller = seller
        self.proof = proof
        self.left: list[Payment] = []
        self.writes = 0
        self.crash_at: tuple[int, bool] | None = None
        self.wallet: Wallet

    async def start(self) -> None:
        self.wallet = await self.open_wallet(
            budgets=Budgets(total=BUDGET),
            deposit=DepositPolicy(low=10 * PRICE, high=40 * PRICE),
            max_headroom=4,
            proof=self.proof,
            timing=Timing(drain_s=0.01),
        )
        store = self.wallet._store
        real_write = store.write

        async def write(statements: list[Statement]) -> None:
            self.writes += 1
            crash_at, committed = self.crash_at or (0, False)
            if self.writes == crash_at and not committed:
                raise CrashError
            await real_write(statements)
            if self.writes == crash_at:
                raise CrashError

        store.write = write

    async def die(self) -> None:
        """Go without a word: what is not on disk is gone."""
        await die(self.wallet)
        self.crash_at = None

    async def pay(self, host: str) -> Payment:
        offer = self.wallet.choose(PaymentRequired(accepts=[self.seller.offer("deferred", host, PRICE)]))
        payment = await self.wallet.grants.pay(offer, host, REQUEST)
        self.left.append(payment)
        return payment

    def charge(self, payment: Payment) -> None:
        """Charge it if it was not, whoever of the payer's runs it came from; a refusal fails the test."""
        account = self.seller.aggregator.accounts.values()
        if any(payment.proof.payment_id in c.payments for a in account for c in a.channels.values()):
            return
        self.seller.aggregator.charge(payment.proof, PRICE, REQUEST)

    async def check(self) -> None:
        """Charge everything that ever left, and compare."""
        self.crash_at = None
        for payment in self.left:
            self.charge(payment)
        aggregator = self.seller.aggregator
        spent = sum(account.committed for account in aggregator.accounts.values())
        status = await self.wallet.status()
        booked = sum(a.charged + a.unknown + a.granted for a in status.accounts)
        assert spent <= booked <= BUDGET
        assert all(account.free <= 40 * PRICE for account in status.accounts)
        deposited = sum(sum(account.deposits.values()) for account in aggregator.accounts.values())
        assert sum(account.deposited for account in status.accounts) <= deposited
        self.wallet._book.check()


async def scenario(world: World) -> None:
    """A bit of everything, with a reconciliation in the middle."""
    for host in ("a", "b", "a"):
        await world.pay(host)
    payments = await asyncio.gather(*(world.pay("a") for _ in range(6)))
    for payment in payments[:3]:
        world.charge(payment)
        payment.settle(PRICE)
    payments[3].lose()
    await world.wallet.flush()
    await world.wallet.reconcile()
    world.left = [p for p in world.left if not p.ended]
    for _ in range(3):
        await world.pay("b")


async def survive(world: World, work: Callable[[World], Any]) -> None:
    """Do the work; if it crashes, start again on the same file."""
    try:
        await work(world)
    except (CrashError, BookUnavailableError):
        await world.die()
        await world.start()


async def count_writes(world: World) -> int:
    await world.start()
    await scenario(world)
    return world.writes


@pytest.mark.parametrize("committed", [False, True])
async def test_no_crash_at_any_write_promises_anything_twice(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator, tmp_path: Any, *, committed: bool
) -> None:
    async def opener(path: str) -> OpenWallet:
        return lambda **settings: open_wallet(path=tmp_path / path, **settings)

    writes = await count_writes(World(await opener("count.db"), seller))
    assert writes >= 8
    for crash_at in range(1, writes + 1):
        aggregator.accounts.clear()
        world = World(await opener(f"{crash_at}.db"), seller)
        await world.start()
        world.crash_at = (crash_at, committed)
        await survive(world, scenario)
        for host in "abc":
            await world.pay(host)
        await world.check()
        await world.wallet.close()


@pytest.mark.parametrize("proof", ["spend_key", "voucher"])
@pytest.mark.parametrize("seed", range(40))
async def test_no_history_of_crashes_promises_anything_twice(
    open_wallet: OpenWallet, seller: FakeSeller, seed: int, proof: str
) -> None:
    chance = random.Random(seed)
    world = World(open_wallet, seller, proof)
    await world.start()

    async def turn(world: World) -> None:
        action = chance.choice(["pay", "pay", "burst", "settle", "lose", "release", "flush", "die", "close"])
        open_ = [payment for payment in world.left if not payment.ended and not payment.grant.closed]
        if action == "pay":
            await world.pay(chance.choice("abc"))
        elif action == "burst":
            await asyncio.gather(*(world.pay(chance.choice("ab")) for _ in range(chance.randrange(1, 6))))
        elif action == "flush":
            await world.wallet.flush()
        elif action == "die":
            await world.die()
            await world.start()
        elif action == "close":
            await world.wallet.close()
            await world.start()
        elif open_:
            payment = chance.choice(open_)
            if action == "settle":
                world.charge(payment)
                payment.settle(PRICE)
            elif action == "lose":
                payment.lose()
            else:
                # The seller says that it was never taken, and that is so.
                payment.release()
                world.left.remove(payment)

    for _ in range(30):
        if chance.random() < 0.2:
            world.crash_at = (world.writes + chance.randrange(1, 4), chance.random() < 0.5)
        try:
            await survive(world, turn)
        except BudgetExceededError:
            break
    await world.check()


async def test_a_disk_that_is_full_stops_all_promises(
    open_wallet: OpenWallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    world = World(open_wallet, seller)
    await world.start()
    await world.pay("a")

    async def full(_statements: list[Statement]) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    world.wallet._store.write = full
    for _ in range(2):
        with pytest.raises(BookUnavailableError, match="could not be written"):
            await world.pay("b")
    assert len(aggregator.account.channels) == 0
    with pytest.raises(BookUnavailableError):
        await world.wallet.flush()
