"""What can happen to the ledger. The journal stores these; state is what is left after applying them in order.

Charges and raised ceilings are made by the ten thousands a second, hence a `Value` each; the others are named tuples,
which the journal's codec goes through. Every field is a plain integer, string, bytes or tuple of those.
"""

from typing import NamedTuple

from tallystick.channels import ChannelConfig
from tallystick.values import Value
from tallystick_aggregator.ledger.values import EscrowRef


class AccountOpened(NamedTuple):
    """An account became known; its funds follow as AccountMirrored."""

    account_id: bytes
    escrow: EscrowRef
    config: ChannelConfig


class AccountMirrored(NamedTuple):
    """The account's state on chain, as absolute values (docs/design.md §6: increases when final, decreases at once)."""

    account_id: bytes
    funds: int
    withdrawing: int
    withdraw_finalizes_at: int


class ChannelOpened(NamedTuple):
    """A channel became known; `claimed` is its baseline as read from the chain (I10)."""

    channel_id: bytes
    account_id: bytes
    receiver: bytes
    claimed: int


class ChannelClaimed(NamedTuple):
    """The chain has paid this channel's receiver up to `claimed` in all."""

    channel_id: bytes
    claimed: int


class CeilingRaised(Value, frozen=True, gc=False):
    """A checked voucher lifted the channel's ceiling."""

    channel_id: bytes
    ceiling: int
    signature: bytes


class Charged(Value, frozen=True, gc=False):
    """A payment was accepted. `used_ceiling` is the voucher that proved it (0: a spend key did)."""

    channel_id: bytes
    payment_id: bytes
    amount: int
    request_hash: bytes
    used_ceiling: int
    key_id: bytes


class Reserved(NamedTuple):
    """A payment was accepted, to be captured or released later under `handle`."""

    channel_id: bytes
    payment_id: bytes
    amount: int
    request_hash: bytes
    used_ceiling: int
    key_id: bytes
    handle: bytes
    expires_at: int


class Captured(NamedTuple):
    """A reservation, expired or not, became a charge of `amount`."""

    handle: bytes
    channel_id: bytes
    payment_id: bytes
    key_id: bytes
    amount: int


class CapturedInStep(NamedTuple):
    """As `Captured`, of a payment that a `WatermarkProof` proved: it counts as a charge that a claim attests."""

    handle: bytes
    channel_id: bytes
    payment_id: bytes
    key_id: bytes
    amount: int


class ChargesAttested(NamedTuple):
    """A claim up to `total` is to be journaled, which attests so many charges. Earlier claims up to `before` stand;
    those above it never landed, so that their charges count again.
    """

    channel_id: bytes
    total: int
    before: int
    charges: int


class Released(NamedTuple):
    """A reservation was given back for good."""

    handle: bytes


class Expired(NamedTuple):
    """A reservation's time ran out; a capture may still come."""

    handle: bytes


class SpendKeyRegistered(NamedTuple):
    """From now on the account takes spend proofs only."""

    account_id: bytes
    key_id: bytes
    secret: bytes
    cap: int
    expires_at: int

    def __repr__(self) -> str:
        """Without the secret."""
        return f"SpendKeyRegistered(key_id={self.key_id.hex()}, cap={self.cap}, expires_at={self.expires_at})"


class SpendKeyRevoked(NamedTuple):
    """The key proves nothing any more."""

    account_id: bytes
    key_id: bytes


class SpendKeyForgotten(NamedTuple):
    """The key expired so long ago that none of its payments can come again."""

    account_id: bytes
    key_id: bytes


class RefundStarted(NamedTuple):
    """A refund will be signed: it counts as `refunding` from here on (threat 35)."""

    account_id: bytes
    refund_id: bytes
    nonce: int
    amount: int


class RefundEnded(NamedTuple):
    """The refund's nonce has passed in a final block, used or not."""

    account_id: bytes
    refund_id: bytes


class TotalsApproved(NamedTuple):
    """The payerAuthorizer signed the totals of many channels at once."""

    account_id: bytes
    totals: tuple[tuple[bytes, int], ...]
    signature: bytes


class ChainAdvanced(NamedTuple):
    """The mirror of an escrow has taken in all blocks up to this one."""

    escrow: EscrowRef
    number: int
    block_hash: bytes


class PaymentsForgotten(NamedTuple):
    """Payment ids whose time is before this are pruned, and refused as expired from here on (I4)."""

    before_ms: int


Event = (
    AccountOpened
    | AccountMirrored
    | ChannelOpened
    | ChannelClaimed
    | CeilingRaised
    | Charged
    | Reserved
    | Captured
    | CapturedInStep
    | ChargesAttested
    | Released
    | Expired
    | SpendKeyRegistered
    | SpendKeyRevoked
    | SpendKeyForgotten
    | RefundStarted
    | RefundEnded
    | TotalsApproved
    | ChainAdvanced
    | PaymentsForgotten
)
