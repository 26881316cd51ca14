"""`exact`: one transfer for one payment, by ERC-3009 or by Permit2, sent by the aggregator.

Payments by Permit2 are passed on as they came: only the aggregator reads all of them.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from tallystick.facilitator import Kind
from tallystick.hexadecimal import to_hex
from tallystick.tokens import Token
from tallystick.x402 import (
    ASSET_TRANSFER_EIP3009,
    ASSET_TRANSFER_METHOD,
    EIP2612_GAS_SPONSORING,
    ERC20_APPROVAL_GAS_SPONSORING,
    SCHEME_EXACT,
    ExactTerms,
    PaymentPayload,
    approval_declaration,
    is_permit2,
    permit_declaration,
    read_exact,
    read_exact_permit2,
    read_identifier,
)
from tallystick_client.seller.paywall.schemes.permit2 import read_proxied
from tallystick_client.seller.paywall.schemes.port import Bind, IncomingPayment, Offer, Scheme


class ExactScheme(Scheme):
    """For payers without a deposit."""

    name = SCHEME_EXACT
    is_reserved = False

    def offer_extra(self, kind: Kind, asset: Token) -> dict[str, Any]:
        """The token's own EIP-712 domain, and how it is moved where that is not by ERC-3009."""
        method = kind.extra.get(ASSET_TRANSFER_METHOD, ASSET_TRANSFER_EIP3009)
        return ExactTerms(asset.name, asset.version, method).extra()

    def extensions(self, kind: Kind) -> Mapping[str, Any]:
        """That permits are landed, where they are."""
        permits = permit_declaration() if EIP2612_GAS_SPONSORING in kind.extensions else {}
        return permits | (approval_declaration() if ERC20_APPROVAL_GAS_SPONSORING in kind.extensions else {})

    def read(self, message: PaymentPayload, offer: Offer) -> Bind:
        """An authorization of the token's own, or of Permit2."""
        if is_permit2(message):
            return read_proxied(message, offer, read_exact_permit2(message))
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
