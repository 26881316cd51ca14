"""What a paywall owes to those around it: clients of any version, browsers, proxies and caches."""

import base64
import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware

from tallystick.errors import MalformedError
from tallystick_client import Rule
from tallystick_client.seller.paywall.headers import hides_cors, make_private, make_readable
from tallystick_client.seller.paywall.steps import RequestHead
from tallystick_client.seller.paywall.urls import URL_CHARS_MAX, Urls

PAGE = "/articles/1"
ORIGIN = {"origin": "https://app.example"}


@pytest.mark.parametrize("length", [10, 3_000, 12_000])
async def test_p7_the_header_of_a_402_stays_below_3_kib_however_long_the_query(
    open_shop: Any, buyer: Any, length: int
) -> None:
    response = await open_shop().http.get(f"{PAGE}?q={'x' * length}")
    assert len(response.headers["payment-required"]) < 3_072
    assert buyer.required(response).resource.url.startswith("http://shop.test/articles/1")


def test_p7_of_a_long_url_the_query_goes_first_then_the_path() -> None:
    def url_of(path: str, query: bytes = b"") -> str:
        return Urls().of(RequestHead("GET", path, [(b"host", b"shop.test")], query))

    assert url_of("/a", b"q=1") == "http://shop.test/a?q=1"
    assert url_of("/a", b"q=" + b"x" * URL_CHARS_MAX) == "http://shop.test/a"
    assert url_of("/" + "a" * URL_CHARS_MAX, b"q=1") == "http://shop.test/"


@pytest.mark.parametrize("value", ["!!!", "e30", base64.b64encode(b"{}").decode(), "bm8="])
async def test_p8_what_is_no_payment_is_400_with_a_reason(open_shop: Any, value: str) -> None:
    shop = open_shop()
    response = await shop.http.get(PAGE, headers={"PAYMENT-SIGNATURE": value})
    assert response.status_code == 400
    assert response.json()["error"] == "payload_invalid"
    assert "PAYMENT-SIGNATURE" in response.json()["message"]
    assert "payment-required" not in response.headers
    assert shop.served == []


async def test_p8_a_payment_that_meets_no_offer_is_still_402(open_shop: Any, buyer: Any) -> None:
    cheap = open_shop(rules=[Rule(path="*", price="0.0009 USDC")])
    response = await open_shop().http.get(PAGE, headers=buyer.deferred(await cheap.offer(PAGE), PAGE))
    assert buyer.required(response).error.startswith("amount_mismatch: ")


async def test_p9_scripts_of_other_origins_may_read_what_they_need_to_pay(open_shop: Any, buyer: Any) -> None:
    shop = open_shop()
    asked = await shop.http.get(PAGE, headers=ORIGIN)
    assert asked.headers["access-control-expose-headers"] == "PAYMENT-REQUIRED"
    paid = await shop.http.get(PAGE, headers=ORIGIN | buyer.deferred(buyer.terms(asked, "deferred"), PAGE))
    assert (paid.status_code, paid.headers["access-control-expose-headers"]) == (200, "PAYMENT-RESPONSE")
    assert "access-control-expose-headers" not in (await shop.http.get(PAGE)).headers


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"X-Count", b"X-Count, PAYMENT-RESPONSE"), (b"*", b"*"), (b"payment-response", b"payment-response")],
)
def test_p9_what_an_application_exposes_stays_exposed(before: bytes, after: bytes) -> None:
    headers = [(b"Access-Control-Expose-Headers", before), (b"payment-response", b"e30=")]
    ((_, listed),) = [pair for pair in make_readable(headers) if pair[0].lower() == b"access-control-expose-headers"]
    assert listed == after


async def test_p9_a_cors_middleware_behind_the_paywall_is_told(open_shop: Any, caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "tallystick.seller")
    shop = open_shop()
    shop.paywall.app = CORSMiddleware(shop.paywall.app, allow_origins=["*"])
    for _ in range(2):
        await shop.http.get(PAGE)
    (warning,) = [record.message for record in caplog.records if "CORS" in record.message]
    assert "put it around the paywall" in warning
    inside = Starlette()
    inside.add_middleware(CORSMiddleware)
    assert hides_cors(inside)
    assert not hides_cors(Starlette())


