"""Has the escrow pay out what a failed transfer left owed to sellers and payers that are served here (`collect`).

Where claims pay out (`EscrowBinding.pays_on_claim`), only a failed transfer leaves a debt, and that is rare. Where
claims only note what they pay, each leaves a debt to each of its receivers: then more are looked after in a check, and
who was paid is looked at again in the next (`Pace`).

A transfer fails because its receiver is frozen by the token's issuer, because the token is paused, or because it takes
more gas than it gets. The escrow keeps the amount, and anybody may have it paid out later; sellers should not have to.

What is owed is found in two ways: the receipts of claims tell at once, and once a day everybody served is looked up, a
few at a time, so that neither a start with an empty memory nor a receipt that was missed makes a difference. No gas is
paid in vain: before a `collect` is sent, its gas is estimated, which fails as long as the transfer would; then it is
tried again ever more rarely. It is sent only if the amount is worth it, and never while another is under way, which the
outbox tells.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from tallystick.hexadecimal import checksum
from tallystick_aggregator.chain.port import (
    Block,
    Call,
    Chain,
    ChainUnavailableError,
    RevertedError,
    Send,
)
from tallystick_aggregator.chain.settings import TokenSettings
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.store.port import Outbox, StoreUnavailableError, TransactionKind
from tallystick_aggregator.tasks import PeriodicTask

CHECK_S: Final = 60.0
SWEEP_S: Final = 86_400.0
"""Between two looks at everybody served."""
PAUSE_S: Final = 600.0
"""After a `collect` would have failed; twice as long after each further failure."""
PAUSE_S_MAX: Final = 21_600.0
PER_SLICE: Final = 1_000
"""Accounts or channels looked through before others get their turn: keeps the event loop free."""


class Pace(NamedTuple):
    """How much is done for debts in one check, and when one that was paid is looked at again."""

    reads_per_check: int
    """Debts looked up at most: a call of a node each."""
    sends_per_check: int
    rest_s: float
    """After a `collect` was sent."""


FAILED_TRANSFERS: Final = Pace(reads_per_check=50, sends_per_check=10, rest_s=PAUSE_S)
EVERY_CLAIM: Final = Pace(reads_per_check=200, sends_per_check=50, rest_s=CHECK_S)

_log = logging.getLogger(__name__)
_alarm = logging.getLogger("tallystick.alarm")


class CollectingChain(Chain, Protocol):
    """A chain that tells of failed transfers, and what a transaction would cost."""

    @property
    def token_settings(self) -> Mapping[bytes, TokenSettings]: ...

    def on_owed(self, listener: Callable[[bytes, bytes], None]) -> None:
        """Call this with (to, token) whenever a claim of ours has left something owed."""
        ...

    async def cost_wei(self, call: Call) -> int:
        """What sending this would cost now. Raises RevertedError if it would fail, and ChainUnavailableError."""
        ...


class Creditor(NamedTuple):
    """Who may be owed what."""

    to: bytes
    token: bytes


@dataclass(slots=True)
class _Debt:
    """Something owed that is not collected yet."""

    due_at: float
    pause_s: float = PAUSE_S
    blocked: str = ""
    """Why it cannot be paid, in the contract's words; empty if it can, or nobody has tried."""


