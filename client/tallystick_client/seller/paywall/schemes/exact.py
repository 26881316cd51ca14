"""`exact`: one transfer for one payment (ERC-3009), sent by the aggregator."""

from functools import partial
from typing import Any

from tallystick.facilitator import Kind
from tallystick.hexadecimal import to_hex
from tallystick.tokens import Token
from tallystick.x402 import SCHEME_EXACT, ExactTerms, PaymentPayload, read_exact, read_identifier
from tallystick_client.seller.paywall.schemes.port import Bind, IncomingPayment, Offer, Scheme


class ExactScheme(Scheme):
    """For payers without a deposit."""

    name = SCHEME_EXACT
    is_reserved = False

    def offer_extra(self, kind: Kind, asset: Token) -> dict[str, Any]:  # noqa: ARG002 - the port's
        """The token's own EIP-712 domain."""
        return ExactTerms(asset.name, asset.version).extra()

    def read(self, message: PaymentPayload, offer: Offer) -> Bind:
        """An ERC-3009 authorization."""
        terms, authorization, identifier = offer.terms, read_exact(message), read_identifier(message)
        return partial(
            IncomingPayment,
            offer,
            payment=authorization,
            payer=authorization.from_,
            payment_id=to_hex(authorization.nonce),
            money_key=(SCHEME_EXACT, terms.network, terms.asset, authorization.from_, authorization.nonce),
            proof=None if identifier is None else (authorization.signature, identifier),
            identifier=identifier,
        )
