"""The store's twins in memory, for tests and the simulation. They keep encoded bytes, so `load` really replays.

`MemoryDisk` is what survives a crash: to crash, drop the journal and the outbox and open new ones on the same disk.
Tests put a disk in its place that fails as they plan (tests/aggregator/failing_disk.py).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from tallystick.payment_ids import payment_id_ms
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.events import Event
from tallystick_aggregator.ledger.payments import PAYMENT_KEY_BYTES, PackedPayment, PaymentKey
from tallystick_aggregator.ledger.state import Changes, Ledger, payment_key
from tallystick_aggregator.store.events import decode_entry, encode_entry
from tallystick_aggregator.store.eviction import HOT_AGE_MS_MAX, HOT_PAYMENTS_MAX, Backlog, RecentPayments
from tallystick_aggregator.store.port import (
    OutboundTransaction,
    StoreLockedError,
    StoreUnavailableError,
    TransactionKind,
    TransactionStatus,
)
from tallystick_aggregator.store.rows import decode_payment, encode_payment
from tallystick_aggregator.store.transactions import decode_outgoing, encode_outgoing


class Operation(Enum):
    """A write, as `MemoryDisk.write` is told of it."""

    APPEND = auto()
    CHECKPOINT = auto()
    OUTBOX = auto()
    LISTING = auto()


@dataclass(slots=True)
class MemoryDisk:
    """What survives a crash: the log, the payments that checkpoints wrote down, the outbox, the listings."""

    entries: list[bytes] = field(default_factory=list[bytes])
    payments: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    outbound: dict[int, bytes] = field(default_factory=dict[int, bytes])
    epoch: int = 0
    listings: dict[str, bytes] = field(default_factory=dict[str, bytes])

    def write(self, operation: Operation, store: Callable[[], None]) -> None:
        """Store something. `operation` is for disks that fail."""
        del operation
        store()


class MemoryJournal:
    """A Journal over a MemoryDisk. It keeps every entry: checkpoints only make memory smaller, not the log."""

    def __init__(
        self,
        disk: MemoryDisk | None = None,
        *,
        hot_payments_max: int = HOT_PAYMENTS_MAX,
        hot_age_ms_max: int = HOT_AGE_MS_MAX,
    ) -> None:
        self.disk = disk or MemoryDisk()
        self.disk.epoch += 1
        self.epoch = self.disk.epoch
        self._hot_limits = hot_payments_max, hot_age_ms_max
        self._hot = RecentPayments(*self._hot_limits)
        self._ledger = Ledger()
        self._backlog = Backlog(0, 0)
        self._closed = False

    @property
    def backlog(self) -> int:
        return self._backlog.events

    async def load(self) -> Ledger:
        self._open()
        ledger = Ledger()
        for number, entry in enumerate(self.disk.entries):
            draft = Draft(ledger)
            draft.replay(decode_entry(entry, f"log entry {number}"))
            draft.adopt()
        self._ledger, self._hot = ledger, RecentPayments(*self._hot_limits)
        self._backlog = Backlog(ledger.commits, 0)
        self._forget_what_is_written(ledger)
        return ledger

    async def append(self, events: Sequence[Event]) -> None:
        self._open()
        entry = encode_entry(events)
        await asyncio.sleep(0)  # others run while a disk works
        self.disk.write(Operation.APPEND, lambda: self.disk.entries.append(entry))
        self._backlog.add(self._ledger.commits + 1, len(events))

    async def recall(self, payments: Sequence[tuple[bytes, bytes]]) -> Mapping[PaymentKey, PackedPayment]:
        self._open()
        await asyncio.sleep(0)
        keys = [payment_key(*pair) for pair in payments]
        rows = self.disk.payments
        return {key: decode_payment(key, rows[key]) for key in keys if key in rows}

    async def checkpoint(self, now_ms: int) -> None:
        self._open()
        changes, commits = self._ledger.changes, self._ledger.commits
        forgotten_ms = self._ledger.payments_forgotten_ms
        rows = {key: encode_payment(key, payment) for key, payment in changes.each_payment()}

        def write_down() -> None:
            self.disk.payments.update(rows)
            for key in [key for key in self.disk.payments if payment_id_ms(key) < forgotten_ms]:
                del self.disk.payments[key]

        self.disk.write(Operation.CHECKPOINT, write_down)
        self._ledger.changes = Changes()
        self._backlog.cover(commits)
        self._hot.wrote_payments(changes.each_payment())
        self._hot.wrote_reservations(changes.reservations)
        self._hot.choose(now_ms)

    def trim(self) -> None:
        self._hot.trim(self._ledger)

    async def close(self) -> None:
        self._closed = True

    def _forget_what_is_written(self, ledger: Ledger) -> None:
        """Leave in memory what a store that had dropped its log would find, and no more."""
        forgotten_ms = ledger.payments_forgotten_ms
        held = {handle[:PAYMENT_KEY_BYTES] for handle in ledger.reservations}
        for key in [key for key in ledger.payments if payment_id_ms(key) < forgotten_ms and key not in held]:
            del ledger.payments[key]
        # As they are now: one that was captured after the last checkpoint must be written down again.
        written = [
            (key, payment)
            for key, payment in ledger.payments.items()
            if self.disk.payments.get(key) == encode_payment(key, payment)
        ]
        self._hot.wrote_payments(written)
        self._hot.choose(0)
        while self._hot.leaving:
            self._hot.trim(ledger)
        for key, _ in written:
            for changed in ledger.changes.payments:
                changed.pop(key, None)

    def _open(self) -> None:
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        if self.epoch != self.disk.epoch:
            raise StoreLockedError("another process has taken over the store")


class MemoryOutbox:
    """An Outbox over a MemoryDisk."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = disk or MemoryDisk()
        self.closed = False

    async def add(self, outbound: OutboundTransaction) -> OutboundTransaction:
        known = await self.by_reference(outbound.kind, outbound.reference)
        if known is not None:
            return known
        added = replace(outbound, id=max(self.disk.outbound, default=0) + 1)
        self._write(added)
        return added

    async def update(self, outbound: OutboundTransaction) -> None:
        if outbound.id not in self.disk.outbound:
            raise ValueError(f"the outbox has no transaction {outbound.id}")
        self._write(outbound)

    async def by_reference(self, kind: TransactionKind, reference: bytes) -> OutboundTransaction | None:
        await asyncio.sleep(0)
        found = (known for known in self._all() if (known.kind, known.reference) == (kind, reference))
        return next(found, None)

    async def by_payment_id(self, payment_id: bytes) -> OutboundTransaction | None:
        """See the port."""
        await asyncio.sleep(0)
        return next((known for known in self._all() if known.payment_id == payment_id), None)

    async def open(self, network: str) -> Sequence[OutboundTransaction]:
        await asyncio.sleep(0)
        unsettled = TransactionStatus.PENDING, TransactionStatus.MINED
        found = (known for known in self._all() if known.network == network and known.status in unsettled)
        return sorted(found, key=lambda known: (known.nonce, known.id))

    async def claims(self, receivers: Sequence[bytes], before_id: int, limit: int) -> Sequence[OutboundTransaction]:
        await asyncio.sleep(0)
        wanted = frozenset(receivers)
        found = [
            known
            for known in reversed(self._all())
            if known.kind is TransactionKind.CLAIM
            and (before_id == 0 or known.id < before_id)
            and any(payout.receiver in wanted for payout in known.payouts)
        ]
        return found[:limit]

    async def since(self, network: str, created_at: int) -> Sequence[OutboundTransaction]:
        await asyncio.sleep(0)
        return [known for known in self._all() if known.network == network and known.created_at > created_at]

    async def next_nonce(self, network: str, sender: bytes) -> int:
        await asyncio.sleep(0)
        used = (known.nonce for known in self._all() if (known.network, known.sender) == (network, sender))
        return max(used, default=-1) + 1

    def _all(self) -> list[OutboundTransaction]:
        if self.closed:
            raise StoreUnavailableError("the store is closed")
        return [decode_outgoing(id_, body) for id_, body in sorted(self.disk.outbound.items())]

    def _write(self, outbound: OutboundTransaction) -> None:
        if self.closed:
            raise StoreUnavailableError("the store is closed")
        body = encode_outgoing(outbound)
        self.disk.write(Operation.OUTBOX, lambda: self.disk.outbound.__setitem__(outbound.id, body))


