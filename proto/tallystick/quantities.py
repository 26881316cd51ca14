"""A type for each quantity, so that the wrong one does not type-check.

All are plain bytes and integers at run time; hex, JSON and protobuf exist only at the edges.
"""

from dataclasses import dataclass
from typing import Final, NewType

Bytes32 = NewType("Bytes32", bytes)
"""Any 32-byte word: a hash, a salt, a nonce."""

Address = NewType("Address", bytes)
"""20 bytes of an Ethereum address."""

AccountId = NewType("AccountId", bytes)
"""32 bytes: the EIP-712 hash of a ChannelConfig whose receiver is zero."""

ChannelId = NewType("ChannelId", bytes)
"""32 bytes: the EIP-712 hash of a ChannelConfig."""

PaymentId = NewType("PaymentId", bytes)
"""16 bytes of a UUIDv7."""

Amount = NewType("Amount", int)
"""An integer in the token's atomic units, 0 <= x < 2**128."""

MAX_AMOUNT: Final = 2**128 - 1
ZERO_ADDRESS: Final = Address(bytes(20))


@dataclass(frozen=True, slots=True)
class ChannelTotals:
    """The cumulative totals of one channel, in atomic units; told to the channel's own parties only."""

    channel_id: bytes
    receiver: bytes
    ceiling: int
    """The highest amount that the payer has signed for this receiver."""
    charged: int
    reserved: int
    claimed: int
