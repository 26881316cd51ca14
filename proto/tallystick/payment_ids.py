"""Payment ids: UUIDv7 (RFC 9562), made by the client before it sends, so that a retry can be told from a new payment.

They begin with the time, so that the journal is ordered by it and old ids can be dropped by age. The time is the
client's claim; money is never ordered by it.

Layout of the 16 bytes: 48 bits of milliseconds since the epoch, 4 bits version (7), 12 bits, 2 bits variant (0b10),
62 bits. The 12 bits are a counter in ids made by `new`, so that ids of one process ascend; the 62 bits are random.
"""

import os
import re
import threading
import time
from collections.abc import Callable
from typing import Final

from tallystick.errors import MalformedError
from tallystick.quantities import PaymentId

_ALLOWED: Final = "a UUIDv7: 16 bytes, or 32 hex digits with or without hyphens"
_TEXT: Final = re.compile(
    r"(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})"
)
_TIME_BYTES: Final = 6
_MS_MAX: Final = 2**48 - 1
_COUNTER_MAX: Final = 2**12 - 1


def new_payment_id(now_ms: int, random10: bytes) -> PaymentId:
    """The id for this time and these 10 random bytes; pure. Raises OverflowError unless 0 <= now_ms < 2**48."""
    counter = int.from_bytes(random10[:2], "big") & _COUNTER_MAX
    return _pack(now_ms, counter, random10[2:10])


def new() -> PaymentId:
    """A new id, greater than all that this process made before it, as long as its clock is not set back.

    A clock that is set back is followed: an aggregator refuses ids from the future, and a clock that was a day ahead
    for one payment must not spoil those of the day to come.
    """
    return _generator.new()


def payment_id_ms(payment_id: bytes) -> int:
    """Milliseconds since the epoch, as its maker's clock stood."""
    return int.from_bytes(payment_id[:_TIME_BYTES], "big")


def payment_ids_from(ms: int) -> bytes:
    """What ids of this time (ms since the epoch) or later compare at or above, and earlier ones below."""
    return ms.to_bytes(_TIME_BYTES, "big")


def parse_payment_id(value: object, field: str) -> PaymentId:
    """The 16 bytes of an id that came as text or as bytes; raises MalformedError unless it is a UUIDv7."""
    if isinstance(value, str) and _TEXT.fullmatch(value):
        data = bytes.fromhex(value.replace("-", ""))
    elif isinstance(value, bytes) and len(value) == 16:
        data = value
    else:
        raise MalformedError(field, value, _ALLOWED)
    if data[6] >> 4 != 7 or data[8] >> 6 != 0b10:
        raise MalformedError(field, format_payment_id(data), "version 7, variant 10 (UUIDv7)")
    return PaymentId(data)


def format_payment_id(payment_id: bytes) -> str:
    """The text form: lower-case hex with hyphens."""
    digits = payment_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class _Generator:
    """Ascending ids of one process: a counter within the millisecond. Follows a clock that is set back."""

    def __init__(self, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._clock_ms = -1
        """What the clock said last; `_ms` may be ahead of it, by what was borrowed."""
        self._ms = -1
        self._counter = 0

    def new(self) -> PaymentId:
        with self._lock:
            # Read under the lock: a time that another thread read earlier would look like a clock that is set back.
            now_ms = self._now_ms()
            if now_ms > self._ms or now_ms < self._clock_ms:
                self._ms, self._counter = now_ms, 0
            elif self._counter < _COUNTER_MAX:
                self._counter += 1
            else:
                # 4,096 ids within one millisecond: borrow from the next (RFC 9562, section 6.2).
                self._ms, self._counter = self._ms + 1, 0
            self._clock_ms = now_ms
            return _pack(self._ms, self._counter, os.urandom(8))


def _pack(ms: int, counter: int, random8: bytes) -> PaymentId:
    if not 0 <= ms <= _MS_MAX or len(random8) != 8:
        raise OverflowError("a payment id takes a time of 48 bits in milliseconds and 8 random bytes after the counter")
    tail = int.from_bytes(random8, "big") & (2**62 - 1)
    return PaymentId((ms << 80 | 7 << 76 | counter << 64 | 0b10 << 62 | tail).to_bytes(16, "big"))


_generator: Final = _Generator()
