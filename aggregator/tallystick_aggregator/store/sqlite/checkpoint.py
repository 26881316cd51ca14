"""The statements of which a checkpoint is made: each writes a small portion, so that charges never wait long for one.

Their order matters, not their timing: payments and state first (`payment_portions`, `state_portions`), then `FOLD`,
which makes them count, then the log's beginning and what has ended go. A checkpoint that is cut short anywhere
leaves a store that loads the same ledger as before it.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, starmap
from typing import Any, Final, NamedTuple, TypeVar

from tallystick.payment_ids import payment_id_ms
from tallystick_aggregator.ledger.payments import PAYMENT_KEY_BYTES, PackedPayment, PaymentKey
from tallystick_aggregator.ledger.state import ChainHead, Changes, Reservation, SpendKey
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.rows import (
    PAYMENT_ROW_BYTES,
    encode_account,
    encode_channel,
    encode_head,
    encode_keyed_payment,
    encode_reservation,
    encode_spend_key,
)
from tallystick_aggregator.store.sqlite.schema import ENDING_TABLES, partition_of, partition_table

LOOKED_BACK: Final = 4
"""Portions: between two of them may be no commit, though charges come as fast as they can."""
GAIN: Final = 3
"""A portion has so many times its share of what commits add between two: payments are written, then state, and then the
payments are followed, and commits add meanwhile each time."""

FOLD: Final = "UPDATE store SET folded = ?, forgotten_ms = ? WHERE epoch = ?"
"""Parameters: the commit as of which the rows are, the ledger's `payments_forgotten_ms`, our epoch."""
DROP_LOG: Final = "DELETE FROM log WHERE seq <= (SELECT min(folded, ?) FROM store)"
"""Parameter: the newest entry to drop."""
DROP_ENDED: Final = {
    table: f"""
DELETE FROM {table}
WHERE row IS NULL AND key IN (SELECT substr(?1, 64 * n + 1, 64) FROM ordinals WHERE n < ?2)"""  # noqa: S608 - our own names
    for table in ENDING_TABLES
}
"""By table, whose keys all have 64 bytes. Parameters: keys, one after another, and how many."""

Item = TypeVar("Item")


class Portion(NamedTuple):
    """One statement of a checkpoint."""

    sql: str
    parameters: Sequence[Any]


class Size(NamedTuple):
    """How many rows a portion has: of payments, or of accounts, channels, spend keys or reservations in their place."""

    payments: int
    states: int


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """How large portions are, and how long a checkpoint rests between them."""

    payments_at_once: tuple[int, ...] = (1_024, 2_048, 4_096)
    """Few sizes, so that statements are not prepared each time; the last is twice the largest commit's payments."""
    states_at_once: tuple[int, ...] = (64, 256)
    """A row of state is dearer than a payment's: it is up to four kilobytes, and where many change each is on a page of
    its own. 64 take the store a millisecond or two, 256 four to twelve; more are no quicker each."""
    rest_s: float = 0.01
    """Between portions, unless the largest are needed: two or three times what a small one takes."""
    log_entries_at_once_min: int = 32
    """Of the log's beginning this many go at once, or twice as many as were added since: it must get shorter, too."""


