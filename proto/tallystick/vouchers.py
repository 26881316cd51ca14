"""Vouchers: "of my deposit, this seller may have up to N in total", signed by the payerAuthorizer.

A checked voucher is another type than an unchecked one, so that the wrong one does not type-check.
"""

from dataclasses import dataclass, field

from msgspec import Struct

from tallystick.eip712 import VOUCHER_TYPEHASH, Domain
from tallystick.errors import InvalidSignatureError
from tallystick.hashing import new_keccak256
from tallystick.hexadecimal import checksum
from tallystick.quantities import Bytes32
from tallystick.signatures import Signer, recover

_STRUCT_PREFIX = VOUCHER_TYPEHASH
_AMOUNT_PADDING = bytes(16)


@dataclass(frozen=True, slots=True)
class UncheckedVoucher:
    """A voucher as it came; nobody knows yet who signed it."""

    channel_id: bytes
    max_claimable_amount: int
    signature: bytes = field(repr=False)


class Voucher(Struct, frozen=True, gc=False):
    """A voucher whose signature the chain will take (I5): made by `check_voucher` or `sign_voucher`.

    Whoever checks in bulk (`signatures.verify_many`) or reads back what was stored checked may build it directly; that
    is once per charge, hence a `msgspec.Struct`: made ten times as fast as a frozen dataclass.
    """

    channel_id: bytes
    max_claimable_amount: int
    signature: bytes

    def __repr__(self) -> str:
        """Without the signature."""
        return f"Voucher(channel_id={self.channel_id!r}, max_claimable_amount={self.max_claimable_amount})"


def voucher_digest(domain_separator: bytes, channel_id: bytes, amount: int) -> Bytes32:
    """The 32 bytes that a voucher's signature is over; `amount` is the ceiling in atomic units.

    The hot path: no checks beyond OverflowError outside of 0 <= amount < 2**128. `channel_id` must have 32 bytes.
    """
    struct_hash = new_keccak256(_STRUCT_PREFIX + channel_id + _AMOUNT_PADDING + amount.to_bytes(16, "big")).digest()
    return Bytes32(new_keccak256(b"\x19\x01" + domain_separator + struct_hash).digest())


def sign_voucher(signer: Signer, domain: Domain, channel_id: bytes, amount: int) -> Voucher:
    """A voucher over this ceiling in atomic units. The caller has made sure that it may promise it."""
    return Voucher(channel_id, amount, signer.sign(voucher_digest(domain.separator, channel_id, amount)))


def check_voucher(domain: Domain, unchecked: UncheckedVoucher, authorizer: bytes) -> Voucher:
    """The voucher, checked: signed by this address in a form that the chain takes (I5).

    Raises InvalidSignatureError.
    """
    digest = voucher_digest(domain.separator, unchecked.channel_id, unchecked.max_claimable_amount)
    signer = recover(digest, unchecked.signature)
    if signer != authorizer:
        raise InvalidSignatureError(f"signed by {checksum(signer)}, not by {checksum(authorizer)}")
    return Voucher(unchecked.channel_id, unchecked.max_claimable_amount, unchecked.signature)
