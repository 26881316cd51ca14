"""A payment as it came with a request: parsed, and matched with what is asked for now."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from tallystick.charges import Charge, DeferredCharge
from tallystick.errors import Described, MalformedError, RefusedError, describe
from tallystick.hexadecimal import to_hex
from tallystick.payment_ids import format_payment_id
from tallystick.reasons import Reason
from tallystick.x402 import (
    PAYMENT_SIGNATURE_HEADER,
    SCHEME_DEFERRED,
    SCHEME_EXACT,
    DeferredPayment,
    ExactAuthorization,
    PaymentPayload,
    PaymentTerms,
    decode_header,
    encode_json,
    read_deferred,
    read_exact,
    read_identifier,
    read_terms,
)
from tallystick_client.seller.client.messages import OtherPayment
from tallystick_client.seller.paywall.offers import Offer


@dataclass(frozen=True, slots=True)
class IncomingPayment:
    """A payment and the offer that it meets. Nothing about it is proven yet."""

    offer: Offer
    payment: DeferredCharge | ExactAuthorization | OtherPayment
    request_hash: bytes
    identifier: str | None = None
    """How a payment names itself, if it does; a `deferred` one always does."""
    payer_told: bytes = b""
    """Whose money it is, as the aggregator said: of a payment that only the aggregator reads."""

    def attempt_hash(self) -> bytes:
        """What an exact payment pays for, as the aggregator is told: the request, and the id that proves who asks.

        Without an id nobody can prove to ask for the same again; then each is another's, by 32 random bytes.
        """
        if self.identifier is None:
            return os.urandom(32)
        return sha256(self.request_hash + self.identifier.encode("ascii")).digest()

    @property
    def payer(self) -> bytes:
        """Whose money it is."""
        if isinstance(self.payment, OtherPayment):
            return self.payer_told
        return self.payment.config.payer if isinstance(self.payment, DeferredCharge) else self.payment.from_

    @property
    def payment_id(self) -> str:
        """How the payer names the payment: its payment id, the nonce of an exact one, the hash of another."""
        if isinstance(self.payment, DeferredCharge):
            return format_payment_id(self.payment.charge.payment_id)
        if isinstance(self.payment, OtherPayment):
            return to_hex(sha256(self.payment.payload).digest())
        return to_hex(self.payment.nonce)

    @property
    def money_key(self) -> tuple[object, ...]:
        """What is paid with, whatever for: the same key is the same money."""
        terms = self.offer.terms
        if isinstance(self.payment, DeferredCharge):
            return (SCHEME_DEFERRED, self.payment.charge.channel_id, self.payment.charge.payment_id)
        if isinstance(self.payment, OtherPayment):
            return (terms.scheme, terms.network, terms.asset, self.payment.payload)
        return (SCHEME_EXACT, terms.network, terms.asset, self.payment.from_, self.payment.nonce)

    @property
    def answer_key(self) -> tuple[object, ...] | None:
        """What an answer is kept under: the money, the request that it pays for, and the payer's proof.

        The proof has something that never appears on chain, where vouchers and authorizations become public: the spend
        key's MAC, or a payment id. Without one there is no key: a stranger could ask again just as the payer does.
        """
        if not isinstance(self.payment, DeferredCharge):
            if self.identifier is None:
                return None
            proof = self.payment.payload if isinstance(self.payment, OtherPayment) else self.payment.signature
            return (*self.money_key, self.request_hash, proof, self.identifier)
        charge = self.payment.charge
        # The money's key has the payment id.
        proof = charge.signature if charge.spend is None else charge.spend.mac
        return (*self.money_key, self.request_hash, proof)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A payment as it came, and the terms that its payer accepted."""

    message: PaymentPayload
    terms: PaymentTerms

    def meet(self, offers: Sequence[Offer]) -> "Unbound":
        """The payment with the offer that it meets.

        Raises MalformedError, which names the field, on what is no payment, and RefusedError on one that meets no
        offer.
        """
        offer = _matching(offers, self.terms)
        if offer.terms.scheme == SCHEME_EXACT:
            return Unbound(offer, read_exact(self.message), read_identifier(self.message))
        if offer.terms.scheme == SCHEME_DEFERRED:
            return Unbound(offer, read_deferred(self.message))
        return Unbound(offer, OtherPayment(encode_json(self.message)), read_identifier(self.message))