class Collecting:
    """Collects from one escrow."""

    def __init__(
        self,
        chain: CollectingChain,
        writer: Writer,
        outbox: Outbox,
        *,
        amount_min: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`amount_min`: the least that is worth a transaction, in atomic units. Where the configuration does not tell
        what a token is worth, its minimum deposit counts too. What is less stays owed until more has come to it.
        """
        self._chain = chain
        self._writer = writer
        self._outbox = outbox
        self._pace = FAILED_TRANSFERS if chain.escrow.pays_on_claim else EVERY_CLAIM
        self._amount_min = amount_min
        self._clock = clock
        self._debts: dict[Creditor, _Debt] = {}
        self._to_look_up: deque[Creditor] = deque()
        self._sweep_at = 0.0
        self._checking = PeriodicTask(
            f"collecting on {chain.network}",
            self.check,
            CHECK_S,
            passing=(ChainUnavailableError, StoreUnavailableError),
        )
        chain.on_owed(self._owed_seen)

    def start(self) -> None:
        """Collect from now on."""
        self._checking.start()

    async def stop(self) -> None:
        """Collect no more; what was sent is the outbox's business."""
        await self._checking.stop()

    def problems(self) -> Sequence[str]:
        """What keeps somebody from what is owed, as sentences; none if all is well."""
        found = [self._checking.problem] if self._checking.problem else []
        blocked = sum(bool(debt.blocked) for debt in self._debts.values())
        if blocked:
            found.append(f"{self._chain.network}: {blocked} are owed what the token does not let the escrow pay")
        return found

    async def check(self) -> None:
        """Look up some who may be owed, and collect what can be paid.

        Raises ChainUnavailableError, StoreUnavailableError.
        """
        now = self._clock()
        if not self._to_look_up and now >= self._sweep_at:
            self._to_look_up.extend(await self._everybody())
            self._sweep_at = now + SWEEP_S
        under_way = {
            outbound.data
            for outbound in await self._outbox.open(self._chain.network)
            if outbound.kind is TransactionKind.COLLECT and outbound.to == self._chain.escrow.address
        }
        head = await self._chain.head()
        sent = 0
        for creditor in self._next(now):
            sent += await self._look_after(creditor, head, under_way)
            if sent >= self._pace.sends_per_check:
                return

    def _next(self, now: float) -> Iterator[Creditor]:
        """Whose turn it is: known debts first. Who could not be looked after goes to the end of the line."""
        due = [creditor for creditor, debt in self._debts.items() if debt.due_at <= now][: self._pace.reads_per_check]
        yield from due
        for _ in range(self._pace.reads_per_check - len(due)):
            if not self._to_look_up:
                return
            creditor = self._to_look_up[0]
            self._to_look_up.rotate(-1)
            if creditor not in self._debts:
                yield creditor
            self._to_look_up.pop()

    async def _everybody(self) -> list[Creditor]:
        """Sellers that were paid on chain, and payers, of this escrow."""
        ledger, escrow = self._writer.ledger, self._chain.escrow.ref
        found: dict[Creditor, None] = {}
        for number, account in enumerate(ledger.every_account()):
            if number % PER_SLICE == PER_SLICE - 1:
                await asyncio.sleep(0)
            if account.escrow == escrow:
                found[Creditor(account.config.payer, account.config.token)] = None
        for number, channel in enumerate(ledger.every_channel()):
            if number % PER_SLICE == PER_SLICE - 1:
                await asyncio.sleep(0)
            account = ledger.known_account(channel.account_id)
            if account.escrow == escrow and channel.claimed:
                found[Creditor(channel.receiver, account.config.token)] = None
        return list(found)

    def _owed_seen(self, to: bytes, token: bytes) -> None:
        self._debts.setdefault(Creditor(to, token), _Debt(due_at=self._clock()))

    async def _look_after(self, creditor: Creditor, head: Block, under_way: Iterable[bytes]) -> bool:
        """Collect what is owed to one, if that can and should be done now; whether something was sent."""
        escrow = self._chain.escrow
        call = escrow.collect_call(creditor.to, creditor.token)
        if call.data in under_way:
            self._debts.setdefault(creditor, _Debt(0.0)).due_at = self._clock() + self._pace.rest_s
            return False
        amount = await escrow.owed(creditor.to, creditor.token, head)
        if not self._is_enough(creditor.token, amount):
            self._debts.pop(creditor, None)  # the next look at everybody sees whether it has grown
            return False
        debt = self._debts.setdefault(creditor, _Debt(0.0))
        try:
            cost_wei = await self._chain.cost_wei(call)
            if not self._is_worth(creditor.token, amount, cost_wei):
                debt.due_at = self._clock() + PAUSE_S_MAX
                return False
            outbound = await self._chain.send(Send(TransactionKind.COLLECT, os.urandom(32), call))
        except RevertedError as reverted:
            self._blocked(creditor, debt, amount, reverted.reason)
            return False
        self._debts[creditor] = _Debt(due_at=self._clock() + self._pace.rest_s)
        _log.info("collect %d: %d of token %s for %s", outbound.id, amount, *map(checksum, reversed(creditor)))
        return True

    def _is_enough(self, token: bytes, amount: int) -> bool:
        """Whether it may be worth a transaction at all. Tokens that are not configured are left alone."""
        settings = self._chain.token_settings.get(token)
        if settings is None or amount == 0:
            return False
        least = 0 if settings.worth_gwei else settings.min_deposit
        return amount >= max(self._amount_min, least)

    def _is_worth(self, token: bytes, amount: int, cost_wei: int) -> bool:
        """Whether it is worth its gas, where the configuration tells what the token is worth."""
        worth_wei = self._chain.token_settings[token].worth_wei(amount)
        return worth_wei is None or worth_wei >= cost_wei

    def _blocked(self, creditor: Creditor, debt: _Debt, amount: int, reason: str) -> None:
        """It would fail now. Told once; asked again ever more rarely."""
        if not debt.blocked:
            _alarm.error(
                "%s is owed %d of token %s by the escrow, which cannot pay it: %s",
                checksum(creditor.to), amount, checksum(creditor.token), reason,
            )  # fmt: skip
        debt.blocked = reason
        debt.due_at = self._clock() + debt.pause_s
        debt.pause_s = min(2 * debt.pause_s, PAUSE_S_MAX)
