"""Charges as they travel from a seller to its aggregator, and what became of them.

Addresses have 20 bytes, ids and hashes 32, payment ids 16; amounts are integers in the token's atomic units.
"""

from dataclasses import dataclass
from typing import NamedTuple

from tallystick.channels import ChannelConfig
from tallystick.spend_keys import SpendProof
from tallystick.values import Value


class Charge(Value, frozen=True, gc=False):
    """One payment of a channel with the payer's proof (design: decision rule 2), which nobody has checked yet.

    `payment_id` is a UUIDv7's 16 bytes; `ceiling` and `signature` are the voucher, 0 and empty where none comes along.
    `amount` is what is charged; for a reservation, the most that may be captured.
    """

    channel_id: bytes
    payment_id: bytes
    amount: int
    request_hash: bytes
    ceiling: int = 0
    signature: bytes = b""
    spend: SpendProof | None = None

    def __repr__(self) -> str:
        """Without the signature."""
        return (
            f"Charge(channel_id={self.channel_id!r}, payment_id={self.payment_id!r}, amount={self.amount}, "
            f"request_hash={self.request_hash!r}, ceiling={self.ceiling}, spend={self.spend!r})"
        )


class DeferredCharge(NamedTuple):
    """A charge with what names its channel, so that the aggregator can open one that it does not know."""

    config: ChannelConfig
    charge: Charge


@dataclass(frozen=True, slots=True)
class Charged:
    """A charge that stands, on the aggregator's disk. `charged` is the channel's charged total right after it.

    `replayed`: this payment id was charged before, and pays for nothing new; only where `resent` is set too, a stream
    that broke had to send the charge again, and the one before may have been itself.
    """

    charged: int
    replayed: bool
    resent: bool = False
