"""W6: a 402 says where its price holds, so that payers send payments ahead there and nowhere else."""

from typing import Any

import pytest
from seller_fakes import FakeAggregator
from seller_shop import Unmoved, hello, supported_by
from starlette.applications import Starlette
from starlette.routing import Mount

from tallystick import x402
from tallystick.patterns import Pattern
from tallystick_client import Paywall, Rule


def told(buyer: Any, response: Any) -> x402.PayAhead | None:
    return x402.read_pay_ahead(buyer.required(response).extensions)


async def test_w6_a_402_says_in_which_pages_and_methods_the_price_holds(open_shop: Any, buyer: Any) -> None:
    shop = open_shop(
        rules=[
            Rule(path="/articles/*", price="0.001 USDC"),
            Rule(path="/questions", price="0.01 USDC", methods=["POST", "PUT"]),
        ]
    )
    assert told(buyer, await shop.http.get("/articles/1?x=y")) == x402.PayAhead(Pattern("/articles/*"))
    asked = told(buyer, await shop.http.post("/questions"))
    assert asked == x402.PayAhead(Pattern("/questions"), frozenset({"POST", "PUT"}))
    other = buyer.deferred(await shop.offer("/articles/1"), "/articles/2", names_request=True)
    assert told(buyer, await shop.http.get("/articles/1", headers=other)) == x402.PayAhead(Pattern("/articles/*"))


async def test_w6_a_price_that_a_function_makes_is_not_promised_to_other_pages(open_shop: Any, buyer: Any) -> None:
    shop = open_shop(rules=[Rule(path="/articles/*", price=lambda _: "0.001 USDC")])
    response = await shop.http.get("/articles/1")
    assert told(buyer, response) is None
    assert set(buyer.required(response).extensions) == {x402.PAYMENT_IDENTIFIER}


async def test_w6_where_only_exact_is_offered_nothing_is_to_be_paid_ahead(
    open_shop: Any, buyer: Any, fake: Any
) -> None:
    fake.kinds = [kind for kind in fake.kinds if kind.scheme == "exact"]
    response = await open_shop().http.get("/articles/1")
    assert set(buyer.required(response).extensions) == {"payment-identifier"}


@pytest.mark.parametrize(
    ("mount", "root_path", "path", "pattern", "published"),
    [
        ("", "", "/articles/1", "/articles/*", "/articles/*"),
        ("", "/api", "/api/articles/1", "/articles/*", "/api/articles/*"),
        ("", "/api", "/api/articles/1", "/api/articles/*", "/api/articles/*"),
        ("/v1", "", "/v1/articles/1", "/articles/*", "/v1/articles/*"),
        ("/v1", "/api", "/api/v1/articles/1", "/articles/*", "/api/v1/articles/*"),
        ("/v1", "/api", "/api/v1/articles/1", "/v1/articles/*", "/api/v1/articles/*"),
        ("", "", "/b%C3%BCcher/1", "/bücher/*", "/bücher/*"),
        ("", "", "/b%C3%BCcher/1", "/b%C3%BCcher/*", "/bücher/*"),
        ("", "/*", "/*/articles/1", "/articles/*", None),
        ("", "/api", "/articles/1", "/api/articles/*", None),
    ],
)
async def test_w6_the_pattern_is_the_one_that_clients_see(
    exchange: Any, mount: str, root_path: str, path: str, pattern: str, published: str | None
) -> None:
    paywall = Paywall(
        hello,
        aggregator=Unmoved(supported_by(FakeAggregator())),
        pay_to="0x" + "5e" * 20,
        rules=[Rule(path=pattern, price="0.001 USDC")],
    )
    app = Starlette(routes=[Mount(mount, paywall)]) if mount else paywall
    one = exchange(app, path, {})
    one.scope.update(root_path=root_path, path=path.replace("%C3%BC", "ü"))
    await one.run()
    assert one.status == 402
    header = dict(one.sent[0]["headers"])[b"payment-required"].decode()
    required = x402.decode_header(header, x402.PaymentRequired, "PAYMENT-REQUIRED")
    ahead = x402.read_pay_ahead(required.extensions)
    assert (None if ahead is None else ahead.pattern.text) == published
    assert ahead is None or ahead.covers("GET", path.encode())


async def test_w6_the_402_stays_well_below_what_servers_take_in_headers(open_shop: Any) -> None:
    rule = Rule(
        path="/a/long/way/to/the/articles/of/this/site/*",
        price="0.001 USDC",
        methods=["GET", "POST"],
        description="An article of this site, in full and without advertisements",
        mime_type="text/html",
    )
    response = await open_shop(rules=[rule]).http.get("/a/long/way/to/the/articles/of/this/site/2026/11/30?page=2")
    assert len(response.headers["payment-required"]) < 3 * 1024


@pytest.mark.parametrize("target", ["/articles/1?", "/articles/a%2fb", "/articles/%7Eme?x=%c3%a9", "/articles//1"])
async def test_p19_a_url_that_servers_write_in_another_way_can_be_bought(open_shop: Any, target: str) -> None:
    shop = open_shop()
    assert (await shop.buy(target)).status_code == 200


async def test_p19_an_absolute_uri_on_the_request_line_is_the_page_that_it_names(
    open_shop: Any, exchange: Any, buyer: Any
) -> None:
    shop = open_shop()
    payment = buyer.deferred(await shop.offer("/articles/1"), "/articles/1?x")
    unpaid, paid = (exchange(shop.paywall, "http://shop.test/articles/1?x", headers) for headers in ({}, payment))
    await unpaid.run()
    await paid.run()
    assert (unpaid.status, paid.status) == (402, 200)