class MemoryListings:
    """Listings over a MemoryDisk."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk
        self.closed = False

    async def put(self, seller: str, body: bytes) -> None:
        """See the port."""
        await asyncio.sleep(0)
        self._open()

        def store() -> None:
            self._disk.listings.pop(seller, None)
            if body:
                self._disk.listings[seller] = body

        self._disk.write(Operation.LISTING, store)

    async def all(self) -> Mapping[str, bytes]:
        """See the port."""
        await asyncio.sleep(0)
        self._open()
        return dict(self._disk.listings)

    def _open(self) -> None:
        if self.closed:
            raise StoreUnavailableError("the store is closed")


class MemoryStore:
    """See `port.Store`. Closing the journal closes all of it; a new one on the same disk is a restart."""

    lost_epochs = 0

    def __init__(
        self,
        disk: MemoryDisk | None = None,
        *,
        hot_payments_max: int = HOT_PAYMENTS_MAX,
        hot_age_ms_max: int = HOT_AGE_MS_MAX,
    ) -> None:
        disk = disk or MemoryDisk()
        self.journal = MemoryJournal(disk, hot_payments_max=hot_payments_max, hot_age_ms_max=hot_age_ms_max)
        self.outbox = MemoryOutbox(disk)
        self.listings = MemoryListings(disk)

    async def close(self) -> None:
        await self.journal.close()
        self.outbox.closed = self.listings.closed = True
