"""What to claim, and in which batches. Pure: from the ledger and what is in flight to rows, no clock, no chain.

`plan_account` decides for one account which of its channels are due and how they are authorised; `Packer` fills
transactions with accounts. Both work account by account, so that a caller with a million channels can pause in between.

A row claims `charged`, never the ceiling (I6); the voucher's ceiling only goes along because its signature is over it.
Nothing here must be right for money to be safe: a row that claims too much does not exist in the ledger, one that
claims too little or twice is made good by the next plan, since `claimed` comes from the chain.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from tallystick_aggregator.chain.claim_plan import ClaimCosts, Group, PlannedRow
from tallystick_aggregator.ledger.state import Account, Channel
from tallystick_aggregator.store.port import Payout


@dataclass(frozen=True, slots=True)
class Policy:
    """When a claim is worth its gas (threat 18). Amounts in atomic units.

    A channel is due once so much waits on it, or something has waited for so long. Withdrawals and explicit requests
    make everything due.
    """

    min_amount: int = 0
    max_age_s: int = 86_400


NO_POLICY = Policy()


class Due(NamedTuple):
    """Which channels are due: those with so much outstanding, and these."""

    min_amount: int
    channels: frozenset[bytes] = frozenset()
    receivers: frozenset[bytes] | None = None
    """If given, channels of these receivers only, and all of them."""

    def includes(self, channel: Channel, outstanding: int) -> bool:
        """Whether a channel with so much outstanding is due."""
        if self.receivers is not None:
            return channel.receiver in self.receivers
        return outstanding >= self.min_amount or channel.id in self.channels


EVERYTHING = Due(0)


class Batch(NamedTuple):
    """What one transaction claims, in one token."""

    token: bytes
    groups: tuple[Group, ...]
    gas: int
    bytes: int

    @property
    def rows(self) -> int:
        """How many channels it claims."""
        return sum(len(group.rows) for group in self.groups)

    @property
    def payouts(self) -> tuple[Payout, ...]:
        """What each receiver is to get."""
        amounts: dict[bytes, int] = {}
        for group in self.groups:
            for row in group.rows:
                amounts[row.receiver] = amounts.get(row.receiver, 0) + row.amount
        return tuple(Payout(receiver, self.token, amount) for receiver, amount in amounts.items() if amount)

    def halves(self, costs: ClaimCosts) -> "tuple[Batch, Batch] | None":
        """The same rows in two batches, if that is possible; an approval stays whole."""
        parts = [part for group in self.groups for part in _parts(group)]
        if len(parts) < 2:
            return None
        middle = len(parts) // 2
        return _batch_of(self.token, parts[:middle], costs), _batch_of(self.token, parts[middle:], costs)


def plan_account(
    account: Account,
    channels: Iterable[Channel],
    in_flight: Mapping[bytes, int],
    due: Due,
    costs: ClaimCosts,
    gas_max: int | None = None,
) -> list[Group]:
    """What to claim on an account now; nothing if none of it is due, or if the escrow holds nothing for it.

    `gas_max`: what may be planned for one transaction, if less than `costs` say.
    """
    if account.funds <= account.claimed:
        return []
    known = list(channels)
    rows = [
        row
        for channel in known
        if (row := _row(channel, in_flight)) is not None and due.includes(channel, row.total - row.before)
    ]
    if not rows:
        return []
    gas_max = costs.batch_gas_max if gas_max is None else gas_max
    return _by_approval(account, known, rows, in_flight, costs, gas_max) or [Group(account, tuple(rows), None)]


def _row(channel: Channel, in_flight: Mapping[bytes, int]) -> PlannedRow | None:
    before = max(channel.claimed, in_flight.get(channel.id, 0))
    if channel.charged <= before or channel.ceiling < channel.charged or not channel.signature:
        return None
    return PlannedRow(
        channel.id,
        channel.receiver,
        channel.charged,
        before,
        channel.ceiling,
        channel.signature,
        channel.claimed == 0,
        channel.to_attest(before) if channel.charge_count else 0,
    )


def _by_approval(
    account: Account,
    channels: list[Channel],
    rows: list[PlannedRow],
    in_flight: Mapping[bytes, int],
    costs: ClaimCosts,
    gas_max: int,
) -> list[Group]:
    """The payer's approval for what it covers and vouchers for the rest, if that is cheaper than vouchers alone.

    The approval's totals are what its row claims, all of them and in its order; none may be above `charged` (I6).
    An account that is being withdrawn goes by vouchers, row by row: nobody may have a last word on them.
    """
    if account.approval is None or not costs.takes_approvals or account.withdrawing or len(rows) < 2:
        return []
    by_receiver = {channel.receiver: channel for channel in channels}
    approved: list[PlannedRow] = []
    for receiver, total in account.approval.totals:
        channel = by_receiver.get(receiver)
        if channel is None or total > channel.charged:
            return []
        before = max(channel.claimed, in_flight.get(channel.id, 0))
        approved.append(PlannedRow(channel.id, receiver, total, before, total, b"", channel.claimed == 0))
    totals = {row.channel_id: row.total for row in approved}
    rest = tuple(
        row._replace(before=max(row.before, totals.get(row.channel_id, 0)))
        for row in rows
        if totals.get(row.channel_id, 0) < row.total
    )
    groups = [Group(account, tuple(approved), account.approval.signature)]
    if rest:
        groups.append(Group(account, rest, None))
    vouchers = Group(account, tuple(rows), None)
    if sum(_gas(group, costs) for group in groups) >= _gas(vouchers, costs):
        return []
    # An approval cannot be cut: with the transfers to all of its receivers it has to fit into one transaction.
    size = _size(groups[0], costs) + costs.receiver_bytes * len(approved) + costs.fixed_bytes
    cost = _gas(groups[0], costs) + costs.receiver_gas * len(approved) + costs.fixed_gas
    return groups if size <= costs.batch_bytes_max and cost <= gas_max else []


class Packer:
    """Fills the transactions of one token with groups; each receiver of a transaction is paid once in it."""

    def __init__(self, token: bytes, costs: ClaimCosts) -> None:
        self.token = token
        self.gas_max = costs.batch_gas_max
        self._costs = costs
        self._groups: list[Group] = []
        self._receivers: set[bytes] = set()
        self._gas, self._bytes = costs.fixed_gas, costs.fixed_bytes

    def add(self, group: Group) -> Iterator[Batch]:
        """Put a group in; yields the transactions that are full by that."""
        if group.approval is not None:
            if self._groups and not self._fits(group):
                yield self._take()
            self._put(group)
            return
        rows = list(group.rows)
        while rows:
            count = self._room_for(rows)
            if count:
                self._put(Group(group.account, tuple(rows[:count]), None))
                del rows[:count]
            elif self._groups:
                yield self._take()
            else:
                raise ValueError("a single claim does not fit into a transaction")

    def finish(self) -> Iterator[Batch]:
        """Yields what is left."""
        if self._groups:
            yield self._take()

    def _room_for(self, rows: list[PlannedRow]) -> int:
        """How many of these rows by voucher still fit."""
        costs = self._costs
        gas_used, size = self._gas + costs.account_gas, self._bytes + costs.account_bytes
        receivers: set[bytes] = set()
        for count, row in enumerate(rows):
            new = row.receiver not in self._receivers and row.receiver not in receivers
            gas_used += _row_gas(row, costs, by_approval=False) + costs.receiver_gas * new
            size += costs.voucher_row_bytes + costs.receiver_bytes * new
            if gas_used > self.gas_max or size > costs.batch_bytes_max:
                return count
            receivers.add(row.receiver)
        return len(rows)

    def _fits(self, group: Group) -> bool:
        costs, new = self._costs, {row.receiver for row in group.rows} - self._receivers
        gas_used = self._gas + _gas(group, costs) + costs.receiver_gas * len(new)
        size = self._bytes + _size(group, costs) + costs.receiver_bytes * len(new)
        return gas_used <= self.gas_max and size <= costs.batch_bytes_max

    def _put(self, group: Group) -> None:
        costs, new = self._costs, {row.receiver for row in group.rows} - self._receivers
        self._groups.append(group)
        self._receivers |= new
        self._gas += _gas(group, costs) + costs.receiver_gas * len(new)
        self._bytes += _size(group, costs) + costs.receiver_bytes * len(new)

    def _take(self) -> Batch:
        batch = Batch(self.token, tuple(self._groups), self._gas, self._bytes)
        self._groups, self._receivers = [], set()
        self._gas, self._bytes = self._costs.fixed_gas, self._costs.fixed_bytes
        return batch


def pack(token: bytes, groups: Iterable[Group], costs: ClaimCosts) -> list[Batch]:
    """All groups of one token in as few transactions as their order allows."""
    packer = Packer(token, costs)
    batches = [batch for group in groups for batch in packer.add(group)]
    return batches + list(packer.finish())


def _batch_of(token: bytes, groups: list[Group], costs: ClaimCosts) -> Batch:
    packer = Packer(token, replace(costs, batch_gas_max=2**62, batch_bytes_max=2**62))
    for group in _joined(groups):
        list(packer.add(group))
    (batch,) = packer.finish()
    return batch


def _joined(groups: list[Group]) -> list[Group]:
    """Neighbours of the same account, by voucher, as one group."""
    joined: list[Group] = []
    for group in groups:
        last = joined[-1] if joined else None
        if last is not None and last.account is group.account and last.approval is None and group.approval is None:
            joined[-1] = Group(group.account, last.rows + group.rows, None)
        else:
            joined.append(group)
    return joined


def _parts(group: Group) -> list[Group]:
    if group.approval is not None:
        return [group]
    return [Group(group.account, (row,), None) for row in group.rows]


def _gas(group: Group, costs: ClaimCosts) -> int:
    by_approval = group.approval is not None
    rows = sum(_row_gas(row, costs, by_approval=by_approval) for row in group.rows)
    return costs.account_gas + costs.approval_gas * by_approval + rows


def _row_gas(row: PlannedRow, costs: ClaimCosts, *, by_approval: bool) -> int:
    if row.total <= row.before:
        return costs.stale_row_gas
    usual = costs.approval_row_gas if by_approval else costs.voucher_row_gas
    return usual + costs.first_claim_gas * row.first


def _size(group: Group, costs: ClaimCosts) -> int:
    if group.approval is not None:
        return costs.account_bytes + costs.approval_bytes + costs.approval_row_bytes * len(group.rows)
    return costs.account_bytes + costs.voucher_row_bytes * len(group.rows)