@pytest.mark.parametrize(
    "name",
    [b"CDN-Cache-Control", b"Cloudflare-CDN-Cache-Control", b"Surrogate-Control", b"Expires", b"X-Accel-Expires"],
)
def test_p12_what_tells_shared_caches_to_keep_a_paid_page_is_removed(name: bytes) -> None:
    headers = make_private([(name, b"max-age=60"), (b"x", b"y"), (b"Vary", b"accept"), (b"Cache-Control", b"public")])
    assert headers == [(b"x", b"y"), (b"vary", b"accept, PAYMENT-SIGNATURE"), (b"cache-control", b"private")]


async def test_p12_paid_pages_vary_with_their_payment(open_shop: Any) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"expires", b"Thu, 01 Jan 2099 00:00:00 GMT"), (b"surrogate-control", b"max-age=9")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"page"})

    response = await open_shop(handler).buy(PAGE)
    assert (response.headers["vary"], response.headers["cache-control"]) == ("PAYMENT-SIGNATURE", "private")
    assert not {"expires", "surrogate-control"} & set(response.headers)


FORWARDED = {"x-forwarded-proto": "https", "x-forwarded-host": "news.example"}


@pytest.mark.parametrize(
    ("settings", "headers", "base"),
    [
        ({}, FORWARDED, "http://shop.test"),
        ({"base_url": "https://news.example/"}, {}, "https://news.example"),
        ({"base_url": "https://news.example"}, {"x-forwarded-host": "evil.example"}, "https://news.example"),
        ({"trust_proxy_headers": True}, FORWARDED, "https://news.example"),
        ({"trust_proxy_headers": True}, {"x-forwarded-proto": "http, HTTPS"}, "https://shop.test"),
        ({"trust_proxy_headers": True}, {"x-forwarded-proto": "gopher", "x-forwarded-host": "a/b"}, "http://shop.test"),
    ],
)
async def test_p15_a_402_names_the_url_that_clients_see(
    open_shop: Any, buyer: Any, settings: dict[str, Any], headers: dict[str, str], base: str
) -> None:
    response = await open_shop(**settings).http.get(PAGE, headers=headers)
    assert buyer.required(response).resource.url == base + PAGE


@pytest.mark.parametrize("base_url", ["news.example", "ftp://news.example", "https://", "https://a/?b", "https://a b"])
def test_p15_a_base_url_that_is_none_is_named(base_url: str) -> None:
    with pytest.raises(MalformedError, match="base_url"):
        Urls(base_url)


async def test_p22_every_header_of_the_paywalls_own_is_in_lower_case(open_shop: Any, exchange: Any, buyer: Any) -> None:
    shop = open_shop()
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    for headers in ({}, ORIGIN, {"payment-signature": "!!!"}, payment | ORIGIN):
        one = exchange(shop.paywall, PAGE, headers)
        await one.run()
        names = [name for message in one.sent for name, _ in message.get("headers", ())]
        assert names
        assert all(name == name.lower() for name in names)


async def test_p23_a_client_of_version_1_is_told_that_version_2_is_needed_and_what_for(
    open_shop: Any, buyer: Any
) -> None:
    shop = open_shop()
    first = await shop.http.get(PAGE)
    told = first.json()
    assert told["x402Version"] == 2
    assert "version 2 of x402: http://shop.test/articles/1" in told["message"]
    assert "PAYMENT-REQUIRED" in told["message"]
    paid = await shop.http.get(PAGE, headers={"X-PAYMENT": "e30="})
    assert buyer.required(paid).error == paid.json()["error"]
    assert paid.json()["error"].startswith("version_unsupported: got X-PAYMENT")
    assert shop.served == []
