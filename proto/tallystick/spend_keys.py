"""Spend keys: how a payer says for each charge that it meant it, in a microsecond instead of thirty.

The payer registers a secret with the aggregator by a signed call. A proof is HMAC-SHA256 (RFC 2104) under that secret
over 96 bytes, each field of a fixed length, so that no two charges share a message:

    offset  bytes
    0       32     channel id (binds payer, seller, operator, token, escrow and chain)
    32      16     payment id
    48      16     maximum amount in atomic units, big-endian
    64      32     request hash

A seller therefore can neither charge more than was agreed, nor use a proof for another payment or another request.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from tallystick.errors import MalformedError
from tallystick.quantities import Bytes32
from tallystick.values import Value

_BLOCK_BYTES: Final = 64
_INNER_PAD: Final = bytes(b ^ 0x36 for b in range(256))
_OUTER_PAD: Final = bytes(b ^ 0x5C for b in range(256))


@dataclass(frozen=True, slots=True)
class SpendKey:
    """A spend key: its public id, unique within the account, and its secret, 32 bytes each."""

    key_id: bytes
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Check the lengths; raises MalformedError."""
        if len(self.key_id) != 32:
            raise MalformedError("spend key id", self.key_id, "32 bytes")
        if len(self.secret) != 32:
            raise MalformedError("spend key secret", self.secret, "32 bytes")


class SpendProof(Value, frozen=True, gc=False):
    """A proof as it travels: the key's id, the most that may be charged in atomic units, and 32 bytes of MAC."""

    key_id: bytes
    max_amount: int
    mac: bytes

    def __repr__(self) -> str:
        """Without the MAC."""
        return f"SpendProof(key_id={self.key_id!r}, max_amount={self.max_amount})"


class SpendProver:
    """Makes and checks the proofs of one secret. Safe to share between threads; its text form shows nothing."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32:
            raise MalformedError("spend key secret", secret, "32 bytes")
        # Both padded keys are absorbed once: a proof then costs two copies instead of two more blocks.
        key = secret.ljust(_BLOCK_BYTES, b"\0")
        self._inner = sha256(key.translate(_INNER_PAD))
        self._outer = sha256(key.translate(_OUTER_PAD))

    def mac(self, channel_id: bytes, payment_id: bytes, max_amount: int, request_hash: bytes) -> bytes:
        """The proof; `max_amount` is in atomic units.

        Raises ValueError on a field of another length and OverflowError outside 0 <= max_amount < 2**128.
        """
        # Wrong lengths could move a field's bytes into the next one.
        if len(channel_id) != 32 or len(payment_id) != 16 or len(request_hash) != 32:
            raise ValueError("a spend proof is over 32 bytes of channel id, 16 of payment id and 32 of request hash")
        inner = self._inner.copy()
        inner.update(channel_id + payment_id + max_amount.to_bytes(16, "big") + request_hash)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def check(self, channel_id: bytes, payment_id: bytes, max_amount: int, request_hash: bytes, mac: bytes) -> bool:
        """Whether `mac` is the proof, compared in constant time. Raises as `mac` does."""
        return compare_digest(self.mac(channel_id, payment_id, max_amount, request_hash), mac)

    def __repr__(self) -> str:
        return "SpendProver()"


def key_hash(secret: bytes) -> Bytes32:
    """What the payer signs in RegisterSpendKey in the secret's place: its SHA-256."""
    return Bytes32(sha256(secret).digest())
