"""A scheme that only the aggregator reads: it says what offers carry, and payments are passed on without their page."""

from functools import partial
from hashlib import sha256
from typing import Any

from tallystick.facilitator import Kind
from tallystick.hexadecimal import to_hex
from tallystick.tokens import Token
from tallystick.x402 import PaymentPayload, encode_json, read_identifier, without_page
from tallystick_client.seller.client.messages import OtherPayment
from tallystick_client.seller.paywall.schemes.port import Bind, IncomingPayment, Offer, Scheme


class OtherScheme(Scheme):
    """Handled as a payment that its payer signed for one amount."""

    is_reserved = False

    def __init__(self, name: str) -> None:
        self.name = name

    def is_offered(self, kind: Kind) -> bool:
        """Only where the aggregator says what its offers carry."""
        return bool(kind.extra)

    def offer_extra(self, kind: Kind, asset: Token) -> dict[str, Any]:  # noqa: ARG002 - the port's
        """What the aggregator says."""
        return dict(kind.extra)

    def read(self, message: PaymentPayload, offer: Offer) -> Bind:
        """The payload, without what tells the page."""
        terms, payload, identifier = offer.terms, encode_json(without_page(message)), read_identifier(message)
        return partial(
            IncomingPayment,
            offer,
            payment=OtherPayment(payload),
            payer=b"",
            payment_id=to_hex(sha256(payload).digest()),
            money_key=(terms.scheme, terms.network, terms.asset, payload),
            proof=None if identifier is None else (payload, identifier),
            identifier=identifier,
        )
