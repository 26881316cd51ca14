"""What a transport needs of a wallet, be it in this process or served by another."""

from typing import Protocol

from tallystick.quantities import PaymentId
from tallystick.reasons import Reason
from tallystick.x402 import ExactAuthorization, PaymentRequired
from tallystick_client.payer.policy.offers import Offer
from tallystick_client.payer.wallet.grants import Payment


class Payer(Protocol):
    """What a transport needs of a wallet, in this process or in another."""

    def choose(self, required: PaymentRequired) -> Offer:
        """The offer to take; raises OfferNotAllowedError."""
        ...

    async def pay(self, offer: Offer, host: str, request_hash: bytes, payment_id: PaymentId | None = None) -> Payment:
        """A payment from the deposit."""
        ...

    async def pay_exact(self, offer: Offer, host: str) -> ExactAuthorization:
        """A payment without a deposit."""
        ...

    def note_exact(self, nonce: bytes) -> None:
        """A seller says that the transfer of this nonce was made: it is spent for good."""
        ...

    async def recover_from(self, offer: Offer, reason: Reason, host: str = "", key_id: bytes = b"") -> bool:
        """Do what can be done about a refusal at this host; whether the payment is worth another try.

        `key_id`: of the spend key that proved the refused payment.
        """
        ...
