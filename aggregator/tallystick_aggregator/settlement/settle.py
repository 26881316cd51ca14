"""Settlement: turns what was charged into claims, on a timer, on demand, and at once when a payer withdraws (I9).

One settlement of a network at a time. What is in flight is read from the outbox, so a restart knows it too; what a
claim really paid is read from the chain by the watcher. A claim that reverted, was superseded or paid less than it
asked for needs no bookkeeping: its rows are simply due again.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.port import Chain, ChainUnavailable, Reverted
from tallystick_aggregator.chain.tasks import Repeating
from tallystick_aggregator.intake.port import Writer
from tallystick_aggregator.journal.port import Outbox, Outgoing, StoreUnavailable, TransactionKind
from tallystick_aggregator.ledger.state import Account
from tallystick_aggregator.settlement.gas_scale import GasScale
from tallystick_aggregator.settlement.planner import (
    EVERYTHING,
    NO_POLICY,
    Batch,
    Due,
    Group,
    Packer,
    Policy,
    plan_account,
)

INTERVAL_S: Final = 3_600.0
CHECK_S_MAX: Final = 5.0
"""How often pending withdrawals are looked at, at least."""
URGENT_PAUSE_S: Final = 30.0
"""Between two settlements that a withdrawal brings about."""
ACCOUNTS_PER_SLICE: Final = 100
"""Accounts planned before others get their turn: keeps the event loop free."""
MIRROR_WAIT_S: Final = 5.0
SETTLE_NOW_TIMEOUT_S: Final = 60.0

_log = logging.getLogger(__name__)
_alarm = logging.getLogger("tallystick.alarm")
_WHOLE_BATCH: Final = ("NotOperatorOrSender",)
"""Reverts that are about the sender, not about rows: to split the batch would help nobody."""


class SettlingChain(Chain, Protocol):
    """A chain that tells of withdrawals."""

    def on_withdrawal(self, listener: Callable[[], None]) -> None:
        """Call this whenever an account begins to withdraw."""
        ...


@dataclass(frozen=True, slots=True)
class SettlementSettings:
    """How often, and what is worth it. `withdraw_margin_s`: from then on nothing more is charged on an account that
    withdraws (ledger `Rules`), so what is claimed then is all.
    """

    interval_s: float = INTERVAL_S
    policy: Policy = NO_POLICY
    withdraw_margin_s: int = 3_600


class Settlement:
    """Settles one network."""

    def __init__(
        self,
        chain: SettlingChain,
        writer: Writer,
        outbox: Outbox,
        settings: SettlementSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._chain = chain
        self._writer = writer
        self._outbox = outbox
        self._settings = settings or SettlementSettings()
        self._clock = clock
        self._one = asyncio.Lock()
        self._line = asyncio.Lock()
        self._waiting: dict[frozenset[bytes] | None, asyncio.Task[list[Outgoing]]] = {}
        self._runs: set[asyncio.Task[list[Outgoing]]] = set()
        self._next_at = 0.0
        self._ran_before = False
        self._waiting_since: dict[bytes, float] = {}
        self._withdrawing: dict[bytes, int] = {}
        self._scan_withdrawals = True
        self._urgent_at = 0.0
        self._alarmed: set[bytes] = set()
        self._quarantine: dict[bytes, float] = {}
        self._distrusted: set[bytes] = set()
        self._gas_scale = GasScale()
        self._totals_in_flight: OrderedDict[int, Mapping[bytes, int]] = OrderedDict()
        check_s = min(CHECK_S_MAX, self._settings.interval_s)
        self._checking = Repeating(
            f"settlement on {chain.network}",
            self._check,
            check_s,
            passing=(ChainUnavailable, StoreUnavailable),
        )
        chain.on_withdrawal(self._withdrawal_seen)

    # Life.

    def start(self) -> None:
        """Settle from now on: at the first check whatever waits, then every interval."""
        self._checking.start()

    async def stop(self) -> None:
        """Settle no more; what was sent is the outbox's business."""
        await self._checking.stop()
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    def problems(self) -> Sequence[str]:
        """What keeps sellers from being paid, as sentences; none if all is well."""
        found = [self._checking.problem] if self._checking.problem else []
        if self._alarmed:
            found.append(f"{self._chain.network}: {len(self._alarmed)} withdrawing accounts are not claimed in full")
        return found

    # What others ask.

    async def settle_now(
        self, receivers: Collection[bytes] | None = None, *, timeout_s: float = SETTLE_NOW_TIMEOUT_S
    ) -> list[Outgoing]:
        """Claim all that is owed to these receivers (None: to all), and wait until it is in a block.

        Returns the transactions, those that were under way before included; one that has not been mined in time comes
        back as it is. Raises ChainUnavailable and StoreUnavailable.
        """
        wanted = None if receivers is None else frozenset(receivers)
        run = self._waiting.get(wanted)
        if run is None:
            # Of its own, so that one caller's going away ends nobody else's settlement.
            run = self._waiting[wanted] = asyncio.create_task(self._run_in_turn(wanted))
            self._runs.add(run)
            run.add_done_callback(partial(self._run_ended, wanted))
        claims = await asyncio.shield(run)
        return list(await asyncio.gather(*(self._mined(claim, timeout_s) for claim in claims)))

    async def _run_in_turn(self, wanted: frozenset[bytes] | None) -> list[Outgoing]:
        """Settle for all who asked for these receivers until it was their turn.

        A run that has begun may have passed by what was charged since, so nobody joins it any more. Those who ask stand
        in a line of their own, and only its first waits for the network: a withdrawal's claim comes next (I9).
        """
        async with self._line, self._one:
            del self._waiting[wanted]
            under_way = [
                claim
                for claim in await self._open_claims()
                if wanted is None or any(payout.receiver in wanted for payout in claim.payouts)
            ]
            sent = await self._settle(EVERYTHING if wanted is None else Due(0, receivers=wanted))
        return [*under_way, *sent]

    def _run_ended(self, wanted: frozenset[bytes] | None, run: "asyncio.Task[list[Outgoing]]") -> None:
        self._runs.discard(run)
        if self._waiting.get(wanted) is run:  # it was cancelled before its turn
            del self._waiting[wanted]
        if not run.cancelled() and run.exception() is not None:
            _log.warning("a settlement that was asked for failed: %s", run.exception())

    # The timer.

    def _withdrawal_seen(self) -> None:
        self._scan_withdrawals = True
        self._checking.wake()

    async def _check(self) -> None:
        now = self._clock()
        if now >= self._next_at:
            # The first run after a start takes everything: how long something has waited is not known any more.
            due = self._due_by_policy(now) if self._ran_before else EVERYTHING
            async with self._one:
                await self._settle(due)
            self._ran_before = True
            self._next_at = now + self._settings.interval_s
        await self._claim_withdrawing(now)

    def _due_by_policy(self, now: float) -> Due:
        policy = self._settings.policy
        old = frozenset(id_ for id_, since in self._waiting_since.items() if now - since >= policy.max_age_s)
        return Due(policy.min_amount, old)

    async def _claim_withdrawing(self, now: float) -> None:
        """Claim when a withdrawal begins, and again when nothing more can be charged; between them the timer does."""
        fresh = self._scan_withdrawals
        if fresh:
            self._withdrawing = {
                account.id: account.withdraw_finalizes_at
                for account in self._writer.ledger.accounts.values()
                if account.network == self._chain.network and account.withdraw_finalizes_at
            }
        last_call = False
        for account_id in list(self._withdrawing):
            account = self._writer.ledger.accounts[account_id]
            if not account.withdraw_finalizes_at:
                del self._withdrawing[account_id]
                self._alarmed.discard(account_id)
                continue
            left_s = account.withdraw_finalizes_at - now
            last_call = last_call or (account.exposure > 0 and left_s <= self._settings.withdraw_margin_s)
            self._raise_alarm(account, left_s)
        if (fresh and self._withdrawing) or (last_call and now - self._urgent_at >= URGENT_PAUSE_S):
            self._urgent_at = now
            # Until it has gone through, a fresh withdrawal stays fresh: it is tried again at the next check.
            self._scan_withdrawals = False
            try:
                async with self._one:
                    await self._settle(EVERYTHING, only=frozenset(self._withdrawing))
            except BaseException:
                self._scan_withdrawals = True
                raise
        else:
            self._scan_withdrawals = False

    def _raise_alarm(self, account: Account, left_s: float) -> None:
        """I9: an alarm is out before the money can leave."""
        if account.exposure == 0:
            self._alarmed.discard(account.id)
        elif left_s <= self._settings.withdraw_margin_s / 2 and account.id not in self._alarmed:
            self._alarmed.add(account.id)
            _alarm.critical(
                "account %s withdraws in %d s and %d is charged but not claimed",
                to_hex(account.id), left_s, account.exposure,
            )  # fmt: skip

    # One settlement.

    async def _settle(self, due: Due, only: frozenset[bytes] | None = None) -> list[Outgoing]:
        """Plan and send; `only`: these accounts, and with a higher bid."""
        in_flight = await self._in_flight()
        packers: dict[bytes, Packer] = {}
        sent: list[Outgoing] = []
        ids = list(self._writer.ledger.accounts) if only is None else list(only)
        for number, account_id in enumerate(ids):
            if number % ACCOUNTS_PER_SLICE == ACCOUNTS_PER_SLICE - 1:
                await asyncio.sleep(0)
            for group in self._plan(account_id, in_flight, due):
                token = group.account.config.token
                packer = packers.setdefault(token, Packer(token))
                packer.gas_max = self._gas_scale.planned_max
                for batch in packer.add(group):
                    sent += await self._send(batch, urgent=only is not None)
        for packer in packers.values():
            for batch in packer.finish():
                sent += await self._send(batch, urgent=only is not None)
        return sent

    def _plan(self, account_id: bytes, in_flight: Mapping[bytes, int], due: Due) -> Iterator[Group]:
        ledger = self._writer.ledger
        account = ledger.accounts[account_id]
        if account.network != self._chain.network or account.exposure <= 0:
            return
        now = self._clock()
        channels = [
            channel
            for channel in ledger.channels_of_account(account_id)
            if self._quarantine.get(channel.id, 0.0) <= now
        ]
        trusted = account.copy()
        if account.approval is not None and account.approval.signature in self._distrusted:
            trusted.approval = None
        planned: set[bytes] = set()
        for group in plan_account(trusted, channels, in_flight, due, self._gas_scale.planned_max):
            planned.update(row.channel_id for row in group.rows)
            yield group
        if self._settings.policy.min_amount:
            self._note_waiting(
                [channel.id for channel in channels if channel.charged > channel.claimed and channel.id not in planned],
                planned, now,
            )  # fmt: skip

    def _note_waiting(self, waiting: list[bytes], planned: set[bytes], now: float) -> None:
        for channel_id in planned:
            self._waiting_since.pop(channel_id, None)
        for channel_id in waiting:
            self._waiting_since.setdefault(channel_id, now)

    async def _in_flight(self) -> dict[bytes, int]:
        """Up to where open claims would raise `claimed`, by channel."""
        totals: dict[bytes, int] = {}
        claims = await self._open_claims()
        known = self._totals_in_flight
        self._totals_in_flight = OrderedDict(
            (claim.id, known.get(claim.id) or self._chain.escrow.claim_totals(claim.data)) for claim in claims
        )
        for claim_totals in self._totals_in_flight.values():
            for channel_id, total in claim_totals.items():
                totals[channel_id] = max(total, totals.get(channel_id, 0))
        return totals

    async def _open_claims(self) -> list[Outgoing]:
        """Claims whose effect the ledger does not have yet.

        A claim leaves the outbox's open ones when it is final, so they are asked first: whatever left them before is in
        the blocks that the mirror is then waited for.
        """
        opened = await self._outbox.open(self._chain.network)
        head = await self._chain.head()
        try:
            await self._chain.mirrored(head.number, MIRROR_WAIT_S)
        except TimeoutError:
            raise ChainUnavailable(f"the mirror of {self._chain.network} does not reach block {head.number}") from None
        return [outgoing for outgoing in opened if outgoing.kind is TransactionKind.CLAIM]

    async def _send(self, batch: Batch, *, urgent: bool) -> list[Outgoing]:
        """Send a batch. If it would revert, its halves; a single row that would is left out for a while (threat 10)."""
        call = self._chain.escrow.claim_call(batch.token, batch.claims)
        try:
            outgoing = await self._chain.send(
                TransactionKind.CLAIM, os.urandom(32), call, rows=batch.rows, payouts=batch.payouts, urgent=urgent
            )
        except Reverted as reverted:
            if reverted.reason.startswith(_WHOLE_BATCH):
                _alarm.critical("no claim can be sent: %s", reverted.reason)
                raise ChainUnavailable(f"no claim can be sent: {reverted.reason}") from reverted
            _log.warning("a batch of %d claims would revert: %s", batch.rows, reverted.reason)
            halves = batch.halves()
            if halves is None:
                self._gas_scale.refused(batch)
                self._set_aside(batch.groups[0], reverted.reason)
                return []
            return [sent for half in halves for sent in await self._send(half, urgent=urgent)]
        self._gas_scale.took(batch, outgoing.gas_limit)
        _log.info("claim %d: %d channels of %d accounts", outgoing.id, batch.rows, len(batch.groups))
        return [outgoing]

    def _set_aside(self, group: Group, reason: str) -> None:
        if group.approval is not None:
            self._distrusted.add(group.approval)
            _alarm.error("the approval of account %s cannot be used: %s", to_hex(group.account.id), reason)
            return
        until = self._clock() + self._settings.interval_s
        for row in group.rows:
            self._quarantine[row.channel_id] = until
            _alarm.error("the claim on channel %s would revert: %s", to_hex(row.channel_id), reason)

    async def _mined(self, claim: Outgoing, timeout_s: float) -> Outgoing:
        try:
            return await self._chain.wait(claim, timeout_s=timeout_s)
        except TimeoutError:
            return await self._outbox.by_reference(claim.kind, claim.reference) or claim
