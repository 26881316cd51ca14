"""P18: every answer to a request with a payment says what became of it, also where what it asks for is free."""

from typing import Any

import fastapi
import grpc
import httpx2
import pytest
from seller_shop import hello

from tallystick_client import Paywall, Rule

SELLER = "0x" + "5e" * 20
PAGE = "/articles/1"


def charged(buyer: Any, response: httpx2.Response) -> str:
    receipt = buyer.receipt(response)
    assert (receipt.success, receipt.transaction, receipt.network) == (True, "", "eip155:31337")
    return str(receipt.extra["chargedAmount"])


def answer(status: int) -> Any:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"location", b"/x")]})
        await send({"type": "http.response.body", "body": b""})

    return handler


async def fail(_scope: Any, _receive: Any, _send: Any) -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize("status", [200, 204, 301, 304, 404, 410, 500, 503])
@pytest.mark.parametrize(
    ("path", "method"), [("/free", "GET"), (PAGE, "HEAD"), (PAGE, "OPTIONS"), ("/robots.txt", "GET"), ("/f/1", "GET")]
)
async def test_p18_a_payment_for_what_is_free_is_answered_as_free(
    open_shop: Any, buyer: Any, fake: Any, status: int, path: str, method: str
) -> None:
    rules = [Rule(path="/articles/*", price="0.001 USDC"), Rule(path="/f/*", price=lambda _: None)]
    shop = open_shop(answer(status), rules=rules)
    payment = buyer.deferred(await shop.offer(PAGE), path, method=method)
    response = await shop.http.request(method, path, headers=payment)
    assert response.status_code == status
    assert charged(buyer, response) == "0"
    assert buyer.receipt(response).amount == "0"
    assert fake.calls == ["Supported"]
    without = await shop.http.request(method, path)
    assert "payment-response" not in without.headers


@pytest.mark.parametrize("status", [301, 304, 404, 500])
async def test_p18_what_is_not_sold_under_a_rule_is_answered_as_not_charged(
    open_shop: Any, buyer: Any, fake: Any, status: int
) -> None:
    shop = open_shop(answer(status))
    response = await shop.buy(PAGE)
    assert (response.status_code, charged(buyer, response)) == (status, "0")
    assert fake.statuses() == ["released"]


@pytest.mark.parametrize("path", ["/free", PAGE])
async def test_p18_a_handler_that_raises_costs_nothing_and_the_answer_says_so(
    open_shop: Any, buyer: Any, fake: Any, path: str, exchange: Any
) -> None:
    shop = open_shop(fail)
    payment = buyer.deferred(await shop.offer(PAGE), path)
    response = await shop.http.get(path, headers=payment)
    assert (response.status_code, charged(buyer, response)) == (500, "0")
    assert "reserved" not in fake.statuses()
    # The error goes on to whoever logs it.
    with pytest.raises(RuntimeError):
        await exchange(shop.paywall, path, buyer.deferred(await shop.offer(PAGE), path)).run()
    assert (await shop.http.get("/free")).headers.get("payment-response") is None


async def test_p18_what_can_be_neither_priced_nor_served_costs_nothing(open_shop: Any, buyer: Any) -> None:
    def price(request: Any) -> str:
        if request.path == PAGE:
            return "0.001 USDC"
        raise KeyError(request.path)

    shop = open_shop(rules=[Rule(path="*", price=price)], max_body_bytes=10)
    payment = buyer.deferred(await shop.offer(PAGE), "/x")
    assert charged(buyer, await shop.http.get("/x", headers=payment)) == "0"
    too_large = await shop.http.post(PAGE, headers=payment, content=b"x" * 11)
    assert (too_large.status_code, charged(buyer, too_large)) == (413, "0")
    two_ways = await shop.http.get("/.well-known/%2e%2e/articles/1", headers=payment)
    assert (two_ways.status_code, charged(buyer, two_ways)) == (400, "0")
    assert shop.served == []


@pytest.mark.parametrize("header", ["junk", "e30="])
async def test_p18_what_is_no_payment_gets_no_receipt(open_shop: Any, header: str) -> None:
    shop = open_shop()
    response = await shop.http.get("/free", headers={"PAYMENT-SIGNATURE": header})
    assert response.status_code == 200
    assert "payment-response" not in response.headers


async def test_p18_of_a_payment_for_another_receiver_nothing_is_said(open_shop: Any, buyer: Any) -> None:
    shop = open_shop()
    offer = await shop.offer(PAGE)
    other = type(offer)(
        **{**{name: getattr(offer, name) for name in offer.__struct_fields__}, "pay_to": "0x" + "11" * 20}
    )
    response = await shop.http.get("/free", headers=buyer.deferred(other, "/free"))
    assert "payment-response" not in response.headers


async def test_p18_a_receipt_from_within_stays_the_only_one(open_shop: Any, buyer: Any) -> None:
    async def sells(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Payment-Response", b"theirs")]})
        await send({"type": "http.response.body", "body": b""})

    shop = open_shop(sells)
    payment = buyer.deferred(await shop.offer(PAGE), "/free")
    response = await shop.http.get("/free", headers=payment)
    assert response.headers.get_list("payment-response") == ["theirs"]


async def test_p18_of_paywalls_within_each_other_the_one_that_sells_speaks(
    open_shop: Any, buyer: Any, aggregator: Any, fake: Any
) -> None:
    def inside(path: str, app: Any = hello) -> Any:
        return Paywall(
            app, aggregator=aggregator, pay_to=SELLER, rules=[Rule(path=path, price="0.001 USDC")], settle_patience_s=0
        )

    shop = open_shop(inside("/other/*", inside("/books/*")), rules=[Rule(path="/articles/*", price="0.001 USDC")])
    for path in (PAGE, "/books/1", "/other/1"):
        response = await shop.buy(path)
        assert buyer.receipt(response).amount == "1000"
        assert len(response.headers.get_list("payment-response")) == 1
    response = await shop.http.get("/free", headers=buyer.deferred(await shop.offer(PAGE), "/free"))
    assert len(response.headers.get_list("payment-response")) == 1
    # What the inner one does not know, the outer ones do not claim to.
    offer = await shop.offer("/books/1")
    fake.settle_trouble = [("after", grpc.StatusCode.UNAVAILABLE)] * 9
    unknown = await shop.http.get("/books/1", headers=buyer.deferred(offer, "/books/1"))
    assert unknown.status_code == 503
    assert "payment-response" not in unknown.headers


async def test_p18_an_exact_payment_for_what_is_free_now_is_answered_as_free(open_shop: Any, buyer: Any) -> None:
    prices: list[str | None] = ["0.001 USDC"]
    shop = open_shop(rules=[Rule(path="*", price=lambda _: prices[0])])
    payment = buyer.exact(await shop.offer(PAGE, "exact"))
    prices[0] = None
    assert charged(buyer, await shop.http.get(PAGE, headers=payment)) == "0"


async def test_p18_a_fastapi_application_says_it_too(aggregator: Any, open_shop: Any, buyer: Any) -> None:
    app = fastapi.FastAPI()
    app.add_middleware(
        Paywall, aggregator=aggregator, pay_to=SELLER, rules=[Rule(path="/articles/*", price="0.001 USDC")]
    )

    @app.get("/articles/broken")
    async def broken() -> None:
        raise RuntimeError("broken")

    payment = buyer.deferred(await open_shop().offer(PAGE), "/articles/broken")
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://shop.test") as http:
        assert charged(buyer, await http.get("/nowhere", headers=payment)) == "0"
        response = await http.get("/articles/broken", headers=payment)
        assert (response.status_code, charged(buyer, response)) == (500, "0")
