"""`scripts/chaos lies`: payers and sellers trade through an aggregator whose endpoints lie now and then.

A chain of our own, and one `tallystick serve` that reaches it through two proxies. Payers deposit, pay by voucher, by
spend key and by exact transfers, withdraw (and cancel), ask for refunds; charges are claimed every few seconds. All the
while single answers of the endpoints are false, lost, late, doubled or refused. Chain, aggregator and traders go by one
clock that runs twenty times as fast as the wall's, so that withdrawals come to their end within a run.

At the end the endpoints tell the truth, everything is settled, and three books are compared: what the sellers saw
accepted, what the aggregator's ledger says over gRPC, and what the chain says when it is asked directly.

  lost       accepted charges, in atomic units, that were not paid and cannot be paid any more
  doubled    what was charged or paid beyond what was accepted, in atomic units
  unsettled  accepted, and not paid in time although it can be
  unnoticed  lies that mattered without an alarm soon after: `chaos_runs.liar` says what that means

The exit status is 0 only if all four are 0.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from _anvil import Anvil
from _children import Children
from anvil import deploy, receiver
from chaos_runs import carry_out, chain_book, is_true_of, parser_of
from chaos_runs.alarms import Alarms
from chaos_runs.books import AccountBooks, ExactBooks, Verdict, compare
from chaos_runs.fast_server import FastClock
from chaos_runs.liar import Liar, Targets
from chaos_runs.lives import Seat, Trade
from rpc_faults import FaultProxy
from site_files import add_seller, write_site
from tallystick.errors import RefusedError
from tallystick_client.rpc import AggregatorUnavailableError
from trade import Customer, Stall, operator_of

MINUTES: Final = 30.0
MINUTES_QUICK: Final = 0.25
SPEED: Final = 20.0
BLOCK_S: Final = 0.4
"""Between two blocks, by the wall's clock."""
SEATS: Final = 6
SELLERS: Final = 3
WITHDRAW_DELAY_S: Final = 900
"""The shortest that the escrow allows: 45 s by the wall's clock."""
INTERVAL_S: Final = 60
"""Between two settlements, by the fast clock: three seconds by the wall's."""
SETTLED_TIMEOUT_S: Final = 120.0
PROGRESS_S: Final = 15.0

_SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "server": {"log_json": True},
    "settlement": {"interval_s": INTERVAL_S},
    "limits": {"withdraw_margin_s": 300},
    "chain": {
        "withdraw_delay_s_min": WITHDRAW_DELAY_S,
        "withdraw_delay_s": WITHDRAW_DELAY_S,
        "poll_s": 0.1,
        "rpc_timeout_s": 2.0,
    },
}


