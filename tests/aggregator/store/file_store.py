"""A trivial store, to show that the port can be implemented anew: a file of msgpack rows, each fsynced.

It keeps every event and all payments in memory: right, and slow to start.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.events import Event
from tallystick_aggregator.ledger.payments import PackedPayment, PaymentKey
from tallystick_aggregator.ledger.state import Changes, Ledger, payment_key
from tallystick_aggregator.store.events import decode_entry, encode_entry
from tallystick_aggregator.store.port import (
    OutboundTransaction,
    StoreLockedError,
    StoreUnavailableError,
    TransactionKind,
    TransactionStatus,
)
from tallystick_aggregator.store.transactions import decode_outgoing, encode_outgoing

EPOCH, EVENTS, CHECKPOINT, OUTBOUND, LISTING = "epoch", "events", "checkpoint", "outbound", "listing"

Row = tuple[str, bytes]


class FileStore:
    """See `port.Store`. `refuses` is what a test sets to let writes fail."""

    lost_epochs = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refuses = False
        self.closed = False
        self.rows: list[Row] = []
        path.touch()
        self._read()
        self.epoch = 1 + sum(kind == EPOCH for kind, _ in self.rows)
        self.write(EPOCH, b"")
        self.journal = FileJournal(self)
        self.outbox = FileOutbox(self)
        self.listings = FileListings(self)

    def write(self, kind: str, value: bytes) -> None:
        """Append a row and fsync it. A row that is cut is none."""
        if self.closed or self.refuses:
            raise StoreUnavailableError("the store is closed" if self.closed else "the store was told to refuse")
        known = self.path.stat().st_size
        if known != self._size:
            raise StoreLockedError("another process has taken over the store")
        row = msgspec.msgpack.encode((kind, value))
        with self.path.open("ab") as file:
            file.write(len(row).to_bytes(4, "big") + row)
            file.flush()
            os.fsync(file.fileno())
        self._size = known + 4 + len(row)
        self.rows.append((kind, value))

    def _read(self) -> None:
        data, at = self.path.read_bytes(), 0
        while at + 4 <= len(data) and (end := at + 4 + int.from_bytes(data[at : at + 4], "big")) <= len(data):
            self.rows.append(msgspec.msgpack.decode(data[at + 4 : end], type=Row))
            at = end
        os.truncate(self.path, at)
        self._size = at

    async def close(self) -> None:
        """See the port."""
        self.closed = True


class FileJournal:
    """See `port.Journal`."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._ledger = Ledger()
        self.epoch = store.epoch
        self.backlog = 0

    async def load(self) -> Ledger:
        """See the port."""
        self._ledger = Ledger()
        self.backlog = 0
        for kind, value in self._store.rows:
            if kind == EVENTS:
                events = decode_entry(value, "a row")
                draft = Draft(self._ledger)
                draft.replay(events)
                draft.adopt()
                self.backlog += len(events)
            elif kind == CHECKPOINT:
                self.backlog -= int.from_bytes(value, "big")
        return self._ledger

    async def append(self, events: Sequence[Event]) -> None:
        """See the port."""
        await asyncio.sleep(0)
        self._store.write(EVENTS, encode_entry(events))
        self.backlog += len(events)

    async def recall(self, payments: Sequence[tuple[bytes, bytes]]) -> Mapping[PaymentKey, PackedPayment]:
        """See the port."""
        known = self._ledger.payments
        return {key: known[key] for pair in payments if (key := payment_key(*pair)) in known}

    async def checkpoint(self, now_ms: int) -> None:
        """See the port. Nothing leaves memory by age."""
        del now_ms
        self._store.write(CHECKPOINT, self.backlog.to_bytes(8, "big"))
        self._ledger.changes = Changes()
        self.backlog = 0

    def trim(self) -> None:
        """See the port."""

    async def close(self) -> None:
        """See the port."""
        await self._store.close()


class FileOutbox:
    """See `port.Outbox`."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    async def add(self, outbound: OutboundTransaction) -> OutboundTransaction:
        """See the port."""
        known = self._all()
        for other in known:
            if (other.kind, other.reference) == (outbound.kind, outbound.reference):
                return other
        added = replace(outbound, id=len(known) + 1)
        self._write(added)
        return added

    async def update(self, outbound: OutboundTransaction) -> None:
        """See the port."""
        if all(known.id != outbound.id for known in self._all()):
            raise ValueError(f"the outbox has no transaction {outbound.id}")
        self._write(outbound)

    async def by_reference(self, kind: TransactionKind, reference: bytes) -> OutboundTransaction | None:
        """See the port."""
        return next((o for o in self._all() if (o.kind, o.reference) == (kind, reference)), None)

    async def by_payment_id(self, payment_id: bytes) -> OutboundTransaction | None:
        """See the port."""
        return next((o for o in self._all() if o.payment_id == payment_id), None)

    async def open(self, network: str) -> Sequence[OutboundTransaction]:
        """See the port."""
        unsettled = TransactionStatus.PENDING, TransactionStatus.MINED
        found = (o for o in self._all() if o.network == network and o.status in unsettled)
        return sorted(found, key=lambda o: (o.nonce, o.id))

    async def claims(self, receivers: Sequence[bytes], before_id: int, limit: int) -> Sequence[OutboundTransaction]:
        """See the port."""
        claims = (
            o for o in reversed(self._all()) if o.kind is TransactionKind.CLAIM and o.id < (before_id or o.id + 1)
        )
        return [o for o in claims if any(payout.receiver in receivers for payout in o.payouts)][:limit]

    async def since(self, network: str, created_at: int) -> Sequence[OutboundTransaction]:
        """See the port."""
        return [o for o in self._all() if o.network == network and o.created_at > created_at]

    async def next_nonce(self, network: str, sender: bytes) -> int:
        """See the port."""
        return 1 + max((o.nonce for o in self._all() if (o.network, o.sender) == (network, sender)), default=-1)

    def _all(self) -> list[OutboundTransaction]:
        found: dict[int, OutboundTransaction] = {}
        for kind, value in self._store.rows:
            if kind == OUTBOUND:
                number = int.from_bytes(value[:8], "big")
                found[number] = decode_outgoing(number, value[8:])
        return sorted(found.values(), key=lambda o: o.id)

    def _write(self, outbound: OutboundTransaction) -> None:
        self._store.write(OUTBOUND, outbound.id.to_bytes(8, "big") + encode_outgoing(outbound))


class FileListings:
    """See `port.Listings`."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    async def put(self, seller: str, body: bytes) -> None:
        """See the port."""
        self._store.write(LISTING, msgspec.msgpack.encode((seller, body)))

    async def all(self) -> Mapping[str, bytes]:
        """See the port."""
        if self._store.closed:
            raise StoreUnavailableError("the store is closed")
        rows = (msgspec.msgpack.decode(value, type=Row) for kind, value in self._store.rows if kind == LISTING)
        return {seller: body for seller, body in dict(rows).items() if body}
