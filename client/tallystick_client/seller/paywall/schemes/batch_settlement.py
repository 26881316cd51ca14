"""`batch-settlement`, the standard scheme: the payer's vouchers, in a channel of its own to this seller.

The aggregator manages the vouchers: the paywall passes every payment on, and writes into it what is the server's alone,
the `pendingId` that Verify answered. A channel has one request at a time. Whoever signed over another total than what
was charged is told the channel's state and its newest voucher, and signs again.

An answer is kept for who sends the very same payment for the very same request. The newest voucher of a channel may
stand on chain while the answer is kept, so a stranger who knows the request could ask for it; a payment that names
itself (payment-identifier, as our own wallets do) cannot be rebuilt so.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec

from tallystick.errors import MalformedError, RefusedError
from tallystick.facilitator import Kind, Settled, Verified
from tallystick.hexadecimal import parse_address, to_hex
from tallystick.reasons import Reason
from tallystick.tokens import Token
from tallystick.x402 import PaymentPayload, encode_json, read_identifier, read_terms, without_page
from tallystick.x402.batch_settlement import (
    BatchSettlementCode,
    ClaimPayload,
    RefundPayload,
    Settlement,
    SettlePayload,
    VoucherPayload,
    read_batch_settlement,
    read_correction,
)
from tallystick.x402.terms import (
    SCHEME_BATCH_SETTLEMENT,
    VOUCHER_MANAGER,
    VOUCHER_MANAGER_FACILITATOR,
    BatchSettlementTerms,
)
from tallystick_client.seller.client.messages import OtherPayment
from tallystick_client.seller.paywall.schemes.port import Bind, Held, IncomingPayment, Offer, Scheme

CORRECTION: Final = ("channelState", "voucherState")
"""What a corrective 402 adds to an offer's `extra` ("Recovery After State Loss")."""


class BatchSettlementScheme(Scheme):
    """Sections that are named here are of specs/schemes/batch-settlement/scheme_batch_settlement_evm.md."""

    name = SCHEME_BATCH_SETTLEMENT
    is_reserved = True
    tells_extra = True
    is_passed_on = True
    error_is_code = True

    def is_offered(self, kind: Kind) -> bool:
        """Where the aggregator manages vouchers."""
        managers = kind.extra.get(VOUCHER_MANAGER)
        return isinstance(managers, list) and VOUCHER_MANAGER_FACILITATOR in managers

    def offer_extra(self, kind: Kind, asset: Token) -> dict[str, Any]:
        """Who claims for the receiver, how long a withdrawal takes, the token's EIP-712 domain, the deposit's size."""
        return BatchSettlementTerms(
            receiver_authorizer=parse_address(kind.extra.get("receiverAuthorizer"), "Kind.extra.receiverAuthorizer"),
            withdraw_delay_s=kind.extra.get("withdrawDelay", 0),
            name=asset.name,
            version=asset.version,
            min_deposit=asset.min_deposit or None,
            voucher_manager=VOUCHER_MANAGER_FACILITATOR,
        ).extra()

    def correction(self, refused: RefusedError) -> Mapping[str, Any]:
        """The channel's state and its newest voucher, where the payer signed over another total."""
        return {name: refused.extra[name] for name in CORRECTION if name in refused.extra}

    def read(self, message: PaymentPayload, offer: Offer) -> Bind:
        """A voucher, with a deposit or without one, or a request for a refund."""
        payload = read_batch_settlement(message)
        if isinstance(payload, ClaimPayload | SettlePayload):
            raise MalformedError("payload.type", message.payload["type"], '"deposit", "voucher" or "refund"')
        _check_nobody_wrote(message)
        accepted = read_terms(message.accepted).amount
        if accepted != offer.terms.amount:
            # The facilitator refuses it too ("POST /verify"); the payer learns here what the price is now.
            advice, allowed = Reason.AMOUNT_MISMATCH.advice, str(offer.terms.amount)
            raise RefusedError(Reason.AMOUNT_MISMATCH, advice, "accepted.amount", str(accepted), allowed)
        channel_id, ceiling = payload.voucher.channel_id, payload.voucher.max_claimable_amount
        identifier = read_identifier(message)
        is_refund = isinstance(payload, RefundPayload)
        refunded = {"message": "Refund acknowledged", "channelId": to_hex(channel_id)}
        return partial(
            IncomingPayment,
            offer,
            payment=OtherPayment(encode_json(without_page(message))),
            payer=payload.config.payer,
            payment_id=identifier or f"{to_hex(channel_id)}:{ceiling}",
            money_key=(self.name, offer.terms.network, channel_id),
            proof=(accepted, msgspec.json.encode(message.payload), identifier),
            identifier=identifier,
            moves_money=not isinstance(payload, VoucherPayload),
            instead=msgspec.json.encode(refunded) if is_refund else None,
        )

    def held(self, payment: IncomingPayment, verified: Verified) -> Held | None:
        """The payment with the `pendingId` of the channel's lock; without one it is verified anew at Settle."""
        message = _message(payment)
        named = {"pendingId": verified.extra["pendingId"]} if "pendingId" in verified.extra else {}
        payload = {**message.payload, **named}
        return OtherPayment(encode_json(msgspec.structs.replace(message, payload=payload)))

    def found_settled(self, payment: IncomingPayment, amount: int, refused: RefusedError) -> Settled | None:
        """A charge, where this payment's voucher is the channel's newest and just this was charged on it.

        The standard has no idempotence: settling again is refused as a mismatch ("POST /settle"). Until the answer was
        lost the channel was ours alone, so nobody else can have charged this voucher.
        """
        if refused.reason is not Reason.CUMULATIVE_AMOUNT_MISMATCH:
            return None
        message = _message(payment)
        payload = read_batch_settlement(message)
        assert not isinstance(payload, ClaimPayload | SettlePayload), "`read` takes none"
        try:
            correction = read_correction(refused.extra)
        except MalformedError:
            return None
        state, newest = correction or (None, None)
        if state is None or newest is None:
            return None
        voucher = payload.voucher
        charged_before = voucher.max_claimable_amount - read_terms(message.accepted).amount
        is_ours = newest.signature == voucher.signature and newest.signed_max_claimable == voucher.max_claimable_amount
        if not is_ours or state.charged != charged_before + amount:
            return None
        return Settled(payload.config.payer, amount, charged_before + amount, extra=Settlement(state, amount).extra())

    def receipt_amount(self, settled: Settled) -> str:
        """What moved on chain, a deposit or a refund; empty for a charge alone ("Payment Response Contract")."""
        return str(settled.amount) if settled.transaction else ""

    def receipt_extra(self, payment: IncomingPayment, settled: Settled) -> dict[str, Any] | None:
        """What the aggregator says: the charge, and the channel's state after it."""
        del payment
        return dict(settled.extra)


def _message(payment: IncomingPayment) -> PaymentPayload:
    assert isinstance(payment.payment, OtherPayment)
    return msgspec.json.decode(payment.payment.payload, type=PaymentPayload)


def _check_nobody_wrote(message: PaymentPayload) -> None:
    """Raise RefusedError where a client wrote what is the server's alone ("POST /verify")."""
    codes = {
        "pendingId": BatchSettlementCode.UNEXPECTED_PENDING_ID,
        "cancel": BatchSettlementCode.UNEXPECTED_CANCEL,
    }
    for field, code in codes.items():
        if field in message.payload:
            text = f"The field {field} is the server's to write."
            raise RefusedError(Reason.PAYLOAD_INVALID, text, f"payload.{field}", "a value", "none", code=code)
