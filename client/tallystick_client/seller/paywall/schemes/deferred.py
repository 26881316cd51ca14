"""`deferred`: charges from the payer's deposit, in a channel to the seller."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from tallystick.charges import Charge, DeferredCharge
from tallystick.errors import RefusedError
from tallystick.facilitator import Kind, Settled
from tallystick.hexadecimal import to_hex
from tallystick.payment_ids import format_payment_id
from tallystick.tokens import Token
from tallystick.x402 import (
    SCHEME_DEFERRED,
    DeferredPayment,
    DeferredTerms,
    PaymentPayload,
    bound_hash,
    read_deferred,
)
from tallystick_client.seller.paywall.schemes.port import Bind, IncomingPayment, Offer, Scheme


class DeferredScheme(Scheme):
    """The aggregator reserves the amount at Verify and takes it, or less, at Settle."""

    name = SCHEME_DEFERRED
    is_reserved = True
    requires_id = True

    def offer_extra(self, kind: Kind, asset: Token) -> dict[str, Any]:
        """The escrow, who authorizes for the receiver, and how long a withdrawal takes."""
        return DeferredTerms(
            escrow=kind.escrow,
            receiver_authorizer=kind.operator,
            withdraw_delay_s=kind.withdraw_delay_s,
            name=kind.escrow_name,
            version=kind.escrow_version,
            min_deposit=asset.min_deposit or None,
            blinding=True,
        ).extra()

    def correction(self, refused: RefusedError) -> Mapping[str, Any]:
        """The channel's totals where the refusal tells them, so that the payer can sign higher.

        By the names of batch-settlement's corrective 402, and one of ours for what is held by requests under way.
        """
        totals = refused.state
        if totals is None:
            return {}
        return {
            "channelState": {
                "channelId": to_hex(totals.channel_id),
                "chargedCumulativeAmount": str(totals.charged),
                "reservedAmount": str(totals.reserved),
                "totalClaimed": str(totals.claimed),
            },
            "voucherState": {"signedMaxClaimable": str(totals.ceiling)},
        }

    def read(self, message: PaymentPayload, offer: Offer) -> Bind:
        """A voucher, or a spend key's proof."""
        return partial(_bound, offer, read_deferred(message))

    def receipt_extra(self, payment: IncomingPayment, settled: Settled) -> dict[str, Any] | None:
        """What was charged, and the channel's total after it."""
        state = {"channelId": to_hex(_charge_of(payment).channel_id), "chargedCumulativeAmount": str(settled.charged)}
        return {"chargedAmount": str(settled.amount), "channelState": state}


def _charge_of(payment: IncomingPayment) -> Charge:
    assert isinstance(payment.payment, DeferredCharge)
    return payment.payment.charge


def _bound(offer: Offer, payment: DeferredPayment, request_hash: bytes) -> IncomingPayment:
    # The aggregator is told this hash and nothing else of the page: where the payer blinded it, it cannot guess either.
    request_hash = bound_hash(payment, request_hash)
    charge = Charge(
        channel_id=payment.channel_id,
        payment_id=payment.payment_id,
        amount=offer.terms.amount,
        request_hash=request_hash,
        ceiling=payment.ceiling,
        signature=payment.signature,
        spend=payment.spend,
    )
    return IncomingPayment(
        offer,
        request_hash,
        DeferredCharge(payment.config, charge),
        payer=payment.config.payer,
        payment_id=format_payment_id(charge.payment_id),
        money_key=(SCHEME_DEFERRED, charge.channel_id, charge.payment_id),
        # The money's key has the payment id.
        proof=(charge.signature if charge.spend is None else charge.spend.mac,),
    )
