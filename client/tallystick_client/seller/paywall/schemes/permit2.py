"""Payments by Permit2, which `exact` and `upto` share: read for who pays by what, and passed on without their page."""

from functools import partial
from typing import Final

from tallystick.eip712 import PERMIT2_ADDRESS
from tallystick.hexadecimal import to_hex
from tallystick.x402 import PaymentPayload, Permit2Authorization, encode_json, read_identifier, without_page
from tallystick_client.seller.client.messages import OtherPayment
from tallystick_client.seller.paywall.schemes.port import Bind, IncomingPayment, Offer

_SPONSORING: Final = "GasSponsoring"
"""How the extensions end that hold what pays for gas: eip2612GasSponsoring, erc20ApprovalGasSponsoring."""


def read_proxied(message: PaymentPayload, offer: Offer, signed: Permit2Authorization) -> Bind:
    """The payment that `signed` was read from. Permit2 takes a nonce once, for whatever token and scheme."""
    identifier = read_identifier(message)
    forwarded = without_page(message, [name for name in message.extensions or {} if name.endswith(_SPONSORING)])
    return partial(
        IncomingPayment,
        offer,
        payment=OtherPayment(encode_json(forwarded)),
        payer=signed.from_,
        payment_id=to_hex(signed.nonce),
        money_key=(PERMIT2_ADDRESS, offer.terms.network, signed.from_, signed.nonce),
        proof=None if identifier is None else (signed.signature, identifier),
        identifier=identifier,
    )