@dataclass(frozen=True, slots=True)
class Unbound:
    """A payment that meets an offer, not yet compared with the request that it came with."""

    offer: Offer
    payment: DeferredPayment | ExactAuthorization | OtherPayment
    identifier: str | None = None
    """How a payment names itself, if it does and is not `deferred`."""

    def bind(self, request_hash: bytes) -> IncomingPayment:
        """The payment as one for this request."""
        payment = self.payment
        if not isinstance(payment, DeferredPayment):
            return IncomingPayment(self.offer, payment, request_hash, self.identifier)
        charge = Charge(
            channel_id=payment.channel_id,
            payment_id=payment.payment_id,
            amount=self.offer.terms.amount,
            request_hash=request_hash,
            ceiling=payment.ceiling,
            signature=payment.signature,
            spend=payment.spend,
        )
        return IncomingPayment(self.offer, DeferredCharge(payment.config, charge), request_hash)


def read_accepted(headers: Sequence[bytes]) -> Accepted:
    """The payment in the values of the PAYMENT-SIGNATURE headers, of which there must be one.

    Raises MalformedError, which names the field.
    """
    if len(headers) != 1:
        raise MalformedError(PAYMENT_SIGNATURE_HEADER, Described(f"{len(headers)} of them"), "one")
    message = decode_header(headers[0].decode("latin-1"), PaymentPayload, PAYMENT_SIGNATURE_HEADER)
    return Accepted(message, read_terms(message.accepted))


def read_payment(headers: Sequence[bytes], offers: Sequence[Offer], request_hash: bytes) -> IncomingPayment:
    """The payment in the values of the PAYMENT-SIGNATURE headers, of which there must be one.

    Raises MalformedError, which names the field, on what is no payment, and RefusedError on one that meets no offer.
    """
    return read_accepted(headers).meet(offers).bind(request_hash)


def _matching(offers: Sequence[Offer], accepted: PaymentTerms) -> Offer:
    """The offer that the payer accepted, if it still stands at that price or below."""
    schemes = [offer for offer in offers if offer.terms.scheme == accepted.scheme]
    if not schemes:
        allowed = " or ".join(offer.terms.scheme for offer in offers)
        raise _refused(Reason.SCHEME_UNSUPPORTED, "accepted.scheme", accepted.scheme, allowed)
    networks = [offer for offer in schemes if offer.terms.network == accepted.network]
    if not networks:
        allowed = " or ".join(str(offer.terms.network) for offer in schemes)
        raise _refused(Reason.NETWORK_UNSUPPORTED, "accepted.network", str(accepted.network), allowed)
    tokens = [offer for offer in networks if offer.terms.asset == accepted.asset]
    if not tokens:
        allowed = " or ".join(offer.requirements.asset for offer in networks)
        raise _refused(Reason.TOKEN_MISMATCH, "accepted.asset", to_hex(accepted.asset), allowed)
    offer = tokens[0]
    if offer.terms.pay_to != accepted.pay_to:
        got = to_hex(accepted.pay_to)
        raise _refused(Reason.RECEIVER_MISMATCH, "accepted.payTo", got, offer.requirements.pay_to)
    if accepted.amount < offer.terms.amount:
        got, allowed = str(accepted.amount), f"at least {offer.terms.amount}"
        raise _refused(Reason.AMOUNT_MISMATCH, "accepted.amount", got, allowed)
    return offer


def _refused(reason: Reason, field: str, got: str, allowed: str) -> RefusedError:
    return RefusedError(reason, reason.advice, field, describe(got), allowed)
