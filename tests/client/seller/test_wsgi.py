"""An integration that is not ours: a page sold under WSGI, synchronously, by what is public."""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import httpx2
import pytest
import wsgi_paywall
from seller_fakes import SELLER, refusal

from tallystick_client import Rule

PAGE = "/articles/1"


def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/articles/broken":
        raise RuntimeError("broken")
    status = "404 Not Found" if environ["PATH_INFO"] == "/articles/none" else "200 OK"
    start_response(status, [("Content-Type", "text/plain")])
    paid = environ.get("tallystick")
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return [b"hello ", body, b"" if paid is None else f"for {paid.amount}".encode()]


@pytest.fixture
async def http(running: Any) -> AsyncIterator[Callable[..., Any]]:
    """Sends a request to the shop, on a thread as a WSGI server does."""
    rules = [Rule(path="/articles/*", price="0.001 USDC")]
    shop = wsgi_paywall.WsgiPaywall(page, running.client(), pay_to="0x" + SELLER.hex(), rules=rules)
    client = httpx2.Client(transport=httpx2.WSGITransport(shop), base_url="http://shop.test")

    async def send(*request: Any, **settings: Any) -> httpx2.Response:
        return await asyncio.to_thread(client.request, *request, **settings)

    with client:
        yield send
    await asyncio.to_thread(shop.close)


async def test_a_page_is_sold_and_its_answer_kept(http: Any, buyer: Any, fake: Any) -> None:
    asked = await http("GET", PAGE)
    payment = buyer.deferred(buyer.terms(asked, "deferred"), PAGE)
    for _ in range(2):
        paid = await http("GET", PAGE, headers=payment)
        assert (paid.status_code, paid.text, buyer.receipt(paid).amount) == (200, "hello for 1000", "1000")
        assert paid.headers["cache-control"] == "private"
    assert (fake.statuses(), fake.calls.count("Verify")) == (["charged"], 1)


async def test_a_body_is_paid_for(http: Any, buyer: Any) -> None:
    offer = buyer.terms(await http("POST", PAGE, content=b"me "), "exact")
    paid = await http("POST", PAGE, content=b"me ", headers=buyer.exact(offer))
    assert (paid.status_code, paid.text) == (200, "hello me for 1000")


@pytest.mark.parametrize(("path", "status"), [("/articles/none", 404), ("/articles/broken", 500)])
async def test_what_fails_is_given_back(http: Any, buyer: Any, fake: Any, path: str, status: int) -> None:
    payment = buyer.deferred(buyer.terms(await http("GET", path), "deferred"), path)
    failed = await http("GET", path, headers=payment)
    assert (failed.status_code, buyer.receipt(failed).amount) == (status, "0")
    assert fake.statuses() == ["released"]


async def test_what_is_free_is_served_and_what_is_refused_is_not(http: Any, buyer: Any, until: Any, fake: Any) -> None:
    assert (await http("GET", "/free")).text == "hello "
    offer = buyer.terms(await http("GET", PAGE), "deferred")
    free = await http("GET", "/free", headers=buyer.deferred(offer, "/free"))
    assert (free.text, buyer.receipt(free).amount) == ("hello ", "0")
    assert (await http("GET", PAGE, headers=buyer.deferred(offer, PAGE, ceiling=1))).status_code == 402
    fake.settle_trouble = [refusal("INSUFFICIENT_FUNDS")]
    refused = await http("GET", PAGE, headers=buyer.deferred(offer, PAGE))
    assert (refused.status_code, b"hello" in refused.content) == (402, False)
    await until(lambda: fake.statuses() == ["released"])


def test_an_integration_is_short_and_needs_nothing_private() -> None:
    lines = [line for line in inspect.getsource(wsgi_paywall.WsgiPaywall).splitlines() if line.strip()]
    assert len(lines) < 80
    source = inspect.getsource(wsgi_paywall)
    assert [line for line in source.splitlines() if line.startswith("from tallystick")] == [
        "from tallystick_client import Aggregator, PaymentFlow, PaymentFlows",
        "from tallystick_client.seller.paywall import steps",
    ]
    assert not re.findall(r"\b(?:flow|steps?|work|aggregator|flows)\._", source)
