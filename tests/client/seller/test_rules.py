"""Which requests cost what."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tallystick.errors import MalformedError
from tallystick_client import RequestInfo, Rule
from tallystick_client.seller.paywall.paths import read_paths
from tallystick_client.seller.paywall.rules import Asked, find_rules, methods_of, unreachable

BOT = "Mozilla/5.0 (compatible; GPTBot/1.2; +https://example.com/bot)"


def found(rules: list[Rule], path: str, *, method: str = "GET", user_agent: str = "") -> str | None:
    asked = Asked(methods_of(method, []), read_paths(path), user_agent)
    return next((str(match.rule.price) for match in find_rules(rules, asked)), None)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/articles/*", "/articles/1", True),
        ("/articles/*", "/articles/2026/11/x", True),
        ("/articles/*", "/articles/", True),
        ("/articles/*", "/articles", False),
        ("/articles/*", "/Articles/1", True),  # some file systems serve the same page
        ("/articles/*", "/x/articles/1", False),
        ("*", "/anything", True),
        ("*.pdf", "/a/b.pdf", True),
        ("*.pdf", "/a/b.pdfx", False),
        ("/a.b", "/aXb", False),
        ("/a/*/c", "/a/b/c", True),
        ("/line*", "/line\nbreak", True),
    ],
)
def test_a_star_stands_for_any_characters_and_nothing_else_is_special(pattern: str, path: str, matches: bool) -> None:
    assert (found([Rule(path=pattern, price="1 X")], path) is not None) is matches


def test_the_first_rule_that_matches_decides() -> None:
    rules = [Rule(path="/a/cheap", price="1 X"), Rule(path="/a/*", price="2 X"), Rule(path="*", price="3 X")]
    assert [found(rules, path) for path in ("/a/cheap", "/a/other", "/b")] == ["1 X", "2 X", "3 X"]


def test_methods_narrow_a_rule() -> None:
    rules = [Rule(path="/api/*", methods=["POST", "PUT"], price="1 X")]
    assert found(rules, "/api/x", method="POST") == "1 X"
    assert found(rules, "/api/x", method="GET") is None


def test_user_agents_narrow_a_rule_in_any_case() -> None:
    rules = [Rule(path="*", user_agents=["gptbot", "ClaudeBot"], price="1 X")]
    assert found(rules, "/", user_agent=BOT) == "1 X"
    assert found(rules, "/", user_agent="Mozilla/5.0 (X11; Linux)") is None
    assert found(rules, "/") is None


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_asking_without_a_page_is_free(method: str) -> None:
    assert found([Rule(path="*", price="1 X")], "/articles/1", method=method) is None


@pytest.mark.parametrize("path", ["/robots.txt", "/.well-known/x402", "/.well-known/a/b"])
def test_what_crawlers_read_first_is_free(path: str) -> None:
    assert found([Rule(path="*", price="1 X")], path) is None


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/../articles/1",
        "/free/../articles/1",
        "/free/./../articles/1",
        "//articles/1",
        "/articles/../robots.txt",
        "/articles/free/../1",
        "/articles/..",
    ],
)
def test_a_path_that_means_two_things_is_refused(path: str) -> None:
    rules = [Rule(path="/articles/free/*", price="1 X"), Rule(path="/articles/*", price="2 X")]
    with pytest.raises(MalformedError, match=r"path: got .*, allowed one without dot segments"):
        found(rules, path)


@pytest.mark.parametrize(
    "path", ["/articles/https://example.com/", "/articles/a/./b", "/articles/a..b", "/articles/.b"]
)
def test_a_path_that_costs_the_same_in_both_readings_is_served(path: str) -> None:
    assert found([Rule(path="/articles/*", price="1 X")], path) == "1 X"


def test_a_path_with_dots_that_no_rule_speaks_of_is_free() -> None:
    assert found([Rule(path="/articles/*", price="1 X")], "/static/../css/site.css") is None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"path": "articles"}, "rule: path: got 'articles', allowed a path from \"/\" on"),
        ({"path": 5}, "rule: path: got 5"),
        ({"price": "0.001"}, "rule '/a': price: got '0.001', allowed a decimal number and a token's symbol"),
        ({"price": "-1 USDC"}, "rule '/a': price: got '-1 USDC'"),
        ({"price": "1e3 USDC"}, "rule '/a': price: got '1e3 USDC'"),
        ({"price": 1}, "rule '/a': price: got 1"),
        ({"price": None}, "rule '/a': price: got nothing"),
        ({"methods": "POST"}, "rule '/a': methods: got 'POST', allowed a list of"),
        ({"methods": []}, "rule '/a': methods"),
        ({"methods": ["post"]}, "rule '/a': methods: got 'post', allowed upper case"),
        ({"methods": ["HEAD"]}, "rule '/a': methods: got 'HEAD', allowed upper case, and not HEAD or OPTIONS"),
        ({"methods": [5]}, "rule '/a': methods: got 5"),
        ({"user_agents": ["a", ""]}, "rule '/a': user_agents: got '', allowed words"),
        ({"user_agents": "GPTBot"}, "rule '/a': user_agents: got 'GPTBot', allowed a list of"),
    ],
)
def test_a_wrong_rule_is_told_where_it_is_written(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Rule(**{"path": "/a", "price": "1 USDC", **rule})
    assert message in str(caught.value)


def reading(rules: list[Rule], path: str, **scope: Any) -> list[tuple[str, str]]:
    asked = Asked(("GET",), read_paths(path, **scope), "")
    return [(match.rule.path, match.path) for match in find_rules(rules, asked)]


def test_p1_the_rule_for_the_applications_own_path_comes_before_other_readings() -> None:
    rules = [Rule(path="/api/a", price="1 X"), Rule(path="/A/*", price="2 X"), Rule(path="/a/*", price="0 X")]
    assert reading(rules, "/api/a", root_path="/api") == [("/api/a", "/api/a")]
    assert reading(rules, "/api/a/1", root_path="/api") == [("/a/*", "/a/1"), ("/A/*", "/a/1")]
    assert reading(rules, "/a/1") == [("/a/*", "/a/1"), ("/A/*", "/a/1")]
    assert reading([Rule(path="/free", price="0 X"), Rule(path="*", price="1 X")], "/v1/free", root_path="/v1") == [
        ("/free", "/free")
    ]


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/questions", "/questions/", True),
        ("/questions/", "/questions", True),
        ("/a/*/", "/a/", False),
        ("/a/*/", "/a/b", True),
        ("/a%20b/*", "/a b/1", True),
        ("/Caf\u00e9/*", "/cafe\u0301/1", True),
    ],
)
def test_p1_a_slash_at_the_end_case_and_spelling_make_no_page_free(pattern: str, path: str, matches: bool) -> None:
    assert (found([Rule(path=pattern, price="1 X")], path) is not None) is matches


def test_p1_a_method_that_passes_for_another_one_costs_what_that_costs() -> None:
    rules = [Rule(path="*", methods=["GET"], price="1 X")]

    def methods(method: str, *headers: tuple[bytes, bytes]) -> list[Any]:
        return find_rules(rules, Asked(methods_of(method, headers), read_paths("/a"), ""))

    assert methods("get")
    assert methods("POST", (b"x-http-method-override", b"get"))
    assert methods("OPTIONS", (b"x-method-override", b"GET"))
    assert not methods("POST")
    assert not methods("HEAD")
    assert not methods("HEAD", (b"x-http-method", b"OPTIONS"))


@pytest.mark.parametrize(
    ("path", "root_path"), [("/" + "/a%25" * 1_000, ""), ("/%" + "25" * 200, ""), ("/a", "/a" * 20)]
)
def test_p1_a_path_with_too_many_readings_is_refused(path: str, root_path: str) -> None:
    with pytest.raises(MalformedError, match=r"^(path|root_path): got "):
        read_paths(path, root_path=root_path)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (
            [Rule(path="/a/*", price="1 X"), Rule(path="/a/b/*", price="2 X")],
            "rule '/a/b/*' never decides: rule '/a/*'",
        ),
        (
            [Rule(path="*", price="1 X", methods=["GET", "PUT"]), Rule(path="/b", price="2 X", methods=["GET"])],
            "rule '/b' never decides",
        ),
        (
            [
                Rule(path="*", price="1 X", user_agents=["bot"]),
                Rule(path="*", price="2 X", user_agents=["GPTBot", "ClaudeBot"]),
            ],
            "rule '*' never decides",
        ),
        ([Rule(path="/.well-known/x", price="1 X")], "rule '/.well-known/x' never asks for money"),
        ([Rule(path="/robots.txt", price="1 X")], "rule '/robots.txt' never asks for money"),
        ([Rule(path="/a?b=*", price="1 X")], "rule '/a?b=*' matches no usual request"),
        ([Rule(path="/a/../b", price="1 X")], "rule '/a/../b' matches no usual request"),
    ],
)
async def test_p1_a_rule_that_can_never_match_is_reported_at_start(
    open_shop: Any, caplog: pytest.LogCaptureFixture, rules: list[Rule], problem: str
) -> None:
    open_shop(rules=rules)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith(problem)


async def test_p1_a_rule_with_the_prefix_is_told_of_once(
    open_shop: Any, exchange: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shop = open_shop(rules=[Rule(path="/api/articles/*", price="1 USDC"), Rule(path="/free", price="0 USDC")])
    for _ in range(2):
        one = exchange(shop.paywall, "/api/articles/1", {})
        one.scope["root_path"] = "/api"
        await one.run()
        assert one.status == 402
    (message,) = caplog.messages
    assert message.startswith("rule '/api/articles/*': a path is compared without the root_path '/api' first")


@pytest.mark.parametrize(
    "rules",
    [
        [Rule(path="/a/b", price="1 X"), Rule(path="/a/*", price="2 X"), Rule(path="*", price="3 X")],
        [Rule(path="*", price="1 X", methods=["GET"]), Rule(path="*", price="2 X")],
        [Rule(path="*", price="1 X", user_agents=["bot"]), Rule(path="*", price="2 X")],
        [Rule(path="*", price="1 X", user_agents=["GPTBot"]), Rule(path="*", price="2 X", user_agents=["bot"])],
        [Rule(path="*.pdf", price="1 X"), Rule(path="/books/*", price="2 X")],
    ],
)
def test_p1_rules_that_can_match_are_not_reported(rules: list[Rule]) -> None:
    assert unreachable(rules) == []


# Prices that are functions.


async def test_a_price_function_sees_the_request(open_shop: Any, buyer: Any) -> None:
    seen: list[RequestInfo] = []

    def price(request: RequestInfo) -> str:
        seen.append(request)
        return f"0.00{len(request.body)} USDC"

    shop = open_shop(rules=[Rule(path="/api/*", price=price)])
    response = await shop.http.post("/api/x?y=1", content=b"abc", headers={"user-agent": "me", "x-a": "b"})
    assert buyer.required(response).accepts[0].amount == "3000"
    request = seen[0]
    assert (request.method, request.path, request.query, request.body) == ("POST", "/api/x", b"y=1", b"abc")
    assert (request.user_agent, request.headers["x-a"]) == ("me", "b")


async def test_a_coroutine_function_may_make_the_price(open_shop: Any) -> None:
    async def price(_: RequestInfo) -> str:
        await asyncio.sleep(0)
        return "0.5 USDC"

    shop = open_shop(rules=[Rule(path="*", price=price)])
    assert (await shop.offer("/x")).amount == "500000"


@pytest.mark.parametrize("price", [None, "0 USDC"])
async def test_no_price_and_a_price_of_zero_are_free(open_shop: Any, fake: Any, price: str | None) -> None:
    shop = open_shop(rules=[Rule(path="*", price=lambda _: price)])
    response = await shop.http.post("/x", content=b"abc")
    assert (response.status_code, response.text) == (200, "hello")
    assert "Verify" not in fake.calls


@pytest.mark.parametrize("price", ["free", "0.001 EURC", "0.0000001 USDC", 5])
async def test_a_price_function_that_is_wrong_gives_nothing_away(open_shop: Any, price: Any) -> None:
    shop = open_shop(rules=[Rule(path="*", price=lambda _: price)])
    assert (await shop.http.get("/x")).status_code == 500
    assert shop.served == []


async def test_a_price_function_that_raises_gives_nothing_away(open_shop: Any, fake: Any) -> None:
    def price(_: RequestInfo) -> str:
        raise KeyError("no such article")

    shop = open_shop(rules=[Rule(path="*", price=price)])
    assert (await shop.http.get("/x")).status_code == 500
    assert (shop.served, fake.calls) == ([], [])


def by_length(request: RequestInfo) -> str | None:
    """A thousandth for every byte; nothing for none."""
    return f"0.{len(request.body or b''):03} USDC"


async def upload(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_p3_a_body_that_is_streamed_up_is_priced_like_any_other(open_shop: Any, buyer: Any) -> None:
    shop = open_shop(rules=[Rule(path="*", price=by_length)], max_body_bytes=10)
    response = await shop.http.post("/x", content=upload(b"abc", b"defg"))
    assert buyer.required(response).accepts[0].amount == "7000"
    payment = buyer.deferred(buyer.terms(response, "deferred"), "/x", method="POST")
    longer = await shop.http.post("/x", headers=payment, content=upload(b"abc", b"defgh"))
    assert buyer.required(longer).error.startswith("amount_mismatch: ")
    assert shop.served == []
    assert (await shop.http.post("/x", headers=payment, content=upload(b"abc", b"defg"))).status_code == 200


@pytest.mark.parametrize("price", [by_length, lambda r: None if r.body is None else "1 USDC"])
async def test_p3_a_price_of_nothing_made_without_the_body_serves_nothing(open_shop: Any, price: Any) -> None:
    shop = open_shop(rules=[Rule(path="*", price=price)], max_body_bytes=10)
    response = await shop.http.post("/x", content=upload(b"x" * 500))
    assert (response.status_code, shop.served) == (413, [])


async def test_p3_a_price_function_sees_that_the_body_was_not_read(open_shop: Any, buyer: Any) -> None:
    seen: list[bytes | None] = []

    async def price(request: RequestInfo) -> str:
        seen.append(request.body)
        assert request.body is not None or len(seen) > 1, "asked again where this is in its way"
        return "0.001 USDC" if request.body is not None else "0.05 USDC"

    shop = open_shop(rules=[Rule(path="*", price=price)], max_body_bytes=10)
    response = await shop.http.post("/x", content=upload(b"x" * 500))
    assert seen == [None, None]
    assert buyer.required(response).accepts[0].amount == "50000"
    seen.clear()
    assert buyer.required(await shop.http.get("/x")).accepts[0].amount == "1000"
    assert seen == [b""]


async def test_p3_a_body_that_no_price_asks_for_is_not_read(open_shop: Any, exchange: Any) -> None:
    shop = open_shop(rules=[Rule(path="*", price=lambda r: "1 USDC" if r.path == "/x" else None)])
    one = exchange(shop.paywall, "/x", {"transfer-encoding": "chunked"}, method="POST", body=b"abc")
    await one.run()
    assert (one.status, one.incoming.qsize()) == (402, 1)


async def test_p3_a_long_upload_to_a_page_that_is_free_whatever_it_brings_is_passed_on(open_shop: Any) -> None:
    async def count(_scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})

    def price(request: RequestInfo) -> str | None:
        return "0.001 USDC" if request.body else None

    shop = open_shop(count, rules=[Rule(path="*", price=price)], max_body_bytes=10)
    assert (await shop.http.post("/x", content=upload(b""))).text == "0"
    shop = open_shop(count, rules=[Rule(path="*", price=lambda _: None)], max_body_bytes=10)
    assert (await shop.http.post("/x", content=upload(b"x" * 8, b"y" * 8))).text == "16"


async def test_a_price_function_is_not_asked_about_a_body_that_is_too_large(open_shop: Any) -> None:
    shop = open_shop(rules=[Rule(path="*", price=lambda _: "1 USDC")], max_body_bytes=10)
    assert (await shop.http.post("/x", content=b"x" * 11)).status_code == 413


async def test_many_different_prices_do_not_pile_up(open_shop: Any) -> None:
    prices = iter(f"0.{n:06} USDC" for n in range(1, 1_100))
    shop = open_shop(rules=[Rule(path="*", price=lambda _: next(prices))])
    for _ in range(1_050):
        assert (await shop.http.get("/x")).status_code == 402
    assert len(shop.paywall.flows.book) <= 1_024