class Run:
    """One run: open, trade and lie, settle, compare."""

    def __init__(self, seed: int, folder: Path, anvil: Anvil, children: Children) -> None:
        self._seed = seed
        self._folder = folder
        self._children = children
        self._devnet = deploy(anvil)
        head = anvil.rpc("eth_getBlockByNumber", "latest", False)
        now = time.time()
        self.clock = FastClock(now, max(now, int(head["timestamp"], 16) + 1.0), SPEED)
        anvil.automine(on=False)

    async def open(self, stack: AsyncExitStack) -> None:
        """Endpoints, aggregator, sellers, and somebody who mines."""
        await _cancelled_at_the_end(stack, self._mine())
        url = self._devnet.anvil.url
        self.proxies = [
            await stack.enter_async_context(FaultProxy(url, name=f"endpoint-{number}", seed=self._seed + number))
            for number in range(2)
        ]
        chain = {"rpc_urls": [proxy.url for proxy in self.proxies]} | dict(_SETTINGS["chain"])
        config = write_site(self._folder, self._devnet, **{**_SETTINGS, "chain": chain})
        receivers = [receiver(700 + number) for number in range(SELLERS)]
        tokens = [add_seller(config, f"seller-{number}", [address]) for number, address in enumerate(receivers)]
        clock = map(str, self.clock[:3])
        self._server = await self._children.start("aggregator", "chaos_runs.fast_server", str(config), *clock)
        target = await self._server.said("listening on ")
        self.alarms = Alarms(self._server.log)
        stalls = [Stall(self._devnet, target, token, address) for token, address in zip(tokens, receivers, strict=True)]
        for stall in stalls:
            stack.push_async_callback(stall.aggregator.close)
        targets = Targets(self._devnet.escrow)
        operator = operator_of(self._devnet, target, WITHDRAW_DELAY_S)
        self.trade = Trade(self._devnet, operator, stalls, self.clock, targets)
        chance = random.Random(self._seed)  # noqa: S311 - a repeatable run, no secret
        self.liar = Liar(self.proxies, targets, self.alarms, chance)

    async def trade_and_lie(self, minutes: float) -> None:
        """Let everybody do as they do for so long, by the wall's clock; then have the truth told and end all lives."""
        seats = [Seat(self.trade, number, self._seed * 1_000 + number).sit() for number in range(SEATS)]
        trading = [asyncio.create_task(seat) for seat in seats]
        lying = asyncio.create_task(self.liar.lie_on())
        ends_at = time.monotonic() + minutes * 60
        try:
            while (left_s := ends_at - time.monotonic()) > 0:
                done, _ = await asyncio.wait([*trading, lying], timeout=min(PROGRESS_S, left_s))
                for task in done:
                    task.result()  # nobody ends by itself, but by an error
                self._tell(ends_at - time.monotonic())
        finally:
            self.trade.closing.set()
            lying.cancel()
            await asyncio.gather(lying, return_exceptions=True)
            self.liar.stop()
            await asyncio.gather(*trading, return_exceptions=True)

    async def settle(self) -> None:
        """Have everything paid that was accepted, as far as it can be."""
        for customer in self.trade.customers:
            for sale in customer.book.exact:
                stall = next(one for one in self.trade.stalls if one.receiver == sale.authorization.to)
                await customer.settle_exact(stall, sale)
        deadline = time.monotonic() + SETTLED_TIMEOUT_S
        while time.monotonic() < deadline:
            await asyncio.gather(*(self._settle(stall) for stall in self.trade.stalls))
            verdict = compare(self._accounts({}), [], {})
            if not verdict.unsettled:
                return
            await asyncio.sleep(1)

    async def compare(self) -> Verdict:
        """Compare the three books, and end the aggregator."""
        charged = {customer: await _charged(customer) for customer in self.trade.customers}
        exact = [
            ExactBooks(sale.authorization.to, sale.amount, sale.accepted, self._has_landed(sale.authorization))
            for customer in self.trade.customers
            for sale in customer.book.exact
        ]
        received = {stall.receiver: self._devnet.balance(stall.receiver) for stall in self.trade.stalls}
        verdict = compare(self._accounts(charged), exact, received)
        for customer in self.trade.customers:
            await customer.close()
        if (exit_code := await self._server.end()) != 0:
            verdict.details.append(f"the aggregator ended with {exit_code}")
        return verdict

    def report(self, verdict: Verdict) -> dict[str, Any]:
        """All figures."""
        chain = chain_book.read(self._devnet.anvil, self._devnet.escrow)
        books = [customer.book for customer in self.trade.customers]
        alarms = self.alarms.look()
        refusals: Counter[str] = sum((book.refusals for book in books), Counter())
        accepted = sum(sum(book.accepted.values()) for book in books)
        exact = sum(sale.amount for book in books for sale in book.exact if sale.accepted)
        return {
            "payments": sum(book.payments for book in books),
            "accepted": sum(book.sales for book in books),
            "accepted_amount": accepted + exact,
            "payers": len(books),
            "lies": dict(self.liar.lies),
            "lies_that_mattered": dict(self.liar.mattered()),
            "lies_without_their_question": dict(self.liar.in_vain),
            "alarms": len(alarms),
            "alarms_after_no_lie": sum(alarm.at not in self.liar.credited for alarm in alarms),
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "unsettled": verdict.unsettled,
            "unnoticed": len(self.liar.unnoticed),
            "settlements": chain.claim_transactions,
            "withdrawals": chain.events["WithdrawInitiated"],
            "withdrawals_cancelled": chain.events["WithdrawCancelled"],
            "withdrawals_finalised": chain.events["WithdrawFinalized"],
            "refunds": chain.events["Refunded"],
            "refused": dict(refusals),
            "counts": dict(self.trade.counts),
            "details": verdict.details[:50],
            "unnoticed_lies": [told.as_dict() for told in self.liar.unnoticed[:20]],
            "problems": self.trade.problems[:20],
        }

    # Parts.

    async def _mine(self) -> None:
        """A block now and then, at the time that the fast clock shows."""
        while True:
            await asyncio.to_thread(self._mine_one)
            await asyncio.sleep(BLOCK_S)

    def _mine_one(self) -> None:
        chain = self._devnet.anvil
        chain.rpc("evm_setNextBlockTimestamp", int(self.clock()))
        chain.rpc("evm_mine")

    async def _settle(self, stall: Stall) -> None:
        try:
            await stall.aggregator.settle_now()
        except (RefusedError, AggregatorUnavailableError) as error:
            self.trade.counts[f"settle_now {type(error).__name__}"] += 1

    def _accounts(self, charged: Mapping[Customer, Mapping[bytes, int]]) -> list[AccountBooks]:
        state = chain_book.read(self._devnet.anvil, self._devnet.escrow).state
        books = []
        for customer in self.trade.customers:
            account = state.accounts.get(customer.payer.account_id)
            books.append(
                AccountBooks(
                    customer.payer.account_id.hex()[:8],
                    customer.book.accepted,
                    charged.get(customer, {}),
                    account.claimed if account else {},
                    account.balance if account else 0,
                )
            )
        return books

    def _has_landed(self, authorization: Any) -> bool:
        return chain_book.has_landed(self._devnet.anvil, self._devnet.token, authorization.from_, authorization.nonce)

    def _tell(self, left_s: float) -> None:
        books = [customer.book for customer in self.trade.customers]
        print(
            f"{max(0.0, left_s):5.0f} s left: {sum(book.sales for book in books):,} payments by {len(books)} payers,"
            f" {self.liar.lies.total()} faults, {self.liar.mattered().total()} lies that mattered,"
            f" {len(self.liar.unnoticed)} unnoticed, {len(self.alarms.look())} alarms",
            file=sys.stderr,
            flush=True,
        )


