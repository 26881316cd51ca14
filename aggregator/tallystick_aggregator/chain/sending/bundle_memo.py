"""How a bundle is kept in the memo of its settlement: what its service keeps there, the deadline, the other two."""

from typing import Final, NamedTuple

_VERSION: Final = b"\x02"
"""A memo without a bundle begins with another byte."""
_HEAD: Final = 1 + 8 + 2 + 2


class BundleMemo(NamedTuple):
    """`until_s`: seconds since the epoch; `fund` is empty where the payer needed no gas money."""

    memo: bytes
    until_s: int
    fund: bytes
    approval: bytes


def pack_bundle(memo: bytes, until_s: int, fund: bytes, approval: bytes) -> bytes:
    """Return the memo with the bundle in it. Raises OverflowError for transactions of 64 KiB or more."""
    sizes = len(memo).to_bytes(2, "big") + len(fund).to_bytes(2, "big")
    return _VERSION + until_s.to_bytes(8, "big") + sizes + memo + fund + approval


def unpack_bundle(packed: bytes) -> BundleMemo:
    """Return what was packed; a memo without a bundle is returned as it is."""
    if packed[:1] != _VERSION:
        return BundleMemo(packed, 0, b"", b"")
    of_memo, of_fund = int.from_bytes(packed[9:11], "big"), int.from_bytes(packed[11:13], "big")
    fund_at = _HEAD + of_memo
    approval_at = fund_at + of_fund
    return BundleMemo(
        packed[_HEAD:fund_at],
        int.from_bytes(packed[1:9], "big"),
        packed[fund_at:approval_at],
        packed[approval_at:],
    )