class Pace:
    """How large a checkpoint's next portion is, and how long it rests before it: portions and commits take turns.

    A charge that comes while a portion is written waits for it. So as long as few charges come, portions are small and
    far between; the more come, and the more rows they change, the larger they are, so that a checkpoint gains on the
    charges. Where the largest portions are needed of either kind there is no rest, and where even these do not do, some
    25,000 charges a second on a channel each, what waits for a checkpoint grows, up to `WriterSettings.backlog_max`.
    Until the first charge comes, nobody has to be waited for.
    """

    def __init__(
        self,
        appended: Callable[[], int],
        states_per_event: float,
        settings: CheckpointSettings,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`appended` counts the events of all commits; of each event that is written down come so many rows of state.

        That is next to none where a thousand channels are charged again and again, and up to three, an account, a
        channel and a spend key, where each charge is another customer's.
        """
        self._appended = appended
        self._settings = settings
        self._sleep = sleep
        self._states_per_event = states_per_event
        self._first = self._seen = appended()
        self._added = deque([0], LOOKED_BACK)
        self.size = Size(settings.payments_at_once[0], settings.states_at_once[0])
        """Of the next portion: the least that is enough of both, or the last."""
        self.rest_s = 0.0
        """How long to leave the store and the event loop to others before it, in seconds."""

    async def rest(self, *, look: bool = True) -> None:
        """After each portion: leave the store to others, and see how much they need it.

        Do not look after what writes nothing: there may be no commit at all between two steps as quick as that.
        """
        await self._sleep(self.rest_s)
        seen, self._seen = self._seen, self._appended()
        if not look:
            return
        self._added.append(self._seen - seen)
        needed, settings = GAIN * max(self._added), self._settings
        self.size = Size(
            _enough(settings.payments_at_once, needed),
            _enough(settings.states_at_once, math.ceil(needed * self._states_per_event)),
        )
        if self._seen > self._first:
            largest = settings.payments_at_once[-1], settings.states_at_once[-1]
            hurried = self.size.payments == largest[0] or self.size.states == largest[1]
            self.rest_s = 0.0 if hurried else settings.rest_s


def _enough(sizes: Sequence[int], needed: int) -> int:
    return next((size for size in sizes if size >= needed), sizes[-1])


def portions_of(items: Iterable[Item], size: Callable[[], int]) -> Iterator[list[Item]]:
    """Cut into lists of at most `size`, which is asked for each."""
    rest = iter(items)
    while portion := list(islice(rest, size())):
        yield portion


def payment_portions(
    payments: Iterable[tuple[PaymentKey, PackedPayment]], pace: Pace
) -> Iterator[list[tuple[int, Portion]]]:
    """The payments' rows: for each portion a statement per partition, with its number; the table must be there.

    Ids of all times may come together. Rest after the whole portion: resting after each statement, a checkpoint would
    be slower by as many partitions as there are.
    """
    # Encoded as they are iterated: a list of the pairs would be an object more for each payment.
    for rows in portions_of(starmap(encode_keyed_payment, payments), lambda: pace.size.payments):
        yield [
            (number, Portion(_insert_payments(number), (b"".join(together), len(together))))
            for number, together in _by_partition(rows)
        ]


def _by_partition(rows: list[bytes]) -> Iterable[tuple[int, list[bytes]]]:
    """Payments' keys and rows by the number of their partition, which nearly always is the same for all."""
    # They begin with their time, so that the least and the greatest have the first and the last.
    first, last = partition_of(payment_id_ms(min(rows))), partition_of(payment_id_ms(max(rows)))
    if first == last:
        return ((first, rows),)
    parts: dict[int, list[bytes]] = {}
    for row in rows:
        parts.setdefault(partition_of(payment_id_ms(row)), []).append(row)
    return parts.items()


def state_portions(
    changes: Changes, heads: Mapping[EscrowRef, ChainHead], stored_reservations: set[bytes], seq: int, pace: Pace
) -> Iterator[Portion]:
    """The rows of all state that has changed, as of commit `seq`."""
    yield from _upserts("accounts", seq, changes.accounts.items(), lambda _, account: encode_account(account), pace)
    yield from _upserts("channels", seq, changes.channels.items(), lambda _, channel: encode_channel(channel), pace)
    yield from _upserts("spend_keys", seq, changes.spend_keys.items(), _encode_spend_key, pace)
    reservations = (
        (handle, reservation)
        for handle, reservation in changes.reservations.items()
        if reservation is not None or handle in stored_reservations
    )

    def encode_held(handle: bytes, held: Reservation | None) -> bytes | None:
        return None if held is None else encode_reservation(held, changes.reserved[handle[:PAYMENT_KEY_BYTES]])

    yield from _upserts("reservations", seq, reservations, encode_held, pace)
    named_heads = ((str(escrow).encode(), head) for escrow, head in heads.items())
    yield from _upserts("heads", seq, named_heads, encode_head, pace)


def forget_some(number: int) -> str:
    """The statement that drops the oldest payments of a partition. (Dropping a full table at once takes seconds.)

    Parameter: how many.
    """
    table = partition_table(number)
    oldest = f"SELECT key FROM {table} ORDER BY key LIMIT ?"  # noqa: S608 - our own names and numbers
    return f"DELETE FROM {table} WHERE key <= (SELECT max(key) FROM ({oldest}))"  # noqa: S608


def find_payments(number: int) -> str:
    """The query for payments of a partition. Parameters: keys, one after another, and how many."""
    return f"""
SELECT found.key, found.row FROM ordinals CROSS JOIN {partition_table(number)} AS found
ON found.key = substr(?1, {PAYMENT_KEY_BYTES} * n + 1, {PAYMENT_KEY_BYTES}) WHERE n < ?2"""  # noqa: S608 - as above


def _insert_payments(number: int) -> str:
    length = PAYMENT_KEY_BYTES + PAYMENT_ROW_BYTES
    return f"""
INSERT OR REPLACE INTO {partition_table(number)} (key, row)
SELECT substr(?1, {length} * n + 1, {PAYMENT_KEY_BYTES}),
substr(?1, {length} * n + {PAYMENT_KEY_BYTES + 1}, {PAYMENT_ROW_BYTES}) FROM ordinals WHERE n < ?2"""  # noqa: S608 - as above


def _upserts(
    table: str, seq: int, items: Iterable[tuple[bytes, Any]], encode: Callable[[bytes, Any], bytes | None], pace: Pace
) -> Iterator[Portion]:
    for portion in portions_of(items, lambda: pace.size.states):
        rows = [value for key, item in portion for value in (key, encode(key, item))]
        yield Portion(_upsert(table, len(portion)), (seq, *rows))


def _upsert(table: str, count: int) -> str:
    values = ", ".join(f"(?{2 * row + 2}, ?1, ?{2 * row + 3})" for row in range(count))
    return f"""
INSERT INTO {table} (key, seq, row) VALUES {values}
ON CONFLICT (key) DO UPDATE SET
earlier = CASE WHEN {table}.seq <= (SELECT folded FROM store) THEN {table}.row ELSE {table}.earlier END,
seq = excluded.seq, row = excluded.row"""  # noqa: S608 - as above


def _encode_spend_key(name: bytes, key: SpendKey | None) -> bytes | None:
    return None if key is None else encode_spend_key(name, key)
