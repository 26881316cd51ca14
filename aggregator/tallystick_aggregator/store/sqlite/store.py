"""The store on SQLite: the journal's hot path, and when its checkpoints do what.

A commit of the ledger is one statement: one row of `log`, its number one above the last. Everything else happens in
checkpoints (modules `checkpoint`, `schema`) and at start-up (`loading`). The journal keeps hold of the ledger that it
loaded: drafts note there what they change (`Ledger.changes`), and a checkpoint takes that and writes it down.
"""

import asyncio
import os
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

from tallystick.payment_ids import payment_id_ms
from tallystick_aggregator.ledger.events import Event
from tallystick_aggregator.ledger.payments import PackedPayment, PaymentKey
from tallystick_aggregator.ledger.state import ChainHead, Changes, Ledger, payment_key
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.events import encode_entry
from tallystick_aggregator.store.eviction import HOT_AGE_MS_MAX, HOT_PAYMENTS_MAX, Backlog, RecentPayments
from tallystick_aggregator.store.port import StoreDamagedError, StoreUnavailableError
from tallystick_aggregator.store.rows import decode_payment
from tallystick_aggregator.store.sqlite.checkpoint import (
    DROP_ENDED,
    DROP_LOG,
    FOLD,
    CheckpointSettings,
    Pace,
    find_payments,
    forget_some,
    payment_portions,
    portions_of,
    state_portions,
)
from tallystick_aggregator.store.sqlite.database import Database, Rows, explain
from tallystick_aggregator.store.sqlite.listings import SqliteListings
from tallystick_aggregator.store.sqlite.loading import Loaded, load
from tallystick_aggregator.store.sqlite.outbox import SqliteOutbox
from tallystick_aggregator.store.sqlite.schema import (
    ENDING_TABLES,
    PARTITION_MS,
    create_partition,
    partition_of,
    partition_table,
)

RECALLED_AT_ONCE: Final = 512
DROPPED_AT_ONCE: Final = 512

_APPEND: Final = "INSERT INTO log (seq, entries) SELECT ?, ? FROM store WHERE epoch = ?"
"""Nothing is inserted once another process has begun an epoch of its own."""


class SqliteStore:
    """See `port.Store`: one file with the journal, the outbox and the listings in it."""

    def __init__(
        self, database: Database, hot_payments_max: int, hot_age_ms_max: int, checkpoints: CheckpointSettings
    ) -> None:
        self._database = database
        self.journal = SqliteJournal(database, hot_payments_max, hot_age_ms_max, checkpoints)
        self.outbox = SqliteOutbox(database)
        self.listings = SqliteListings(database)

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        hot_payments_max: int = HOT_PAYMENTS_MAX,
        hot_age_ms_max: int = HOT_AGE_MS_MAX,
        checkpoints: CheckpointSettings | None = None,
    ) -> Self:
        """Open or create the store; raises StoreLockedError, StoreUnusableError or StoreUnavailableError in one
        sentence.

        `hot_payments_max` and `hot_age_ms_max` bound the payments that the ledger keeps in memory (module `eviction`).
        """
        return cls(await Database.open(path), hot_payments_max, hot_age_ms_max, checkpoints or CheckpointSettings())

    @property
    def lost_epochs(self) -> int:
        return self._database.lost_epochs

    async def close(self) -> None:
        """See the port. The journal's `close` does the same."""
        await self._database.close()


