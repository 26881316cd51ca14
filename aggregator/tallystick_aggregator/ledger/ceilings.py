"""Which vouchers of a channel have proved a charge already: their ceilings, packed."""

from bisect import bisect_left
from typing import Final

from tallystick.values import Value

NO_CEILING: Final = -1
"""As `floor`: nothing was forgotten yet."""
USED_CEILINGS_KEPT: Final = 256
"""Used ceilings that a channel remembers at least: how deep charges by voucher may arrive out of order."""
USED_CEILINGS_MAX: Final = 2 * USED_CEILINGS_KEPT
CEILING_BYTES: Final = 16


class UsedCeilings(Value, frozen=True, gc=False):
    """A value, which drafts share. To stay small it forgets the lowest, and from then on takes everything at or below
    `floor` for used.

    Packed, because every charge by voucher makes another: sets of five hundred numbers took six times the memory, and
    the garbage collector walked through those of a thousand channels at once, for tens of milliseconds.
    """

    floor: int = NO_CEILING
    packed: bytes = b""
    """What is remembered, ascending: big-endian numbers of CEILING_BYTES each."""

    def __contains__(self, ceiling: int) -> bool:
        """Whether this ceiling was used, or may have been."""
        if ceiling <= self.floor:
            return True
        record = ceiling.to_bytes(CEILING_BYTES, "big")
        return self.packed.startswith(record, _position(self.packed, record))

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self.packed) // CEILING_BYTES

    @property
    def highest(self) -> int:
        """The highest that is remembered, or 0."""
        return int.from_bytes(self.packed[-CEILING_BYTES:], "big")

    def has_room(self, count: int) -> bool:
        """Whether so many more can be remembered without forgetting any."""
        return len(self) + count <= USED_CEILINGS_MAX

    def plus(self, *ceilings: int) -> "UsedCeilings":
        """These and more; the same as adding one after another."""
        floor, highest, packed = self.floor, self.highest, bytearray(self.packed)
        for ceiling in ceilings:
            record = ceiling.to_bytes(CEILING_BYTES, "big")
            if ceiling > highest:  # nearly always
                packed += record
                highest = ceiling
            else:
                at = _position(packed, record)
                if not packed.startswith(record, at):
                    packed[at:at] = record
            if len(packed) > USED_CEILINGS_MAX * CEILING_BYTES:
                forgotten = len(packed) - USED_CEILINGS_KEPT * CEILING_BYTES
                floor = int.from_bytes(packed[forgotten - CEILING_BYTES : forgotten], "big")
                del packed[:forgotten]
        return UsedCeilings(floor, bytes(packed))


NONE_USED: Final = UsedCeilings()


def _position(packed: bytes | bytearray, record: bytes | bytearray) -> int:
    """Where this record stands, or would have to."""
    return CEILING_BYTES * bisect_left(
        range(len(packed) // CEILING_BYTES),
        record,
        key=lambda number: packed[CEILING_BYTES * number : CEILING_BYTES * (number + 1)],
    )
