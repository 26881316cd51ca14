"""Which payments stay in memory: the newest ones by the time in their ids, at most so many and so old.

Follows the payments that checkpoints have written down, and lets go of whole buckets of them, oldest first. What is
let go lies before `Ledger.payments_since_ms`, and is in the tables: so at any time a payment that was accepted and not
forgotten is either in memory, or old enough to be recalled and found. An id's time is its maker's claim: an old one
that is accepted today joins the old bucket it names, and leaves memory after the next checkpoint.
The payments of reservations stay in memory, however old, until the reservation ends: only then are they final.

A decision about a payment id from before `payments_since_ms` recalls it first. Therefore `trim` may not run between
such a recall (or the look that found it unnecessary) and the decision.
"""

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final

from tallystick_aggregator.ledger.payments import PAYMENT_KEY_BYTES, PackedPayment, PaymentKey, is_open
from tallystick_aggregator.ledger.state import Ledger, Reservation

HOT_PAYMENTS_MAX: Final = 500_000
"""Payments that stay in memory at most, besides those that no checkpoint has written down: about 150 MB."""
HOT_AGE_MS_MAX: Final = 3_600_000
"""Older ones leave memory although there is room."""
TRIMMED_AT_ONCE_MAX: Final = 4_096
"""Payments dropped before a commit: twice what it adds at most. About two thirds of a millisecond."""

_BUCKET_BYTES: Final = 5
_BUCKET_BITS: Final = 8
"""A bucket holds the ids of 256 ms: those whose first five bytes of six, the time, are the same."""
_bucket_of: Final = itemgetter(slice(_BUCKET_BYTES))


class RecentPayments:
    """The payments that are both in memory and in the tables, by bucket; and those on their way out of memory."""

    def __init__(self, count_max: int = HOT_PAYMENTS_MAX, age_ms_max: int = HOT_AGE_MS_MAX) -> None:
        self._count_max = count_max
        self._age_ms_max = age_ms_max
        self._buckets: dict[bytes, list[tuple[bytes, ...]]] = {}
        # Tuples, which the garbage collector leaves alone once it has seen that they hold bytes only: it would walk
        # through one list of all keys after every hundred commits or so, for tens of milliseconds.
        self._oldest: list[bytes] = []  # a heap of the buckets' numbers
        self._count = 0
        self._held: set[bytes] = set()
        self._leaving: deque[tuple[bytes, ...]] = deque()
        self._since_ms = 0

    def wrote_payments(self, payments: Iterable[tuple[PaymentKey, PackedPayment]]) -> None:
        """Follow payments, by key, that a checkpoint has written down as they are in memory."""
        final: list[bytes] = []
        for key, payment in payments:
            if is_open(payment):
                self._held.add(key)
            else:
                final.append(key)
        if self._held:
            self._held.difference_update(final)
        self._follow(final)

    def wrote_reservations(self, reservations: Mapping[bytes, Reservation | None]) -> None:
        """Follow the payments of reservations that ended by being forgotten: they did not change otherwise."""
        for handle, reservation in reservations.items():
            key = handle[:PAYMENT_KEY_BYTES]
            if reservation is None and key in self._held:
                self._held.discard(key)
                self._follow((key,))

    @property
    def leaving(self) -> bool:
        """Whether something was chosen that is still in memory."""
        return bool(self._leaving)

    def choose(self, now_ms: int) -> None:
        """Choose what leaves memory; `trim` then takes it from there."""
        aged = (max(0, now_ms - self._age_ms_max) >> _BUCKET_BITS).to_bytes(_BUCKET_BYTES, "big")
        while self._oldest and (self._count > self._count_max or self._oldest[0] < aged):
            bucket = heapq.heappop(self._oldest)
            runs = self._buckets.pop(bucket)
            self._count -= sum(map(len, runs))
            self._leaving.extend(runs)
            self._since_ms = max(self._since_ms, int.from_bytes(bucket, "big") + 1 << _BUCKET_BITS)

    def trim(self, ledger: Ledger) -> None:
        """Take some of what was chosen from memory; a bounded number, so that nobody waits for it."""
        if not self._leaving:
            return
        # Before the first is gone: from now on memory answers only for later ids.
        ledger.payments_since_ms = max(ledger.payments_since_ms, self._since_ms)
        room = TRIMMED_AT_ONCE_MAX
        while self._leaving and room > 0:
            keys = self._leaving.popleft()
            if len(keys) > room:
                self._leaving.appendleft(keys[room:])
                keys = keys[:room]
            for key in keys:
                ledger.payments.pop(key, None)
            room -= len(keys)

    def _follow(self, keys: Sequence[bytes]) -> None:
        keys = sorted(keys)  # so that of each bucket they are one run
        start = 0
        while start < len(keys):
            bucket = keys[start][:_BUCKET_BYTES]
            end = bisect_right(keys, bucket, start, key=_bucket_of)
            if bucket not in self._buckets:
                self._buckets[bucket] = []
                heapq.heappush(self._oldest, bucket)
            self._buckets[bucket].append(tuple(keys[start:end]))
            self._count += end - start
            start = end


class Backlog:
    """How many events the commits have that no checkpoint covers."""

    def __init__(self, seq: int, events: int) -> None:
        self.events = events
        self._commits = deque([(seq, events)])

    def add(self, seq: int, events: int) -> None:
        """A commit was made."""
        self._commits.append((seq, events))
        self.events += events

    def cover(self, seq: int) -> None:
        """A checkpoint covers all commits up to this one."""
        while self._commits and self._commits[0][0] <= seq:
            self.events -= self._commits.popleft()[1]
