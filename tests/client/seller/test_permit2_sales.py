"""What a paywall offers by Permit2, what it reads of such payments, and what a handler may take of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from tallystick.errors import MalformedError
from tallystick.facilitator import Kind, Limits, Supported
from tallystick.hexadecimal import parse_address
from tallystick.tokens import Token
from tallystick.x402 import HEADER_BYTES_MAX, PaymentPayload, ResourceInfo, decode_json, encode_json
from tallystick_client.seller.client.messages import OtherPayment
from tallystick_client.seller.paywall.offers import make_offers, payment_required
from tallystick_client.seller.paywall.paid import PaidRequest

VECTORS = Path(__file__).parents[2] / "proto/vectors/permit2.json"
VECTOR: dict[str, Any] = json.loads(VECTORS.read_text())["vectors"][0]
SIGNED = VECTOR["exact"]["permit2Authorization"]
TOKEN = Token(parse_address(SIGNED["permitted"]["token"], "token"), "PUSD", 6, "Dollar 0", "2")
PAY_TO = parse_address(SIGNED["witness"]["to"], "to")
FACILITATOR = VECTOR["upto"]["permit2Authorization"]["witness"]["facilitator"]
BY_PERMIT2 = {"assetTransferMethod": "permit2"}


SPONSORING = ("eip2612GasSponsoring", "erc20ApprovalGasSponsoring")


def offers(*, sponsored: bool = False, extensions: tuple[str, ...] = ()) -> Any:
    extensions = SPONSORING[:1] if sponsored else extensions
    kinds = (
        Kind("upto", VECTOR["network"], (TOKEN,), extra={**BY_PERMIT2, "facilitatorAddress": FACILITATOR}),
        Kind("exact", VECTOR["network"], (TOKEN,)),
        Kind("exact", VECTOR["network"], (TOKEN,), extra=BY_PERMIT2, extensions=extensions),
    )
    supported = Supported(kinds, Limits(1, 1, 1, 1), frozenset(), frozenset())
    return make_offers(supported, "0.001 PUSD", pay_to=PAY_TO, network=None, timeout_s=60, field="price")


def payment(scheme: str, offer: Any) -> PaymentPayload:
    message = PaymentPayload(payload=VECTOR[scheme], accepted=offer.requirements, extensions=VECTOR["extensions"])
    return decode_json(encode_json(message), PaymentPayload, "payment", HEADER_BYTES_MAX)


def paid(scheme: str, offer: Any) -> PaidRequest:
    return PaidRequest(offer.scheme.read(payment(scheme, offer), offer)(bytes(32)))


def test_each_way_is_an_offer_of_its_own() -> None:
    token = {"name": "Dollar 0", "version": "2"}
    assert [(offer.requirements.scheme, offer.requirements.extra) for offer in offers()] == [
        ("exact", token),
        ("exact", {**token, **BY_PERMIT2}),
        ("upto", {**token, **BY_PERMIT2, "facilitatorAddress": FACILITATOR}),
    ]


@pytest.mark.parametrize("sponsored", [True, False])
def test_the_402_declares_that_permits_are_landed_where_they_are(sponsored: bool) -> None:
    required = payment_required(offers(sponsored=sponsored), ResourceInfo(url="http://shop/a"), "payment_required")
    assert ("eip2612GasSponsoring" in (required.extensions or {})) is sponsored


@pytest.mark.parametrize("extensions", [(), SPONSORING[:1], SPONSORING[1:], SPONSORING])
def test_the_402_declares_what_the_aggregator_sponsors_and_no_more(extensions: tuple[str, ...]) -> None:
    required = payment_required(offers(extensions=extensions), ResourceInfo(url="http://shop/a"), "payment_required")
    assert set(SPONSORING) & set(required.extensions or {}) == set(extensions)


@pytest.mark.parametrize(("scheme", "index"), [("exact", 1), ("upto", 2)])
def test_a_payment_is_passed_on_as_it_came_and_known_by_what_permit2_takes_once(scheme: str, index: int) -> None:
    offer = offers()[index]
    incoming = offer.scheme.read(payment(scheme, offer), offer)(bytes(32))
    assert isinstance(incoming.payment, OtherPayment)
    assert decode_json(incoming.payment.payload, PaymentPayload, "payment", HEADER_BYTES_MAX) == payment(scheme, offer)
    assert incoming.payer == parse_address(VECTOR["payer"], "payer")
    nonce = int(VECTOR[scheme]["permit2Authorization"]["nonce"])
    assert int(incoming.payment_id, 16) == nonce


@pytest.mark.parametrize(("scheme", "index"), [("exact", 1), ("upto", 2)])
def test_what_is_passed_on_does_not_tell_the_page(scheme: str, index: int) -> None:
    offer = offers()[index]
    came = payment(scheme, offer)
    echoed = {**(came.extensions or {}), "pay-ahead": {"info": {"path": "/secret*"}}}
    named = structs.replace(came, resource=ResourceInfo(url="http://shop/secret"), extensions=echoed)
    incoming = offer.scheme.read(named, offer)(bytes(32))
    assert isinstance(incoming.payment, OtherPayment)
    assert b"secret" not in incoming.payment.payload
    assert decode_json(incoming.payment.payload, PaymentPayload, "payment", HEADER_BYTES_MAX) == came


def test_the_price_of_upto_is_a_maximum_and_that_of_exact_is_not() -> None:
    _, exact, upto = offers()
    metered = paid("upto", upto)
    metered.capture(300)
    assert metered.captured == 300
    metered.capture(0)
    assert metered.captured == 0
    with pytest.raises(MalformedError, match="what was agreed"):
        metered.capture(1_001)
    fixed = paid("exact", exact)
    fixed.capture(300)
    assert fixed.captured == 1_000


def test_a_broken_payment_is_named() -> None:
    offer = offers()[2]
    broken = PaymentPayload(payload={**VECTOR["upto"], "signature": "junk"}, accepted=offer.requirements)
    with pytest.raises(MalformedError, match=r"payload\.signature"):
        offer.scheme.read(broken, offer)
