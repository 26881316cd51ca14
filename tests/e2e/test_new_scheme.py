"""A scheme that only its own folder knows sells through a real paywall and buys through a real transport."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import httpx2
import pytest
from doubles import NETWORK, NEWS
from marketplace import OFFER
from seller_shop import Buyer
from serving_twin import serving

from tallystick.hexadecimal import to_hex
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick.x402 import Network, PaymentRequirements
from tallystick_client import (
    Aggregator,
    BudgetExceededError,
    Budgets,
    OfferNotAllowedError,
    Operator,
    PayingTransport,
    Paywall,
    Rule,
    Wallet,
    payment_of,
)

sys.path.append(str(Path(__file__).parents[1] / "aggregator" / "schemes"))

from toy_scheme.payer import PayByTab
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
        self.paywall = paywall
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


class Watched(httpx2.ASGITransport):
    """The way to the shop; remembers what came back."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(shop.paywall)
        self.statuses: list[int] = []
        self.is_down = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.is_down and "payment-signature" in request.headers:
            raise httpx2.ConnectError("no way", request=request)
        response = await super().handle_async_request(request)
        self.statuses.append(response.status_code)
        return response


class Crawler(NamedTuple):
    """A wallet, and a client that pays from it."""

    wallet: Wallet
    http: httpx2.AsyncClient
    statuses: list[int]
    """Of all responses, those that the transport answered by itself too."""
    way: Watched


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


@asynccontextmanager
async def crawler(folder: Path, shop: Shop, secret: str = "open sesame", **budgets: str) -> AsyncIterator[Crawler]:
    """A client that pays from a wallet which has the new scheme, and no deposit."""
    token = next(iter(OFFER.tokens.values()))
    told = Token(token.address, token.symbol, token.decimals, token.name, token.version)
    operator = Operator(
        Network.parse(NETWORK, "network"), "127.0.0.1:1", OFFER.operator, OFFER.escrow, OFFER.withdraw_delay_s, (told,)
    )
    wallet = await Wallet.open(
        folder / "wallet.db",
        key=Signer(bytes([7]) * 32),
        operators=[operator],
        budgets=Budgets(**budgets),
        schemes=[PayByTab(PAYER, secret)],
    )
    way = Watched(shop)
    transport = PayingTransport(wallet, way)
    async with wallet, httpx2.AsyncClient(transport=transport, base_url="http://shop.test") as http:
        yield Crawler(wallet, http, way.statuses, way)


async def test_a_crawler_buys_by_it_through_the_transport_and_pays_ahead(tmp_path: Path, shop: Shop) -> None:
    async with crawler(tmp_path, shop) as buyer:
        pages = [await buyer.http.get(PAGE) for _ in range(2)]
        assert [(page.status_code, page.text) for page in pages] == [(200, "news")] * 2
        receipts = [payment_of(page) for page in pages]
        assert [(receipt.scheme, receipt.charged) for receipt in receipts if receipt] == [("tab", 100)] * 2
        assert shop.tab.spent == {PAYER: 200}
        assert buyer.statuses == [402, 200, 200], "the second page is paid for ahead"
        assert [each.paid for each in (await buyer.wallet.status()).exact] == [200]


async def test_its_payments_count_in_the_wallets_budgets(tmp_path: Path, shop: Shop) -> None:
    async with crawler(tmp_path, shop, total="0.0001") as buyer:
        assert (await buyer.http.get(PAGE)).status_code == 200
        with pytest.raises(BudgetExceededError):
            await buyer.http.get("/articles/2")
    assert shop.tab.spent == {PAYER: 100}


async def test_a_payment_that_did_not_leave_is_sent_by_the_next_try_and_counts_once(tmp_path: Path, shop: Shop) -> None:
    async with crawler(tmp_path, shop, total="0.0001") as buyer:
        buyer.way.is_down = True
        with pytest.raises(httpx2.ConnectError):
            await buyer.http.get(PAGE)
        buyer.way.is_down = False
        assert (await buyer.http.get(PAGE)).status_code == 200
        assert [each.paid for each in (await buyer.wallet.status()).exact] == [100]
    assert shop.tab.spent == {PAYER: 100}


async def test_what_it_is_refused_is_the_callers_to_see_and_is_not_paid_twice(tmp_path: Path, shop: Shop) -> None:
    async with crawler(tmp_path, shop, secret="guess") as buyer:
        page = await buyer.http.get(PAGE)
    receipt = payment_of(page)
    assert (page.status_code, receipt and receipt.charged) == (402, 0)
    assert (shop.tab.spent, shop.payers) == ({}, [])


async def test_its_own_rules_say_which_offers_are_taken(tmp_path: Path, shop: Shop) -> None:
    shop.tab.limit = 50
    async with crawler(tmp_path, shop) as buyer:
        with pytest.raises(OfferNotAllowedError, match="the tab is too small"):
            await buyer.http.get(PAGE)
