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
    """A new id, greater than every id that this process made before, whatever its clock did in between."""
    return _generator.new(time.time_ns() // 1_000_000)


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
        raise MalformedError(field, _hyphenate(data), "version 7, variant 10 (UUIDv7)")
    return PaymentId(data)


def format_payment_id(payment_id: bytes) -> str:
    """The text form: lower-case hex with hyphens."""
    return _hyphenate(payment_id)


class _Generator:
    """Ascending ids of one process: a counter within the millisecond, and never a step back in time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ms = 0
        self._counter = 0

    def new(self, now_ms: int) -> PaymentId:
        with self._lock:
            if now_ms > self._ms:
                self._ms, self._counter = now_ms, 0
            elif self._counter < _COUNTER_MAX:
                self._counter += 1
            else:
                # 4,096 ids within one millisecond: borrow from the next (RFC 9562, section 6.2).
                self._ms, self._counter = self._ms + 1, 0
            return _pack(self._ms, self._counter, os.urandom(8))


def _pack(ms: int, counter: int, random8: bytes) -> PaymentId:
    if not 0 <= ms <= _MS_MAX or len(random8) != 8:
        raise OverflowError("a payment id takes a time of 48 bits in milliseconds and 8 random bytes after the counter")
    tail = int.from_bytes(random8, "big") & (2**62 - 1)
    return PaymentId((ms << 80 | 7 << 76 | counter << 64 | 0b10 << 62 | tail).to_bytes(16, "big"))


def _hyphenate(data: bytes) -> str:
    digits = data.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_generator: Final = _Generator()
