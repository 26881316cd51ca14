"""A voucher on its way: what it asks for, and what the ledger holds and charges for it."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from tallystick import payment_ids
from tallystick.channels import ChannelConfig
from tallystick.charges import Charge
from tallystick.errors import MalformedError
from tallystick.quantities import PaymentId
from tallystick.vouchers import UncheckedVoucher
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.values import EscrowRef

REFUND: Final = "refund"


@dataclass(frozen=True, slots=True)
class Step:
    """Of which channel, over how much, what it adds to what was charged, and in which kind of payload it came.

    `accepted`: what its payer accepted for this request, in atomic units; 0 of a refund, which charges nothing.
    """

    kind: str
    escrow: EscrowRef
    config: ChannelConfig
    voucher: UncheckedVoucher
    accepted: int

    @property
    def is_refund(self) -> bool:
        """Whether it asks for money back, and charges nothing."""
        return self.kind == REFUND

    @property
    def channel_id(self) -> bytes:
        return self.voucher.channel_id

    @property
    def bound(self) -> bytes:
        """What a pendingId stands for: the same kind, voucher and amount, or it is another."""
        return sha256(
            b"%b|%b|%d|%d" % (self.kind.encode(), self.channel_id, self.voucher.max_claimable_amount, self.accepted)
        ).digest()

    def payment(self, payment_id: PaymentId) -> Charge:
        """The payment under this id, with the step's amount."""
        return self._charge(payment_id, self.accepted)

    def lock(self, payment_id: PaymentId) -> Charge:
        """What holds the channel under this id, and nothing of its money."""
        return self._charge(payment_id, 0)

    def _charge(self, payment_id: PaymentId, amount: int) -> Charge:
        voucher = self.voucher
        return Charge(self.channel_id, payment_id, amount, self.bound, voucher.max_claimable_amount, voucher.signature)


def read_pending_id(pending_id: str | None) -> PaymentId | Refusal:
    """Read what verify answered; what it never answered is refused as one that nothing is held under."""
    try:
        return payment_ids.parse_payment_id(pending_id or "", "payload.pendingId")
    except MalformedError:
        return refuse(Why.RESERVATION_OF_ANOTHER_VOUCHER)