class SqliteJournal:
    """See `port.Journal`."""

    def __init__(
        self, database: Database, hot_payments_max: int, hot_age_ms_max: int, checkpoints: CheckpointSettings
    ) -> None:
        self._database = database
        self._settings = checkpoints
        self._hot_limits = hot_payments_max, hot_age_ms_max
        self._checkpointing = asyncio.Lock()
        self._appended = 0
        self._take(Loaded(Ledger(), 0, 1, 0, set(), set()))

    @property
    def epoch(self) -> int:
        return self._database.epoch

    @property
    def backlog(self) -> int:
        return self._backlog.events

    async def load(self) -> Ledger:
        try:
            loaded = await asyncio.to_thread(load, str(self._database.path), self._hot_limits[0])
        except sqlite3.Error as error:
            raise explain(error, self._database.path) from error
        self._take(loaded)
        return loaded.ledger

    def _take(self, loaded: Loaded) -> None:
        self._ledger = ledger = loaded.ledger
        self._seq = self._loaded_seq = loaded.seq
        self._loaded_commits = ledger.commits
        self._oldest_seq = loaded.oldest_seq
        self._backlog = Backlog(loaded.seq, loaded.backlog)
        self._partitions = loaded.partitions
        self._stored_reservations = loaded.stored_reservations
        self._ended: dict[str, set[bytes]] = {table: set() for table in ENDING_TABLES}
        """By table: keys whose rows are NULL, or about to be."""
        self._hot = RecentPayments(*self._hot_limits)
        replayed = {key for key, _ in ledger.changes.each_payment()}
        self._hot.wrote_payments(item for item in ledger.payments.items() if item[0] not in replayed)

    async def append(self, events: Sequence[Event]) -> None:
        seq = self._seq + 1
        if await self._database.write(_APPEND, (seq, encode_entry(events), self._database.epoch)) == 0:
            raise self._database.taken_over()
        self._seq = seq
        self._appended += len(events)
        self._backlog.add(seq, len(events))

    async def recall(self, payments: Sequence[tuple[bytes, bytes]]) -> Mapping[PaymentKey, PackedPayment]:
        forgotten_ms = self._ledger.payments_forgotten_ms
        wanted: dict[int, list[bytes]] = {}
        for channel_id, payment_id in payments:
            payment_ms = payment_id_ms(payment_id)
            number = partition_of(payment_ms)
            if payment_ms >= forgotten_ms and number in self._partitions:
                wanted.setdefault(number, []).append(payment_key(channel_id, payment_id))
        found: dict[PaymentKey, PackedPayment] = {}
        for number, keys in wanted.items():
            for portion in portions_of(keys, lambda: RECALLED_AT_ONCE):
                rows = await self._database.read(find_payments(number), (b"".join(portion), len(portion)))
                found.update(_decoded(rows))
        return found

    async def checkpoint(self, now_ms: int) -> None:
        async with self._checkpointing:
            cut = self._cut()
            states_per_event = cut.changes.states / max(1, self._backlog.events)
            pace = Pace(lambda: self._appended, states_per_event, self._settings)
            try:
                await self._write_down(cut, pace)
            except BaseException:
                self._put_back(cut)
                raise
            before = self._backlog.events
            self._backlog.cover(cut.seq)
            covered = before - self._backlog.events
            await self._follow(cut.changes, pace)
            self._hot.choose(now_ms)
            await self._drop_what_is_covered(cut, pace)
            await self._drop_partitions(cut.forgotten_ms, covered, pace)

    def trim(self) -> None:
        self._hot.trim(self._ledger)

    async def close(self) -> None:
        await self._database.close()

    # A checkpoint, step by step.

    def _cut(self) -> "_Cut":
        """Take what has changed up to now; from here on the ledger notes for the next checkpoint."""
        ledger = self._ledger
        seq = self._loaded_seq + ledger.commits - self._loaded_commits
        assert seq <= self._seq, "every draft with events is appended before it is adopted"
        changes, ledger.changes = ledger.changes, Changes()
        return _Cut(seq, changes, dict(ledger.heads), ledger.payments_forgotten_ms)

    def _put_back(self, cut: "_Cut") -> None:
        """Undo `_cut`: the next checkpoint writes this down again, as far as it did not change once more."""
        newer, self._ledger.changes = self._ledger.changes, cut.changes
        cut.changes.update(newer)

    async def _write_down(self, cut: "_Cut", pace: Pace) -> None:
        changes = cut.changes
        for portions in payment_portions(changes.each_payment(), pace):
            for number, portion in portions:
                if number not in self._partitions:
                    await self._database.write(create_partition(number))
                    self._partitions.add(number)
                await self._database.write(*portion)
            await pace.rest()
        ended = {handle for handle, reservation in changes.reservations.items() if reservation is None}
        # Before they are written: what may be in the table has to be taken out of it again.
        self._stored_reservations |= changes.reservations.keys() - ended
        for portion in state_portions(changes, cut.heads, self._stored_reservations, cut.seq, pace):
            await self._write_in_turn(pace, *portion)
        if await self._database.write(FOLD, (cut.seq, cut.forgotten_ms, self._database.epoch)) == 0:
            raise self._database.taken_over()
        self._ended["reservations"] |= ended & self._stored_reservations
        self._ended["spend_keys"] |= {name for name, key in changes.spend_keys.items() if key is None}

    async def _write_in_turn(self, pace: Pace, sql: str, parameters: Sequence[Any]) -> int:
        """Write a portion, then leave the store to others for a while. Returns how many rows."""
        written = await self._database.write(sql, parameters)
        await pace.rest()
        return written

    async def _follow(self, changes: Changes, pace: Pace) -> None:
        """Let `hot` know what is in the tables now."""
        for portion in portions_of(changes.each_payment(), lambda: pace.size.payments):
            self._hot.wrote_payments(portion)
            await pace.rest(look=False)
        self._hot.wrote_reservations(changes.reservations)

    async def _drop_what_is_covered(self, cut: "_Cut", pace: Pace) -> None:
        seen = self._seq
        while self._oldest_seq <= cut.seq:
            at_once = max(self._settings.log_entries_at_once_min, 2 * (self._seq - seen))
            seen = self._seq
            newest = min(self._oldest_seq + at_once - 1, cut.seq)
            await self._write_in_turn(pace, DROP_LOG, (newest,))
            self._oldest_seq = newest + 1
        for table, ended in self._ended.items():
            for keys in portions_of(tuple(ended), lambda: DROPPED_AT_ONCE):
                await self._write_in_turn(pace, DROP_ENDED[table], (b"".join(keys), len(keys)))
                ended.difference_update(keys)
                if table == "reservations":
                    self._stored_reservations.difference_update(keys)

    async def _drop_partitions(self, forgotten_ms: int, backlog_max: int, pace: Pace) -> None:
        """Drop the partitions whose payments are all forgotten: some payments at a time, then the empty table.

        Once so many events wait the next checkpoint is due, and goes on: a full partition takes minutes.
        """
        for number in sorted(self._partitions):
            if (number + 1) * PARTITION_MS > forgotten_ms:
                break
            while await self._write_in_turn(pace, forget_some(number), (pace.size.payments,)):
                if self._backlog.events > backlog_max:
                    return
            await self._database.write(f"DROP TABLE {partition_table(number)}")
            self._partitions.discard(number)


def _decoded(rows: Rows) -> list[tuple[PaymentKey, PackedPayment]]:
    try:
        return [(key, decode_payment(key, row)) for key, row in rows]
    except StoreDamagedError as error:
        # One damaged row must not stop the ledger's writer: whoever asks for it is refused, and it is told.
        raise StoreUnavailableError(str(error)) from error


class _Cut(NamedTuple):
    """The ledger as of one commit, as far as it has changed since the checkpoint before."""

    seq: int
    changes: Changes
    heads: Mapping[EscrowRef, ChainHead]
    forgotten_ms: int
