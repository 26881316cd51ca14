"""What is asked of the ledger about a payment. Commands carry proofs that were checked already: an unchecked payment is
another type (`charging.UncheckedPayment`), so the wrong one does not type-check.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

from msgspec import Meta

from tallystick.values import Value
from tallystick.vouchers import Voucher
from tallystick_aggregator.ledger.values import SECONDS_MAX, Count, EscrowRef


class VoucherProof(Value, frozen=True, gc=False):
    """Rule 2a: the payer signed a voucher over `ceiling`, and no other charge of the channel may have used it.

    `raised` is a checked voucher of the channel: this one, or a higher one that came with it.
    """

    ceiling: int
    raised: Voucher | None


class SpendProof(Value, frozen=True, gc=False):
    """Rule 2b: the HMAC was right for this payment and `max_amount`. `raised` is a checked voucher that came along."""

    key_id: bytes
    max_amount: int
    raised: Voucher | None


class WatermarkProof(Value, frozen=True, gc=False):
    """Rule 2c, of `batch-settlement`: the payer signed a voucher over exactly what was charged and this payment.

    Nothing else may be held on the channel meanwhile: the reservation is the channel's lock. `raised` as above.
    """

    ceiling: int
    raised: Voucher | None


class ProvenPayment(Value, frozen=True, gc=False):
    """A payment whose payer meant it: to be charged at once, or reserved.

    `amount` in atomic units; `request_hash` the SHA-256 of the request that it pays for (tallystick.requests).
    """

    channel_id: bytes
    payment_id: bytes
    amount: int
    request_hash: bytes
    proof: VoucherProof | SpendProof | WatermarkProof


class DecisionContext(NamedTuple):
    """When a decision is taken, and which escrows' mirrors may not be relied on (I9)."""

    now_ms: int
    stale_escrows: frozenset[EscrowRef] = frozenset()

    @property
    def now_s(self) -> int:
        """The same in seconds."""
        return self.now_ms // 1000


_Seconds = Annotated[int, Meta(ge=0, le=SECONDS_MAX)]
_Period = Annotated[int, Meta(ge=1, le=SECONDS_MAX)]
_Amount = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class Rules:
    """The ledger's limits, and what each may be. Amounts in atomic units; 0 in a limit of amounts means none."""

    payment_id_retention_s: _Period = 172_800
    payment_id_skew_s: _Seconds = 600
    """How far ahead of our clock a payment id's time may be."""
    withdraw_margin_s: _Seconds = 3_600
    """How long before a withdrawal can finalise no more charges are taken."""
    reservation_s: _Period = 300
    reservations_per_account_max: Count = 4_000
    reservations_per_channel_max: Count = 250
    """Of one seller on one account: far below the account's, so that who never settles blocks itself alone."""
    reservations_per_receiver_max: Count = 20_000
    """Of one seller on all accounts."""
    reserved_per_channel_max: _Amount = 0
    exposure_per_account_max: _Amount = 0
    exposure_per_receiver_max: _Amount = 0
    channels_per_account_max: Count = 10_000
    spend_keys_per_account_max: Count = 1_024
    """Keys that have not expired, revoked ones included."""
