"""Struct hashes that only contracts and tests make: what the product signs is in `tallystick.eip712`."""

from typing import Final

from tallystick import eip712
from tallystick.hashing import keccak256
from tallystick.quantities import Bytes32

CANCEL_AUTHORIZATION_TYPEHASH: Final = keccak256(b"CancelAuthorization(address authorizer,bytes32 nonce)")


def hash_voucher(channel_id: bytes, max_claimable_amount: int) -> Bytes32:
    """The struct hash of a Voucher. `vouchers.voucher_digest` is the same and the digest in one step."""
    return eip712._hash(eip712.VOUCHER_TYPEHASH, eip712._bytes32(channel_id), eip712._uint(128, max_claimable_amount))


def hash_claim_entry(channel_id: bytes, max_claimable_amount: int, total_claimed: int) -> Bytes32:
    """The struct hash of one ClaimEntry."""
    return eip712._hash(
        eip712.CLAIM_ENTRY_TYPEHASH,
        eip712._bytes32(channel_id),
        eip712._uint(128, max_claimable_amount),
        eip712._uint(128, total_claimed),
    )


def hash_cancel_authorization(authorizer: bytes, nonce: bytes) -> Bytes32:
    """The struct hash of ERC-3009's CancelAuthorization (domain: the token's)."""
    return eip712._hash(CANCEL_AUTHORIZATION_TYPEHASH, eip712._address(authorizer), eip712._bytes32(nonce))
