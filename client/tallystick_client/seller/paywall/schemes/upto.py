"""`upto`: one transfer of what was used, by Permit2, up to the price, which is a maximum."""

from collections.abc import Mapping
from typing import Any

from tallystick.facilitator import Kind
from tallystick.hexadecimal import parse_address
from tallystick.tokens import Token
from tallystick.x402 import (
    EIP2612_GAS_SPONSORING,
    SCHEME_UPTO,
    PaymentPayload,
    UptoTerms,
    permit_declaration,
    read_upto,
)
from tallystick_client.seller.paywall.schemes.permit2 import read_proxied
from tallystick_client.seller.paywall.schemes.port import Bind, Offer, Scheme


class UptoScheme(Scheme):
    """For payers without a deposit, where the handler decides what a request has cost."""

    name = SCHEME_UPTO
    is_reserved = False
    takes_less = True

    def offer_extra(self, kind: Kind, asset: Token) -> dict[str, Any]:
        """Who alone may settle it, and the token's own EIP-712 domain."""
        facilitator = parse_address(kind.extra.get("facilitatorAddress"), "Kind.extra.facilitatorAddress")
        return UptoTerms(facilitator, asset.name, asset.version).extra()

    def extensions(self, kind: Kind) -> Mapping[str, Any]:
        """That permits are landed, where they are."""
        return permit_declaration() if EIP2612_GAS_SPONSORING in kind.extensions else {}

    def read(self, message: PaymentPayload, offer: Offer) -> Bind:
        """An authorization of Permit2."""
        return read_proxied(message, offer, read_upto(message))
