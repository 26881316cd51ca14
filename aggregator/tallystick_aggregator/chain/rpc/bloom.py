"""The bloom filter of a block's header (Yellow Paper, §4.4.3): which addresses and topics its events may hold.

A filter without an item is sure that no event of the block has it; a filter with the item may be wrong.
"""

from typing import Final

from tallystick.hashing import keccak256

BLOOM_BYTES: Final = 256
_BITS: Final = BLOOM_BYTES * 8


def may_hold(bloom: bytes, *items: bytes) -> bool:
    """Whether all of these addresses and topics may be in the block."""
    number = int.from_bytes(bloom, "big")
    return all(number & mask == mask for mask in map(mask, items))


def mask(item: bytes) -> int:
    """Three bits, each from two bytes of the item's hash."""
    digest = keccak256(item)
    return sum({1 << (int.from_bytes(digest[at : at + 2], "big") % _BITS) for at in (0, 2, 4)})
