"""What became of payments whose answer was lost, and of grants whose holder died.

A payment that was sent and not answered counts as spent. To learn more, the key that proved it is revoked: from then on
nothing new can be charged under it, and the aggregator's totals say how much was. Their word is bounded by this book:

- it can free no more than what is unknown here (and gains nothing by it: the ceilings stand where they stood);
- what it counts as charged is taken over as far as this wallet has sent proofs for it;
- what it counts beyond that is *disputed*: counted as spent, told in the status, and never approved.

Totals and payments move at the same time. Where payments of a channel were under way while the totals were read, only
what must be free is freed, and the rest stays unknown until a quieter moment.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from tallystick.hexadecimal import checksum
from tallystick.quantities import ChannelTotals
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.wallet.accounts import AccountClient
from tallystick_client.payer.wallet.allocator import Allocator
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.local_grants import Activity, LocalGrants
from tallystick_client.payer.wallet.rows import Account, Channel, GrantRow
from tallystick_client.payer.wallet.spend_keys import SELF, SpendKeys
from tallystick_client.payer.wallet.store import Store
from tallystick_client.payer.wallet.timing import TIMING

RETENTION_S: Final = 172_800
"""How old a payment id may be, where the aggregator does not tell: its default."""
RETENTION_MARGIN_S: Final = 3_600
"""How much longer a lost voucher is waited for: the clocks that made and judge its payment id may differ."""

_log = logging.getLogger("tallystick.payer")


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a reconciliation changed, in atomic units: `unknown` and `disputed` are what is left of each."""

    freed: int = 0
    charged: int = 0
    unknown: int = 0
    disputed: int = 0

    def __add__(self, other: "Reconciled") -> "Reconciled":
        """Both together."""
        return Reconciled(
            self.freed + other.freed,
            self.charged + other.charged,
            self.unknown + other.unknown,
            self.disputed + other.disputed,
        )


class _Snapshot(NamedTuple):
    """A channel just before its totals were read."""

    charged: int
    payments: int