async def _charged(customer: Customer) -> dict[bytes, int]:
    state = await customer.state()
    return {channel.receiver: channel.charged for channel in state.channels} if state else {}


async def _cancelled_at_the_end(stack: AsyncExitStack, work: Any) -> None:
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)


async def run(minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """Trade and lie, then settle and compare."""
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        anvil = stack.enter_context(Anvil(options=("--order", "fifo")))
        children = await stack.enter_async_context(Children(folder))
        chaos = Run(seed, folder, anvil, children)
        await chaos.open(stack)
        await chaos.trade_and_lie(minutes)
        await chaos.settle()
        verdict = await chaos.compare()
        report = chaos.report(verdict)
    return {"seed": seed, "minutes": minutes, **report, "took_s": round(time.monotonic() - started, 1)}


def is_clean(result: Mapping[str, Any]) -> bool:
    """Whether nothing was lost, taken twice, left unpaid or unnoticed, and something happened at all."""
    return is_true_of(result, ["lost", "doubled", "unsettled", "unnoticed"], ["accepted", "lies"])


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 24 * 60:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed above 0 and at most {24 * 60}")
    return minutes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write JSON if asked to; 0 if the books agree and no lie that mattered went unnoticed."""
    parser = parser_of("lies", __doc__, f"{MINUTES_QUICK * 60:g} seconds of trade only")
    parser.add_argument("--minutes", type=_minutes, default=MINUTES, metavar="N", help=f"of trade ({MINUTES:g})")
    options = parser.parse_args(arguments)
    minutes = MINUTES_QUICK if options.quick else options.minutes
    return carry_out(options, lambda folder: run(minutes, options.seed, folder), is_clean)
