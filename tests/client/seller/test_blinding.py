"""What a paywall tells its aggregator of the page: a hash, and of a blinded payment one that cannot be guessed."""

import logging
from typing import Any

import pytest

from tallystick.facilitator import Kind
from tallystick.requests import blinded_hash, body_digest, request_hash
from tallystick.tokens import Token
from tallystick.x402 import PaymentPayload, PaymentRequirements, PaymentTerms, ResourceInfo, decode_json
from tallystick.x402.terms import Network
from tallystick_client.seller.paywall.schemes.other import OtherScheme
from tallystick_client.seller.paywall.schemes.port import Offer

PAGE = "/articles/1?lang=en"
BLIND = bytes(range(16))


async def test_a_blinded_payment_buys_its_page_and_the_aggregator_sees_the_blinded_hash_alone(
    open_shop: Any, fake: Any
) -> None:
    shop = open_shop()
    response = await shop.buy(PAGE, blind=BLIND, names_request=True)
    assert (response.status_code, response.text) == (200, "hello")
    (payment,) = fake.payments.values()
    assert payment.request_hash == blinded_hash(request_hash("GET", PAGE.encode()), BLIND)


@pytest.mark.parametrize("blind", [b"", BLIND], ids=["plain", "blinded"])
async def test_a_payment_for_another_request_is_named_as_such_and_costs_nothing(
    open_shop: Any, buyer: Any, fake: Any, blind: bytes
) -> None:
    shop = open_shop()
    headers = buyer.deferred(await shop.offer(PAGE), "/articles/2", blind=blind, names_request=True)
    error = buyer.required(await shop.http.get(PAGE, headers=headers)).error
    assert error.startswith("request_mismatch: ")
    assert "payload.requestHash" in error
    assert "Verify" not in fake.calls
    assert shop.served == []


async def test_another_blind_is_another_request(open_shop: Any, buyer: Any) -> None:
    shop = open_shop()
    headers = buyer.deferred(
        await shop.offer(PAGE),
        PAGE,
        blind=BLIND,
        names_request=True,
        change=lambda payload: payload.update(blind="0x" + "00" * 16),
    )
    assert buyer.required(await shop.http.get(PAGE, headers=headers)).error.startswith("request_mismatch: ")


async def test_a_payer_that_names_no_request_is_served_as_ever(open_shop: Any, fake: Any) -> None:
    shop = open_shop()
    assert (await shop.buy(PAGE)).status_code == 200
    (payment,) = fake.payments.values()
    assert payment.request_hash == request_hash("GET", PAGE.encode(), body_digest(b""))


async def test_no_log_line_holds_a_blind(open_shop: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await open_shop().buy(PAGE, blind=BLIND, names_request=True)
    assert BLIND.hex() not in caplog.text


def test_what_is_passed_on_of_other_schemes_does_not_tell_the_page() -> None:
    requirements = PaymentRequirements(
        scheme="tab", network="eip155:1", amount="5", asset="0x", pay_to="0x", max_timeout_seconds=60
    )
    token = Token(bytes(20), "USDC", 6, "USD Coin", "2")
    terms = PaymentTerms("tab", Network(1), 5, bytes(20), bytes(20))
    message = PaymentPayload(
        payload={"line": 1, "blind": "0x00"},
        accepted=requirements,
        resource=ResourceInfo(url="https://news.example/secret"),
        extensions={"payment-identifier": {"info": {"id": "x" * 16}}, "pay-ahead": {"info": {"path": "/secret*"}}},
    )
    scheme = OtherScheme("tab")
    assert scheme.is_offered(Kind("tab", "eip155:1", [token], extra={"limit": "1"}))
    payment = scheme.read(message, Offer(scheme, terms, requirements, token))(bytes(32)).payment
    passed_on = decode_json(payment.payload, PaymentPayload, "payload", 10_000)  # type: ignore[union-attr]
    assert passed_on.payload == {"line": 1}
    assert passed_on.resource is None
    assert list(passed_on.extensions or {}) == ["payment-identifier"]