class Reconciler:
    """Compares the book with the aggregators' totals."""

    def __init__(
        self,
        store: Store,
        clients: Mapping[Operator, AccountClient],
        keys: SpendKeys,
        grants: LocalGrants,
        allocator: Allocator,
        clock: Clock = time.time,
        drain_s: float = TIMING.drain_s,
    ) -> None:
        self._store = store
        self._book = store.book
        self._clients = clients
        self._keys = keys
        self._grants = grants
        self._allocator = allocator
        self._clock = clock
        self._drain_s = drain_s
        self._locks: dict[bytes, asyncio.Lock] = {}

    async def reconcile(
        self, account: Account, operator: Operator, *, rotate: bool = True, spare_s: float = 0
    ) -> Reconciled:
        """Settle what can be settled of an account; several calls at once are one after the other.

        `rotate`: replace the keys under which something is unknown, so that it can be settled; without it the totals
        are only compared. `spare_s`: workers' keys that are younger go on.

        Raises AggregatorUnavailableError, and RefusedError where the aggregator does not take the calls.
        """
        async with self._locks.setdefault(account.id, asyncio.Lock()):
            return await self._reconcile(account, self._clients[operator], rotate=rotate, spare_s=spare_s)

    async def _reconcile(self, account: Account, client: AccountClient, *, rotate: bool, spare_s: float) -> Reconciled:
        self._grants.sync()
        holders = self._holders_of_unknown(account, spare_s) if rotate else set[str]()
        for holder in holders:
            # Payments go on under a new key while those of the old one end; workers get theirs with their next grant.
            self._keys.drop(account, holder)
        if SELF in holders:
            self._grants.retire(account.id)
            await self._grants.drained(account.id, self._drain_s)
        await self._keys.revoke_unused(account, client)
        self._grants.sync()
        activity = self._grants.activity()
        before = {c.id: _Snapshot(c.charged, activity[c.id].payments) for c in self._book.channels_of(account.id)}
        now_s = self._clock()
        state = await client.read(account.id)
        self._grants.sync()
        if state is None:
            return Reconciled()
        dead_before_s = now_s - (state.payment_id_retention_s or RETENTION_S) - RETENTION_MARGIN_S
        told = {totals.channel_id: totals for totals in state.channels}
        activity = self._grants.activity()
        result = Reconciled()
        for id_, snapshot in before.items():
            channel = self._book.channels[id_]
            # A channel that the aggregator never heard of was never charged.
            totals = told.pop(id_, None) or ChannelTotals(id_, channel.config.receiver, 0, 0, 0, 0)
            result += self._settle(channel, totals, snapshot, activity[id_], dead_before_s)
        if account.active and any(totals.ceiling for totals in told.values()):
            _log.warning("a channel of this account is not in the book: is its key used by another wallet?")
        await self._store.commit()
        return result

    def _holders_of_unknown(self, account: Account, spare_s: float) -> set[str]:
        """Whose keys, still in use, have payments that nobody knows the end of, or that only a seller does."""
        ours = {channel.id for channel in self._book.channels_of(account.id)}
        denied = {SELF} if self._grants.has_denied(account.id) else set[str]()
        return denied | {
            row.holder
            for row in self._book.grants.values()
            if row.unknown and row.channel_id in ours and self._is_due(account, row, spare_s)
        }

    def _is_due(self, account: Account, row: GrantRow, spare_s: float) -> bool:
        if row.closed_at and not self._keys.is_live(row.key_id):
            return False
        live = self._keys.live(account, row.holder)
        return row.holder == SELF or live is None or self._clock() >= live.made_at + spare_s

    def _settle(
        self, channel: Channel, totals: ChannelTotals, before: _Snapshot, activity: Activity, dead_before_s: float
    ) -> Reconciled:
        rows = self._book.grants_of(channel.id)
        dead = [row for row in rows if self._is_dead(row, dead_before_s)]
        under_way = sum(row.open for row in rows) - activity.unspent
        # A worker's report may have come while the totals were read: what it told was not told `before`.
        is_quiet = (
            activity.payments == before.payments
            and channel.charged == before.charged
            and activity.in_flight == 0
            and under_way == 0
        )
        # A server cannot make us count more than we ever signed.
        told = min(totals.charged, channel.ceiling)
        verdict = judge(
            unknown=sum(row.unknown for row in dead),
            beyond=max(0, told - before.charged - channel.disputed),
            reserved=totals.reserved,
            is_quiet=is_quiet and len(dead) == sum(1 for row in rows if row.unknown),
        )
        freed = self._book.resolve(dead, verdict.charged, verdict.open)
        excess = max(0, told - channel.charged - channel.unknown - under_way)
        disputed = excess if is_quiet else max(excess, channel.disputed)
        if disputed > channel.disputed:
            receiver = checksum(channel.config.receiver)
            _log.warning("the aggregator counts %d more for %s than this wallet sent proofs for", disputed, receiver)
        self._book.dispute(channel, disputed, self._allocator.today())
        return Reconciled(freed, verdict.charged, channel.unknown, channel.disputed)

    def _is_dead(self, row: GrantRow, dead_before_s: float) -> bool:
        """Whether nothing that was sent under this grant can be charged anew.

        A voucher is worth nothing once its payment id is refused for its age.
        """
        if row.key_id:
            return self._keys.is_dead(row)
        return bool(row.closed_at) and row.closed_at <= dead_before_s


class Verdict(NamedTuple):
    """Of what was unknown: how much was taken, and how much may yet be. The rest was not and will not be."""

    charged: int
    open: int


def judge(*, unknown: int, beyond: int, reserved: int, is_quiet: bool) -> Verdict:
    """What became of `unknown`, where the aggregator counts `beyond` more than the book, and holds `reserved`.

    Where it was not quiet, or others are unknown too, `beyond` may stem from them: then nothing is taken for charged.
    """
    at_most = min(unknown, beyond + reserved)
    charged = min(unknown, beyond) if is_quiet else 0
    return Verdict(charged, at_most - charged)
