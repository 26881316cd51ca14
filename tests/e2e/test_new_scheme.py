"""A scheme that only its own folder knows sells through the paywall of a real client."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from doubles import NETWORK, NEWS
from marketplace import OFFER
from seller_shop import Buyer
from serving_twin import serving

from tallystick.hexadecimal import to_hex
from tallystick.x402 import PaymentRequirements
from tallystick_client import Aggregator, Paywall, Rule

sys.path.append(str(Path(__file__).parents[1] / "aggregator" / "schemes"))

from toy_scheme.tab import TabScheme

PAYER = bytes([7]) * 20
PAGE = "/articles/1"


class Shop:
    """A page behind a paywall, and who paid for it."""

    def __init__(self, tab: TabScheme, aggregator: Aggregator) -> None:
        self.tab = tab
        self.payers: list[str] = []
        self.status = 200
        rules = [Rule(path="/articles/*", price="0.0001 USDC")]
        paywall = Paywall(self.page, pay_to=to_hex(NEWS), rules=rules, aggregator=aggregator)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(paywall), base_url="http://shop.test")

    async def page(self, scope: Any, receive: Any, send: Any) -> None:
        del receive
        self.payers.append(scope["tallystick"].payer)
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"news"})

    async def offer(self) -> PaymentRequirements:
        offers = Buyer.required(await self.http.get(PAGE)).accepts
        assert [offer.scheme for offer in offers] == ["deferred", "exact", "tab"]
        return offers[2]

    async def buy(self, number: int, identifier: str = "", secret: str = "open sesame") -> httpx.Response:
        offer = await self.offer()
        payload = {"payer": to_hex(PAYER), "number": number, "amount": int(offer.amount), "secret": secret}
        named = {"payment-identifier": {"info": {"required": False, "id": identifier}}} if identifier else None
        return await self.http.get(PAGE, headers=Buyer.header(offer, payload, named))


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    tab = TabScheme(NETWORK, next(iter(OFFER.tokens.values())), {PAYER: "open sesame"}, limit=250)
    async with serving(tmp_path, schemes=[tab]) as edge:
        token = edge.news[0][1].removeprefix("Bearer ")
        async with Aggregator(f"127.0.0.1:{edge.server.port}", token=token) as aggregator:
            opened = Shop(tab, aggregator)
            yield opened
            await opened.http.aclose()


async def test_a_page_is_paid_for_by_a_scheme_that_the_paywall_does_not_know(shop: Shop) -> None:
    assert (await shop.offer()).extra == {"limit": "250"}
    response = await shop.buy(1)
    assert (response.status_code, response.text) == (200, "news")
    assert [payer.lower() for payer in shop.payers] == [to_hex(PAYER)]
    receipt = Buyer.receipt(response)
    assert (receipt.success, receipt.payer, receipt.amount) == (True, to_hex(PAYER), "100")
    assert shop.tab.spent == {PAYER: 100}


async def test_its_payment_pays_for_one_response_and_for_that_one_again(shop: Shop) -> None:
    identifier = "a-payment-of-a-tab"
    first, again = [await shop.buy(1, identifier) for _ in range(2)]
    assert (first.status_code, again.status_code, len(shop.payers)) == (200, 200, 1)
    assert Buyer.receipt(again) == Buyer.receipt(first)
    assert (await shop.buy(1, "another-payment-of-a-tab")).status_code == 409
    assert shop.tab.spent == {PAYER: 100}


async def test_what_it_holds_is_given_back_where_the_page_failed(shop: Shop) -> None:
    shop.status = 404
    assert (await shop.buy(1)).status_code == 404
    assert (shop.tab.spent, shop.tab.held) == ({}, {})


async def test_its_refusals_are_told_by_a_402(shop: Shop) -> None:
    response = await shop.buy(1, secret="guess")
    assert "call_signature" in str(Buyer.required(response).error)
    assert not shop.payers
