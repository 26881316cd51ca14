"""Settlement: turns what was charged into claims, on a timer, on demand, and at once when a payer withdraws (I9).

One settlement of an escrow at a time. What is in flight is read from the outbox, so a restart knows it too; what a
claim really paid is read from the chain by the watcher. A claim that reverted, was superseded or paid less than it
asked for needs no bookkeeping: its rows are simply due again.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.claim_plan import Group
from tallystick_aggregator.chain.port import Chain, ChainUnavailableError, Stake
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.claims.claiming import Claimed, Claiming, Run
from tallystick_aggregator.claims.planner import (
    EVERYTHING,
    NO_POLICY,
    Due,
    Packer,
    Policy,
    plan_account,
)
from tallystick_aggregator.claims.withdrawals import Withdrawals
from tallystick_aggregator.store.port import (
    OutboundTransaction,
    Outbox,
    StoreUnavailableError,
    TransactionKind,
    TransactionStatus,
)
from tallystick_aggregator.tasks import PeriodicTask

INTERVAL_S: Final = 3_600.0
CHECK_S_MAX: Final = 5.0
"""How often pending withdrawals are looked at, at least."""
ACCOUNTS_PER_SLICE: Final = 100
"""Accounts planned before others get their turn: keeps the event loop free."""
SETTLE_NOW_TIMEOUT_S: Final = 60.0

_log = logging.getLogger(__name__)
_alarm = logging.getLogger("tallystick.alarm")


class SettlingChain(Chain, Protocol):
    """A chain that tells of withdrawals, and takes care that their claims land."""

    def on_withdrawal(self, listener: Callable[[], None]) -> None:
        """Call this whenever an account begins to withdraw."""
        ...

    def hurry(self, stakes: Mapping[int, Stake]) -> None:
        """Have these transactions, by id, land before a withdrawal ends, for what they save; no others any more."""
        ...


@dataclass(frozen=True, slots=True)
class SettlementSettings:
    """How often, and what is worth it. `withdraw_margin_s`: from then on nothing more is charged on an account that
    withdraws (ledger `Rules`), so what is claimed then is all.
    """

    interval_s: float = INTERVAL_S
    policy: Policy = NO_POLICY
    withdraw_margin_s: int = 3_600
    mirror_wait_s: float = 5.0
    """For so long a settlement waits until the mirror has reached the head."""


class ClaimService:
    """Settles one escrow."""

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
        self._waiting: dict[frozenset[bytes] | None, asyncio.Task[Claimed]] = {}
        self._runs: set[asyncio.Task[Claimed]] = set()
        self._next_at = 0.0
        self._ran_before = False
        self._waiting_since: dict[bytes, float] = {}
        self._withdrawals = Withdrawals(self._settings.withdraw_margin_s)
        self._scan_withdrawals = True
        self._claiming = Claiming(chain, writer, clock, self._settings.interval_s)
        self._totals_in_flight: OrderedDict[int, Mapping[bytes, int]] = OrderedDict()
        self._followed: dict[int, OutboundTransaction] = {}
        """Claims that were not final when they were last looked at, each as it was when it was sent."""
        self._landed: dict[bytes, int] = {}
        """By channel: up to where final claims have paid, until the ledger has it."""
        check_s = min(CHECK_S_MAX, self._settings.interval_s)
        self._checking = PeriodicTask(
            f"settlement on {chain.network}",
            self._check,
            check_s,
            passing=(ChainUnavailableError, StoreUnavailableError),
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
        if late := self._withdrawals.late:
            found.append(f"{self._chain.network}: {late} withdrawing accounts are not claimed in full")
        return found

    # What others ask.

    async def settle_now(
        self, receivers: Collection[bytes] | None = None, *, timeout_s: float = SETTLE_NOW_TIMEOUT_S
    ) -> Claimed:
        """Claim all that is owed to these receivers (None: to all), and wait until it is in a block.

        Returns the transactions, those that were under way before included; one that has not been mined in time comes
        back as it is; and what was left out. Raises ChainUnavailableError and StoreUnavailableError.
        """
        wanted = None if receivers is None else frozenset(receivers)
        run = self._waiting.get(wanted)
        if run is None:
            # Of its own, so that one caller's going away ends nobody else's settlement.
            run = self._waiting[wanted] = asyncio.create_task(self._run_in_turn(wanted))
            self._runs.add(run)
            run.add_done_callback(partial(self._run_ended, wanted))
        claims = await asyncio.shield(run)
        mined = await asyncio.gather(*(self._mined(claim, timeout_s) for claim in claims))
        return Claimed(mined, claims.left_out)

    async def _run_in_turn(self, wanted: frozenset[bytes] | None) -> Claimed:
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
        return Claimed([*under_way, *sent], sent.left_out)

    def _run_ended(self, wanted: frozenset[bytes] | None, run: "asyncio.Task[Claimed]") -> None:
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
        # First: an alarm must be out also where nothing can be settled, and these claims cannot wait.
        await self._claim_withdrawing(now)
        if now >= self._next_at:
            # The first run after a start takes everything: how long something has waited is not known any more.
            due = self._due_by_policy(now) if self._ran_before else EVERYTHING
            async with self._one:
                await self._settle(due)
            self._ran_before = True
            self._next_at = now + self._settings.interval_s

    def _due_by_policy(self, now: float) -> Due:
        policy = self._settings.policy
        old = frozenset(id_ for id_, since in self._waiting_since.items() if now - since >= policy.max_age_s)
        return Due(policy.min_amount, old)

    async def _claim_withdrawing(self, now: float) -> None:
        """Claim what a withdrawal could reach, see `withdrawals`; all else the timer does."""
        ledger = self._writer.ledger
        if self._scan_withdrawals:
            self._withdrawals.begin(ledger.withdrawing(self._chain.escrow.ref))
            self._scan_withdrawals = False
        look = self._withdrawals.look(ledger.known_account, now)
        for account, left_s in look.newly_late:  # I9
            _alarm.critical(
                "account %s withdraws in %d s and %d is charged but not claimed",
                to_hex(account.id), left_s, account.exposure,
            )  # fmt: skip
        try:
            if look.due:
                async with self._one:
                    await self._settle(EVERYTHING, only=look.due)
                self._withdrawals.tried(look.due, now)
        finally:
            await self._hurry(look.at_risk)

    async def _hurry(self, at_risk: Collection[bytes]) -> None:
        """Let the claims under way that a withdrawal threatens, ordinary ones too, bid what they have to."""
        stakes: dict[int, Stake] = {}
        if at_risk:
            ledger = self._writer.ledger
            threatened = [
                (ledger.known_account(account_id).config.token, channel)
                for account_id in at_risk
                for channel in ledger.channels_of(account_id)
                if channel.charged > channel.claimed
            ]
            for claim_id, totals in self._totals(await self._journaled_claims()).items():
                saved = [
                    Stake(token, min(totals[channel.id], channel.charged) - channel.claimed)
                    for token, channel in threatened
                    if totals.get(channel.id, 0) > channel.claimed
                ]
                if saved:  # a batch is in one token
                    stakes[claim_id] = Stake(saved[0].token, sum(stake.amount for stake in saved))
        self._chain.hurry(stakes)

    # One settlement.

    async def _settle(self, due: Due, only: frozenset[bytes] | None = None) -> Claimed:
        """Plan and send; `only`: these accounts, because they withdraw."""
        in_flight = await self._in_flight()
        packers: dict[bytes, Packer] = {}
        run = Run(urgent=only is not None)
        ledger = self._writer.ledger
        # Those of other escrows too, which plan nothing: to pass by a million in one step would hold everybody up.
        accounts = ledger.every_account() if only is None else map(ledger.known_account, only)
        try:
            for number, account in enumerate(accounts):
                if number % ACCOUNTS_PER_SLICE == ACCOUNTS_PER_SLICE - 1:
                    await asyncio.sleep(0)
                for group in self._plan(account.id, in_flight, due, run):
                    token = group.account.config.token
                    packer = packers.setdefault(token, Packer(token, self._chain.escrow.claim_costs))
                    packer.gas_max = self._claiming.planned_gas_max
                    for batch in packer.add(group):
                        await self._claiming.send(batch, run)
            for packer in packers.values():
                for batch in packer.finish():
                    await self._claiming.send(batch, run)
        finally:
            self._followed.update((claim.id, claim) for claim in run.settled)
            if run.urgent:
                self._withdrawals.claimed(run.accounts, self._clock())
        return run.settled

    def _plan(self, account_id: bytes, in_flight: Mapping[bytes, int], due: Due, run: Run) -> Iterator[Group]:
        ledger = self._writer.ledger
        account = ledger.known_account(account_id)
        if account.escrow != self._chain.escrow.ref or account.exposure <= 0:
            return
        known = list(ledger.channels_of(account_id))
        aside = {} if run.urgent else self._claiming.set_aside(known)
        channels = [channel for channel in known if channel.id not in aside]
        planned: set[bytes] = set()
        usable, costs = self._claiming.usable(account), self._chain.escrow.claim_costs
        for group in plan_account(usable, channels, in_flight, due, costs, self._claiming.planned_gas_max):
            planned.update(row.channel_id for row in group.rows)
            yield group
        if due.receivers is not None or due is EVERYTHING:
            open_ones = (
                (channel, amount)
                for channel in known
                if channel.id not in planned
                and (amount := channel.charged - max(channel.claimed, in_flight.get(channel.id, 0))) > 0
                and due.includes(channel, amount)
            )
            run.settled.left_out += self._claiming.left_out(account, open_ones, aside)
        if self._settings.policy.min_amount:
            self._note_waiting(
                [channel.id for channel in channels if channel.charged > channel.claimed and channel.id not in planned],
                planned, self._clock(),
            )  # fmt: skip

    def _note_waiting(self, waiting: list[bytes], planned: set[bytes], now: float) -> None:
        for channel_id in planned:
            self._waiting_since.pop(channel_id, None)
        for channel_id in waiting:
            self._waiting_since.setdefault(channel_id, now)

    async def _in_flight(self) -> dict[bytes, int]:
        """Up to where claims raise `claimed`, by channel, where the ledger does not have that yet.

        These are the open ones, and those that are final while a second answer that confirms them is missing: to send
        them again would cost gas and pay nothing, as long as an endpoint is down.
        """
        claims = await self._open_claims()
        ledger = self._writer.ledger
        self._landed = {
            channel_id: total
            for channel_id, total in self._landed.items()
            if (channel := ledger.known_channel(channel_id)).claimed < total
            and self._chain.is_held_back(channel.account_id)
        }
        totals = dict(self._landed)
        for claim_totals in self._totals(claims).values():
            for channel_id, total in claim_totals.items():
                totals[channel_id] = max(total, totals.get(channel_id, 0))
        return totals

    def _totals(self, claims: Iterable[OutboundTransaction]) -> Mapping[int, Mapping[bytes, int]]:
        """Up to where each claim would raise `claimed`, by channel; read from its calldata once."""
        known = self._totals_in_flight
        self._totals_in_flight = OrderedDict(
            (claim.id, known.get(claim.id) or self._chain.escrow.claim_totals(claim.data)) for claim in claims
        )
        return self._totals_in_flight

    async def _open_claims(self) -> list[OutboundTransaction]:
        """Claims whose effect the ledger does not have yet.

        A claim leaves the outbox's open ones when it is final, so they are asked first: whatever left them before is in
        the blocks that the mirror is then waited for.
        """
        claims = await self._journaled_claims()
        head = await self._chain.head()
        try:
            await self._chain.mirrored(head.number, self._settings.mirror_wait_s)
        except TimeoutError:
            raise ChainUnavailableError(
                f"the mirror of {self._chain.network} does not reach block {head.number}"
            ) from None
        return claims

    async def _journaled_claims(self) -> list[OutboundTransaction]:
        """Claims that are not final."""
        opened = await self._outbox.open(self._chain.network)
        to = self._chain.escrow.address
        claims = {one.id: one for one in opened if one.kind is TransactionKind.CLAIM and one.to == to}
        for claim_id in self._followed.keys() - claims.keys():
            await self._note_landed(claim_id)
        self._followed = claims | self._followed
        return list(claims.values())

    async def _note_landed(self, claim_id: int) -> None:
        """Keep what a claim paid, if it is final and paid all that it asked for; all others are planned again."""
        followed = self._followed.get(claim_id)
        if followed is None:
            return
        claim = await self._outbox.by_reference(followed.kind, followed.reference)
        if claim is not None and claim.status in (TransactionStatus.PENDING, TransactionStatus.MINED):
            return  # it was sent a moment ago
        self._followed.pop(claim_id, None)
        if claim is None or claim.status is not TransactionStatus.FINAL:
            return
        # What a claim was to pay is known until its receipt tells what it paid.
        if followed.status is not TransactionStatus.PENDING or set(claim.payouts) != set(followed.payouts):
            return
        for channel_id, total in self._chain.escrow.claim_totals(claim.data).items():
            if self._writer.ledger.channel(channel_id) is not None:
                self._landed[channel_id] = max(total, self._landed.get(channel_id, 0))

    async def _mined(self, claim: OutboundTransaction, timeout_s: float) -> OutboundTransaction:
        try:
            return await self._chain.wait(claim, timeout_s=timeout_s)
        except TimeoutError:
            return await self._outbox.by_reference(claim.kind, claim.reference) or claim
