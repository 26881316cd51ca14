"""Start-up: the state of the last checkpoint, and the log after it, replayed. Synchronous; runs on a thread."""

import gc
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tallystick.payment_ids import payment_id_ms
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.payments import PaymentStatus, status_of
from tallystick_aggregator.ledger.state import Ledger, exposure_key, payment_key
from tallystick_aggregator.ledger.values import parse_escrow
from tallystick_aggregator.store.events import decode_entry
from tallystick_aggregator.store.port import StoreDamagedError
from tallystick_aggregator.store.rows import (
    decode_account,
    decode_channel,
    decode_head,
    decode_payment,
    decode_reservation,
    decode_spend_key,
)
from tallystick_aggregator.store.sqlite.schema import PARTITION_MS, partition_table, partitions

REPLAYED_AT_ONCE: Final = 256
"""Commits replayed in one draft: they share the copies of what they touch."""

Decoded = TypeVar("Decoded")


@dataclass(slots=True)
class Loaded:
    """The ledger, and what the journal needs to go on: the newest commit, and the oldest whose entry is still there."""

    ledger: Ledger
    seq: int
    oldest_seq: int
    backlog: int
    partitions: set[int]
    stored_reservations: set[bytes]


def load(path: str, hot_payments_max: int) -> Loaded:
    """Read the store with this path; at most so many payments, besides those of the log, come into memory.

    Raises StoreDamagedError, and sqlite3.Error.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA query_only = ON")
        with _uncollected():
            return _Loader(connection, hot_payments_max).load()
    finally:
        connection.close()


class _Loader:
    def __init__(self, connection: sqlite3.Connection, hot_payments_max: int) -> None:
        self._connection = connection
        self._hot_payments_max = hot_payments_max
        self._ledger = Ledger()
        self._folded, self._ledger.payments_forgotten_ms = connection.execute(
            "SELECT folded, forgotten_ms FROM store"
        ).fetchone()

    def load(self) -> Loaded:
        numbers = partitions(self._connection)
        self._load_accounts()
        self._load_channels()
        self._load_spend_keys()
        self._load_heads()
        self._load_payments(numbers)
        stored_reservations = self._load_reservations()
        seq, backlog = self._replay()
        (oldest,) = self._connection.execute("SELECT min(seq) FROM log").fetchone()
        return Loaded(self._ledger, seq, oldest or seq + 1, backlog, numbers, stored_reservations)

    def _rows(self, table: str, decode: Callable[[bytes, bytes], Decoded]) -> Iterator[tuple[bytes, Decoded]]:
        """Yield the rows that count: their form as of the last checkpoint, in the order in which they were made."""
        found = self._connection.execute(
            f"SELECT key, CASE WHEN seq <= ? THEN row ELSE earlier END FROM {table} ORDER BY id",  # noqa: S608
            (self._folded,),
        )
        return ((key, decode(key, row)) for key, row in found if row is not None)

    def _load_accounts(self) -> None:
        for account_id, account in self._rows("accounts", decode_account):
            self._ledger.accounts[account_id] = account
            self._ledger.channel_ids[account_id] = []

    def _load_channels(self) -> None:
        ledger, receivers = self._ledger, dict[Any, Any]()
        for channel_id, channel in self._rows("channels", decode_channel):
            account = ledger.accounts.get(channel.account_id)
            if account is None:
                raise StoreDamagedError(f"the stored channel {channel_id.hex()} has no account")
            # What many channels share is kept in memory once.
            channel.account_id = account.id
            channel.receiver = receivers.setdefault(channel.receiver, channel.receiver)
            ledger.channels[channel_id] = channel
            ledger.channel_ids[account.id].append(channel_id)
            exposed = channel.charged + channel.reserved - channel.claimed
            if exposed:
                key = exposure_key(channel.receiver, account.config.token)
                ledger.receiver_exposure[key] = ledger.receiver_exposure.get(key, 0) + exposed

    def _load_spend_keys(self) -> None:
        for name, key in self._rows("spend_keys", decode_spend_key):
            self._ledger.spend_keys[name] = key
            self._ledger.spend_key_names.setdefault(key.account_id, {})[name] = None

    def _load_heads(self) -> None:
        for escrow, head in self._rows("heads", decode_head):
            self._ledger.heads[parse_escrow(escrow.decode())] = head

    def _load_payments(self, numbers: set[int]) -> None:
        """Load the newest payments, and say from when on they are complete."""
        ledger, room = self._ledger, self._hot_payments_max
        ledger.payments_since_ms = forgotten_ms = ledger.payments_forgotten_ms
        for number in sorted(numbers, reverse=True):
            if (number + 1) * PARTITION_MS <= forgotten_ms:
                return
            newest_first = f"SELECT key, row FROM {partition_table(number)} ORDER BY key DESC LIMIT ?"  # noqa: S608
            for key, row in self._connection.execute(newest_first, (room + 1,)):
                if room == 0:
                    ledger.payments_since_ms = max(forgotten_ms, payment_id_ms(key) + 1)
                    return
                if payment_id_ms(key) >= forgotten_ms:
                    ledger.payments[key] = decode_payment(key, row)
                    room -= 1

    def _load_reservations(self) -> set[bytes]:
        for handle, (reservation, payment) in self._rows("reservations", decode_reservation):
            self._ledger.reservations[handle] = reservation
            self._ledger.payments[payment_key(reservation.channel_id, reservation.payment_id)] = payment
            if status_of(payment) is PaymentStatus.RESERVED:
                self._count_open(reservation.channel_id)
        return {handle for (handle,) in self._connection.execute("SELECT key FROM reservations")}

    def _count_open(self, channel_id: bytes) -> None:
        channel, counts = self._ledger.channels.get(channel_id), self._ledger.open_reservations
        if channel is None:
            raise StoreDamagedError(f"a stored reservation is of channel {channel_id.hex()}, which is not stored")
        for of in (channel.id, channel.receiver):
            counts[of] = counts.get(of, 0) + 1

    def _replay(self) -> tuple[int, int]:
        """Replay the log; return the newest commit's number and how many events there were."""
        seq, backlog, draft, drafted = self._folded, 0, Draft(self._ledger), 0
        log = self._connection.execute("SELECT seq, entries FROM log WHERE seq > ? ORDER BY seq", (self._folded,))
        for number, entries in log:
            if number != seq + 1:
                raise StoreDamagedError(f"the log goes from entry {seq} to {number}")
            seq = number
            events = decode_entry(entries, f"log entry {number}")
            draft.replay(events)
            backlog, drafted = backlog + len(events), drafted + 1
            if drafted == REPLAYED_AT_ONCE:
                draft.adopt()
                draft, drafted = Draft(self._ledger), 0
        if drafted:
            draft.adopt()
        return seq, backlog


@contextmanager
def _uncollected() -> Generator[None]:
    """Let the garbage collector rest: everything that is made now is there to stay."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
