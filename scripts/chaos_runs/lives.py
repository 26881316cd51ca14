"""Payers who come, deposit, buy, change their minds and leave; each has a seat, and another comes when it has left.

What a payer does on chain goes to the node itself, past the endpoints that lie. It takes no care of the aggregator: it
withdraws what it has just spent, pays on while its withdrawal is under way, cancels it or not, and deposits again.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from _anvil import DevChain
from anvil import Devnet
from chaos_runs.liar import Targets
from tallystick.errors import RefusedError, TallystickError
from tallystick.quantities import MAX_AMOUNT
from tallystick_chain.errors import RpcError
from tallystick_client import Operator
from trade import Customer, Stall, UnansweredError

DEPOSIT: Final = (100_000, 500_000)
MONEY: Final = 10_000_000
"""What every payer has to begin with: more than it deposits in its life."""
PRICE: Final = (100, 4_000)
THINK_S: Final = (0.05, 0.4)
LIFE_S: Final = (30.0, 100.0)
PATIENCE_S: Final = 20.0
AFTER_DELAY_S: Final = 20.0
"""How much later than it could be a withdrawal is finalised, by the fast clock: blocks come in steps."""
_TRANSACTION_POLL_S: Final = 0.05


@dataclass
class Trade:
    """What all seats share."""

    devnet: Devnet
    operator: Operator
    stalls: Sequence[Stall]
    clock: Callable[[], float]
    targets: Targets
    customers: list[Customer] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    minting: asyncio.Lock = field(default_factory=asyncio.Lock)
    closing: asyncio.Event = field(default_factory=asyncio.Event)


class Seat:
    """One payer after another: by voucher, by spend key, or without a deposit."""

    def __init__(self, trade: Trade, number: int, seed: int) -> None:
        self._trade = trade
        self._number = number
        self._chance = random.Random(seed)  # noqa: S311 - a repeatable run, no secret
        self._lives = 0

    async def sit(self) -> None:
        """Live one life after another until the market closes."""
        chain = DevChain(self._trade.devnet.anvil.port, poll_s=_TRANSACTION_POLL_S)
        devnet = replace(self._trade.devnet, anvil=chain)
        try:
            while not self._trade.closing.is_set():
                await self._live(devnet)
        finally:
            chain.disconnect()

    async def _live(self, devnet: Devnet) -> None:
        trade = self._trade
        self._lives += 1
        payer = devnet.payer(f"seat {self._number} life {self._lives}", trade.operator.withdraw_delay_s)
        customer = Customer(payer, trade.operator, by_key=self._number % 2 == 0, clock=trade.clock, chance=self._chance)
        trade.customers.append(customer)
        async with trade.minting:  # all mint from one key, and two transactions at once would get one nonce
            await asyncio.to_thread(devnet.anvil.mint, devnet.token, payer.signer.address, MONEY)
        life = Life(trade, customer, self._chance, time.monotonic() + self._chance.uniform(*LIFE_S))
        try:
            await (life.without_deposit() if self._number % 3 == 2 else life.with_deposit())
        except (TallystickError, RpcError) as error:
            trade.problems.append(f"seat {self._number}, life {self._lives}: {type(error).__name__}: {error}")
            await asyncio.sleep(1)


class Life:
    """One payer's, until its time is over or the market closes."""

    def __init__(self, trade: Trade, customer: Customer, chance: random.Random, ends_at: float) -> None:
        self._trade = trade
        self._customer = customer
        self._chance = chance
        self._ends_at = ends_at
        self._finalizes_at = 0
        """When the pending withdrawal may be finalised, by the fast clock; 0: none is pending."""
        self._cancels = False

    async def without_deposit(self) -> None:
        """Buy by exact payments."""
        while not self._is_over:
            stall, amount = self._chance.choice(self._trade.stalls), self._chance.randint(*PRICE)
            await self._customer.pay_exact(stall, amount, patience_s=PATIENCE_S)
            await self._think(4.0)

    async def with_deposit(self) -> None:
        """Deposit, buy, withdraw, cancel, finalise, top up, ask for refunds, and leave in one way or another."""
        targets, account_id = self._trade.targets, self._customer.payer.account_id
        targets.accounts.add(account_id)
        targets.readable.add(account_id)
        targets.channels.update(self._customer.payer.channel_id(stall.receiver) for stall in self._trade.stalls)
        await self._deposit()
        while not self._is_over:
            await self._step()
            await self._think()
        await self._leave()

    @property
    def _is_over(self) -> bool:
        return self._trade.closing.is_set() or time.monotonic() > self._ends_at

    async def _think(self, factor: float = 1.0) -> None:
        await asyncio.sleep(self._chance.uniform(*THINK_S) * factor)

    async def _step(self) -> None:
        draw = self._chance.random()
        if self._finalizes_at:
            if self._cancels and draw < 0.05:
                await self._cancel()
            elif not self._cancels and self._trade.clock() > self._finalizes_at + AFTER_DELAY_S:
                await self._finalize()
        elif draw < 0.02:
            await self._withdraw(MAX_AMOUNT if self._chance.random() < 0.5 else self._chance.randint(1, DEPOSIT[0]))
        elif draw < 0.025:
            await self._refund(0 if self._chance.random() < 0.3 else self._chance.randint(2_000, 20_000))
        await self._buy()

    async def _buy(self) -> None:
        stall, amount = self._chance.choice(self._trade.stalls), self._chance.randint(*PRICE)
        captured = self._chance.randint(0, amount) if self._chance.random() < 0.1 else amount
        two_steps = captured < amount or self._chance.random() < 0.2
        try:
            if two_steps:
                outcome = await self._customer.pay_in_two_steps(stall, amount, captured=captured, patience_s=PATIENCE_S)
            else:
                outcome = await self._customer.pay(stall, amount, patience_s=PATIENCE_S)
        except UnansweredError:
            return
        if isinstance(outcome, RefusedError) and not self._finalizes_at and self._chance.random() < 0.3:
            await self._deposit()

    # What moves money in and out.

    async def _deposit(self) -> None:
        amount = self._chance.randint(*DEPOSIT)
        customer = self._customer
        state = await customer.state()
        if self._chance.random() < 0.3 and await self._ask_for("deposit", lambda: customer.deposit(amount)):
            return
        await asyncio.to_thread(customer.payer.deposit_own, amount)
        self._trade.counts["deposits"] += 1
        try:
            await customer.funded((state.funds if state else 0) + 1, PATIENCE_S)
        except TimeoutError:
            self._trade.counts["deposits credited late"] += 1

    async def _withdraw(self, amount: int) -> None:
        if await self._on_chain("withdrawals", lambda: self._customer.payer.initiate_withdraw(amount)):
            delay_s = self._customer.payer.config.withdraw_delay_s
            self._finalizes_at = int(self._trade.clock()) + delay_s
            self._cancels = self._chance.random() < 0.4

    async def _cancel(self) -> None:
        if await self._on_chain("withdrawals cancelled", self._customer.payer.cancel_withdraw):
            self._finalizes_at = 0

    async def _finalize(self) -> None:
        if await self._on_chain("withdrawals finalised", self._customer.payer.finalize_withdraw):
            self._finalizes_at = 0

    async def _refund(self, amount: int) -> None:
        await self._ask_for("refund", lambda: self._customer.refund(amount))

    async def _leave(self) -> None:
        """Take the rest along, by a refund or by the timed way out; or leave it."""
        draw = self._chance.random()
        if draw < 0.4:
            await self._refund(0)
        elif draw < 0.7 and not self._finalizes_at and not self._trade.closing.is_set():
            await self._withdraw(MAX_AMOUNT)
            while self._finalizes_at and not self._trade.closing.is_set():
                if self._trade.clock() > self._finalizes_at + AFTER_DELAY_S:
                    await self._finalize()
                    return
                await self._buy()
                await self._think(2.0)

    async def _ask_for(self, what: str, ask: Callable[[], Awaitable[object]]) -> bool:
        """Have the aggregator do it, and count it; meanwhile the account is not lied about (see `liar`)."""
        account_id, readable = self._customer.payer.account_id, self._trade.targets.readable
        readable.discard(account_id)
        try:
            await ask()
        except TallystickError as error:
            code = error.reason.code if isinstance(error, RefusedError) else type(error).__name__
            self._trade.counts[f"{what} {code}"] += 1
            return False
        finally:
            readable.add(account_id)
        self._trade.counts[f"{what}s"] += 1
        return True

    async def _on_chain(self, what: str, act: Callable[[], object]) -> bool:
        """Do it and count it; False if the escrow refuses, as it does where a refund was quicker."""
        try:
            await asyncio.to_thread(act)
        except RpcError:
            self._trade.counts[f"{what}, refused on chain"] += 1
            self._finalizes_at = 0
            return False
        self._trade.counts[what] += 1
        return True
