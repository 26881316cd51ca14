"""The paywall publishes its price list, as the specification's drafts have it, and never drifts from it."""

from typing import Any

import pytest
from seller_shop import hello

from tallystick.hexadecimal import checksum
from tallystick_client import Aggregator, Rule

PATHS = ("/.well-known/x402.json", "/.well-known/x402")
RULES = [
    Rule(path="/articles/free", price="0 USDC"),
    Rule(path="/articles/*", price="0.001 USDC", description="An article", mime_type="text/html"),
    Rule(path="/questions", price="0.01 USDC", methods=["POST", "PUT"]),
    Rule(path="/made/*", price=lambda _: "0.002 USDC"),
    Rule(path="/bücher", price="0.001 USDC", user_agents=["bot"]),
    Rule(path="/.well-known/*", price="1 USDC"),
]


async def missing(_scope: Any, _receive: Any, send: Any) -> None:
    """An application that has nothing."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"x-app", b"1")]})
    await send({"type": "http.response.body", "body": b"nothing here"})


@pytest.mark.parametrize("path", PATHS)
async def test_a_site_says_what_it_sells(open_shop: Any, buyer: Any, path: str) -> None:
    shop = open_shop(missing, rules=RULES)
    response = await shop.http.get(path)
    manifest = response.json()
    assert response.status_code == 200
    assert (manifest["x402Version"], manifest["kind"]) == (2, "resource-server")
    assert [
        (item["input"]["method"], item["resource"]["url"], bool(item["accepts"])) for item in manifest["items"]
    ] == [
        ("GET", "http://shop.test/articles/*", True),
        ("POST", "http://shop.test/questions", True),
        ("PUT", "http://shop.test/questions", True),
        ("GET", "http://shop.test/made/*", False),
        ("GET", "http://shop.test/b%C3%BCcher", True),
    ]
    article = manifest["items"][0]
    assert article["resource"]["description"] == "An article"
    assert article["resource"]["mimeType"] == "text/html"
    assert {item["type"] for item in manifest["items"]} == {"http"}
    asked = buyer.required(await shop.http.get("/articles/1"))
    assert [offer["scheme"] for offer in article["accepts"]] == [offer.scheme for offer in asked.accepts]
    assert [offer["extra"] for offer in article["accepts"]] == [offer.extra for offer in asked.accepts]
    assert article["accepts"][0]["payTo"] == checksum(shop.paywall.flows.pay_to)


async def test_fixed_prices_for_everybody_may_be_paid_ahead(open_shop: Any) -> None:
    told = (await open_shop(missing, rules=RULES).http.get(PATHS[0])).json()["pay-ahead"]
    assert told["max_age_s"] == 300
    assert told["patterns"] == [
        {"path": "/articles/*", "item": 0},
        {"path": "/questions", "methods": ["POST", "PUT"], "item": 1},
    ]


async def test_who_has_it_already_is_told_so(open_shop: Any) -> None:
    shop = open_shop(missing, rules=RULES)
    first = await shop.http.get(PATHS[0])
    assert first.headers["cache-control"] == "public, max-age=300"
    assert first.headers["access-control-allow-origin"] == "*"
    assert "x-app" not in first.headers
    again = await shop.http.get(PATHS[0], headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await shop.http.head(PATHS[0])
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])
    other = await open_shop(missing, rules=RULES[:2]).http.get(PATHS[0])
    assert other.headers["etag"] != first.headers["etag"]


async def test_the_tag_is_under_a_key_that_the_sites_processes_share(open_shop: Any, running: Any) -> None:
    """It tells nothing of the list, and a load balancer's servers have the same."""
    mine = [(await open_shop(missing, rules=RULES).http.get(PATHS[0])).headers["etag"] for _ in range(2)]
    assert mine[0] == mine[1]
    async with Aggregator(running.target, token="another") as aggregator:
        theirs = await open_shop(missing, rules=RULES, aggregator=aggregator).http.get(PATHS[0])
    assert theirs.headers["etag"] != mine[0]


async def test_urls_are_those_of_the_origin_that_clients_see(open_shop: Any) -> None:
    shop = open_shop(missing, rules=RULES, base_url="https://news.example")
    items = (await shop.http.get(PATHS[0])).json()["items"]
    assert items[0]["resource"]["url"] == "https://news.example/articles/*"


async def test_the_applications_own_page_comes_first_and_publishing_can_be_left(open_shop: Any) -> None:
    own = await open_shop(hello, rules=RULES).http.get(PATHS[0])
    assert "items" not in own.text
    left = await open_shop(missing, rules=RULES, publish=False).http.get(PATHS[0])
    assert (left.status_code, left.text) == (404, "nothing here")
    assert (await open_shop(missing, rules=RULES).http.post(PATHS[0])).status_code == 404


async def test_without_an_aggregator_prices_are_not_known(open_shop: Any, running: Any) -> None:
    await running.stop()
    response = await open_shop(missing, rules=RULES).http.get(PATHS[0])
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
