"""Payments by Permit2, which `exact` and `upto` share: read for who pays by what, and passed on without their page."""

from functools import partial
from typing import Final

from tallystick.eip712 import PERMIT2_ADDRESS
from tallystick.hexadecimal import to_hex
from tallystick.x402 import (
    EIP2612_GAS_SPONSORING,
    PaymentPayload,
    Permit2Authorization,
    encode_json,
    read_identifier,
    without_page,
)
from tallystick.x402.permit2 import ERC20_APPROVAL_GAS_SPONSORING
from tallystick_client.seller.client.messages import OtherPayment
from tallystick_client.seller.paywall.schemes.port import Bind, IncomingPayment, Offer

_NEEDED: Final = (EIP2612_GAS_SPONSORING, ERC20_APPROVAL_GAS_SPONSORING)
"""The extensions that say how Permit2 is approved on the way."""


def read_proxied(message: PaymentPayload, offer: Offer, signed: Permit2Authorization) -> Bind:
    """The payment that `signed` was read from. Permit2 takes a nonce once, for whatever token and scheme."""
    identifier = read_identifier(message)
    return partial(
        IncomingPayment,
        offer,
        payment=OtherPayment(encode_json(without_page(message, *_NEEDED))),
        payer=signed.from_,
        payment_id=to_hex(signed.nonce),
        money_key=(PERMIT2_ADDRESS, offer.terms.network, signed.from_, signed.nonce),
        proof=None if identifier is None else (signed.signature, identifier),
        identifier=identifier,
    )
