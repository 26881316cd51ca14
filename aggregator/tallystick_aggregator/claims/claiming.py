"""Sends batches of claims, finds the rows that would revert, and says of everything left out why (threat 10).

Only what the contracts refuse with an error of their own is set aside for a while: it would be refused again. Whatever
else a node answers (too little gas, no reason given, an error of its own) may be gone a moment later, so the rows are
due again at the next settlement. A withdrawal's claims are never set aside: there may be no next time.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tallystick.hexadecimal import to_hex
from tallystick.settlements import LeftOut
from tallystick_aggregator.chain.claim_plan import ClaimCosts, Group, PlannedRow
from tallystick_aggregator.chain.port import GAS_LIMIT_MAX, Chain, ChainUnavailableError, RevertedError, Send
from tallystick_aggregator.chain.sending.bidding import estimate_of
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.claims.planner import Batch
from tallystick_aggregator.ledger.accounts import attest_charges
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Account, Channel, Ledger
from tallystick_aggregator.store.port import OutboundTransaction, TransactionKind

SCALE_MAX: Final = 64.0
_WEIGHT_OF_OLD: Final = 0.75
"""A cheaper batch lowers the scale by and by only: one batch may have had no new seller, and the next a hundred."""


class GasScale:
    """How much dearer than the planned costs one chain is; learned anew by each start.

    A binding's `ClaimCosts` are for today's rules of Ethereum. A chain may charge otherwise: another kind of chain, or
    a hard fork (EIP-8037 makes a first payout four times as dear). Nothing is paid wrongly by that: a batch's gas limit
    comes from the node's estimate, and one that would take more than a transaction may is halved. But halving costs
    estimates, so the next batches are planned as large as fits: by the ratio of estimated to planned gas.
    """

    def __init__(self, costs: ClaimCosts) -> None:
        self._costs = costs
        self._scale = 1.0

    @property
    def planned_max(self) -> int:
        """The most that a batch may be planned at, in the planner's units of gas."""
        return self._costs.reserve_gas + int((self._costs.batch_gas_max - self._costs.reserve_gas) / self._scale)

    def took(self, batch: Batch, gas_limit: int) -> None:
        """A batch was sent with this gas limit, which the node's estimate has led to."""
        # The reserve is no price: it only has to be there, on every chain alike.
        ratio = (estimate_of(gas_limit) - self._costs.reserve_gas) / max(1, batch.gas - self._costs.reserve_gas)
        if ratio < self._scale:
            if gas_limit >= GAS_LIMIT_MAX:
                return  # the estimate was this much at least: nothing shows that the chain has become cheaper
            ratio = _WEIGHT_OF_OLD * self._scale + (1 - _WEIGHT_OF_OLD) * ratio
        self._scale = min(max(1.0, ratio), SCALE_MAX)

    def refused(self, batch: Batch) -> None:
        """A batch that cannot be halved was refused. An approval perhaps takes too much gas as a whole: the next plan
        finds no room for it, and goes by vouchers. If that was not the reason, what is sent then corrects the scale.
        """
        if batch.groups[0].approval is not None:
            half = max(1, (batch.gas - self._costs.reserve_gas) // 2)
            self._scale = min(max(self._scale, (self._costs.batch_gas_max - self._costs.reserve_gas) / half), SCALE_MAX)


PASSING_MAX: Final = 8
"""Single rows that fail for a passing reason before the rest of a settlement is not tried any more."""

_log = logging.getLogger(__name__)
_alarm = logging.getLogger("tallystick.alarm")


class Claimed(list[OutboundTransaction]):
    """The claim transactions of a settlement; `left_out`: what it did not claim although it was asked for."""

    def __init__(self, claims: Iterable[OutboundTransaction] = (), left_out: Iterable[LeftOut] = ()) -> None:
        super().__init__(claims)
        self.left_out = list(left_out)


@dataclass(slots=True)
class Run:
    """One settlement while it is made. `urgent`: for accounts that withdraw."""

    urgent: bool
    settled: Claimed = field(default_factory=Claimed)
    accounts: set[bytes] = field(default_factory=set[bytes])
    """The accounts of what was sent."""
    passing: int = 0
    """Single rows that failed for a passing reason."""


class Claiming:
    """Sends the claims of one escrow, and remembers what is of no use to send."""

    def __init__(self, chain: Chain, writer: Writer, clock: Callable[[], float], set_aside_s: float) -> None:
        self._chain = chain
        self._writer = writer
        self._clock = clock
        self._set_aside_s = set_aside_s
        self._set_aside: dict[bytes, tuple[float, str]] = {}
        self._distrusted: set[bytes] = set()
        self._gas_scale = GasScale(chain.escrow.claim_costs)

    @property
    def planned_gas_max(self) -> int:
        """The most that a batch may be planned at, by what this chain took for those before."""
        return self._gas_scale.planned_max

    def usable(self, account: Account) -> Account:
        """The account, without an approval that turned out to be of no use."""
        trusted = account.copy()
        if account.approval is not None and account.approval.signature in self._distrusted:
            trusted.approval = None
        return trusted

    def set_aside(self, channels: Sequence[Channel]) -> dict[bytes, str]:
        """Which of these channels are not claimed for a while, and why, by id."""
        now = self._clock()
        for channel in channels:
            if self._set_aside.get(channel.id, (now, ""))[0] <= now:
                self._set_aside.pop(channel.id, None)
        return {channel.id: self._set_aside[channel.id][1] for channel in channels if channel.id in self._set_aside}

    def left_out(
        self, account: Account, channels: Iterable[tuple[Channel, int]], aside: Mapping[bytes, str]
    ) -> Iterator[LeftOut]:
        """What a plan passed by, and why; `aside` as `set_aside` tells."""
        for channel, amount in channels:
            if channel.id in aside:
                why = f"set aside for a while, because it would revert: {aside[channel.id]}"
            elif account.funds <= account.claimed:
                why = "the deposit is used up; it is claimed when the payer deposits again"
            else:
                why = "no voucher of the payer covers what was charged"
            yield LeftOut(self._chain.network, channel.id, channel.receiver, account.config.token, amount, why)

    async def send(self, batch: Batch, run: Run) -> None:
        """Send a batch; if it would revert, its halves. Raises ChainUnavailableError."""
        if run.passing >= PASSING_MAX and not run.settled:
            self._leave_out(batch.groups, run, "not tried, because others fail for a passing reason")
            return
        call = self._chain.escrow.claim_call(batch.token, batch.groups)
        await self._attest([row for group in batch.groups for row in group.rows if row.charges])
        try:
            outbound = await self._chain.send(
                Send(TransactionKind.CLAIM, os.urandom(32), call, batch.rows, batch.payouts, urgent=run.urgent)
            )
        except RevertedError as reverted:
            if self._chain.escrow.blames_sender(reverted):
                _alarm.critical("no claim can be sent: %s", reverted.reason)
                raise ChainUnavailableError(f"no claim can be sent: {reverted.reason}") from reverted
            _log.warning("a batch of %d claims would revert: %s", batch.rows, reverted.reason)
            halves = batch.halves(self._chain.escrow.claim_costs)
            if halves is None:
                if not reverted.by_contract:
                    self._gas_scale.refused(batch)
                self._refused(batch.groups[0], reverted, run)
                return
            for half in halves:
                await self.send(half, run)
            return
        self._gas_scale.took(batch, outbound.gas_limit)
        _log.info("claim %d: %d channels of %d accounts", outbound.id, batch.rows, len(batch.groups))
        run.settled.append(outbound)
        run.accounts.update(group.account.id for group in batch.groups)

    async def _attest(self, rows: Sequence[PlannedRow]) -> None:
        """Note what a claim attests before it is journaled, so that a crash in between has no charge attested twice."""
        if not rows:
            return

        def decision(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> None:
            for row in rows:
                attest_charges(draft, row.channel_id, row.total, row.before, row.charges)

        await self._writer.run(decision)

    def _refused(self, group: Group, reverted: RevertedError, run: Run) -> None:
        """A row that would revert by itself, or an approval."""
        account = to_hex(group.account.id)
        if not reverted.by_contract:
            run.passing += 1
            self._leave_out([group], run, f"{reverted.reason}; it is tried again")
            return
        if group.approval is not None:
            self._distrusted.add(group.approval)
            _alarm.error("the approval of account %s cannot be used: %s", account, reverted.reason)
            self._leave_out([group], run, f"{reverted.reason}; the next settlement goes by vouchers")
            return
        for row in group.rows:
            _alarm.error("the claim on channel %s would revert: %s", to_hex(row.channel_id), reverted.reason)
            if not run.urgent:
                self._set_aside[row.channel_id] = (self._clock() + self._set_aside_s, reverted.reason)
        self._leave_out([group], run, reverted.reason)

    def _leave_out(self, groups: Iterable[Group], run: Run, reason: str) -> None:
        run.settled.left_out += [
            LeftOut(self._chain.network, row.channel_id, row.receiver, group.account.config.token, row.amount, reason)
            for group in groups
            for row in group.rows
            if row.amount
        ]
