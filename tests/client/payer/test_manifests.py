"""Prices learned from a site's manifest: what is paid ahead, what is not, and what a manifest that lies costs."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import msgspec
import pytest
from payer_buyer import OpenWallet
from payer_fakes import PRICE, FakeAggregator, FakeSeller

from tallystick_client import BudgetExceededError, Budgets, PayingTransport, Wallet
from tallystick_client.payer.http.manifests import LOOK_AGAIN_S, LOOK_EVERY_S, ORIGINS_MAX, Manifests
from tallystick_client.payer.http.price_cache import Prices
from tallystick_client.payer.http.steps import PayableRequest, payable_request
from tallystick_client.payer.policy.answers import Answer

ORIGIN = "https://a.example"
PATH = "/.well-known/x402.json"


class Site:
    """What a site publishes; `change` is the test's."""

    def __init__(self, seller: FakeSeller, scheme: str = "deferred") -> None:
        self.seller = seller
        self.asked: list[httpx2.Request] = []
        self.amount = PRICE
        self.patterns: list[Any] = [{"path": "/articles/*", "item": 0}]
        self.host = "a.example"
        self.url = ORIGIN + "/articles/*"
        self.scheme = scheme
        self.age_s: Any = 300
        self.answer: Callable[[httpx2.Request], httpx2.Response] = self.publish
        seller.pattern = ""  # what a 402 says is another matter
        seller.others["/.well-known/"] = self.answered

    def answered(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        return self.answer(request)

    def manifest(self) -> dict[str, Any]:
        offer = msgspec.to_builtins(self.seller.offer(self.scheme, self.host, self.amount))
        return {
            "x402Version": 2,
            "kind": "resource-server",
            "items": [{"resource": {"url": self.url}, "type": "http", "accepts": [offer]}],
            "pay-ahead": {"max_age_s": self.age_s, "patterns": self.patterns},
        }

    def publish(self, request: httpx2.Request) -> httpx2.Response:
        if request.headers.get("if-none-match") == 'W/"1"':
            return httpx2.Response(304, headers={"etag": 'W/"1"'})
        return httpx2.Response(200, json=self.manifest(), headers={"etag": 'W/"1"'})

    @property
    def pages(self) -> list[tuple[str, bool]]:
        """What was asked for beside the manifest, and whether with a payment."""
        return [
            (request.url.path, "payment-signature" in request.headers)
            for request in self.seller.requests
            if request.url.path != PATH
        ]


@pytest.fixture
def site(seller: FakeSeller) -> Site:
    return Site(seller)


@pytest.fixture
def now() -> list[float]:
    """The transport's monotonic clock."""
    return [1_000.0]


@pytest.fixture
async def http(wallet: Wallet, seller: FakeSeller, now: list[float]) -> AsyncIterator[httpx2.AsyncClient]:
    transport = PayingTransport(wallet, seller, monotonic=lambda: now[0], read_manifests=True)
    async with httpx2.AsyncClient(transport=transport, cookies={"session": "mine"}) as client:
        yield client


async def test_the_first_page_inside_a_published_pattern_is_paid_for_ahead(
    http: httpx2.AsyncClient, site: Site
) -> None:
    for page in ("/articles/1", "/articles/2"):
        assert (await http.get(ORIGIN + page)).status_code == 200
    assert site.pages == [("/articles/1", True), ("/articles/2", True)]
    assert len(site.asked) == 1


async def test_any_other_page_gets_its_402_first(http: httpx2.AsyncClient, site: Site) -> None:
    for page in ("/other", "/articles", "/articles/../secret", "//articles/1"):
        await http.get(ORIGIN + page)
    assert [is_paid for _, is_paid in site.pages][:2] == [False, True]
    assert all(site.pages[at][1] is False for at in range(0, len(site.pages), 2))


async def test_without_being_told_to_nothing_is_read(wallet: Wallet, seller: FakeSeller, site: Site) -> None:
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as client:
        assert (await client.get(ORIGIN + "/articles/1")).status_code == 200
    assert (site.asked, site.pages) == ([], [("/articles/1", False), ("/articles/1", True)])


async def test_a_manifest_is_fetched_again_by_its_tag_when_it_is_old(
    http: httpx2.AsyncClient, site: Site, now: list[float]
) -> None:
    await http.get(ORIGIN + "/articles/1")
    now[0] += 299
    await http.get(ORIGIN + "/articles/2")
    assert len(site.asked) == 1
    now[0] += 1
    await http.get(ORIGIN + "/articles/3")
    assert [request.headers.get("if-none-match") for request in site.asked] == [None, 'W/"1"']
    # It has not changed, and holds for another while.
    assert all(is_paid for _, is_paid in site.pages)
    now[0] += 299
    await http.get(ORIGIN + "/articles/4")
    assert len(site.asked) == 2


async def test_what_is_published_no_longer_is_not_paid_ahead(
    http: httpx2.AsyncClient, site: Site, now: list[float]
) -> None:
    await http.get(ORIGIN + "/articles/1")
    now[0] += 300
    site.answer = lambda _: httpx2.Response(404)
    await http.get(ORIGIN + "/articles/2")
    assert site.pages[-2:] == [("/articles/2", False), ("/articles/2", True)]


async def test_an_origin_is_not_asked_more_often_than_that(
    http: httpx2.AsyncClient, site: Site, now: list[float]
) -> None:
    site.age_s = 1
    for page in range(4):
        await http.get(f"{ORIGIN}/articles/{page}")
        now[0] += LOOK_EVERY_S / 3
    assert len(site.asked) == 2
    site.answer = lambda _: httpx2.Response(500)
    now[0] += LOOK_EVERY_S
    for page in range(4, 8):
        await http.get(f"{ORIGIN}/articles/{page}")
        now[0] += LOOK_AGAIN_S / 5
    assert len(site.asked) == 3


async def test_the_request_carries_nothing_of_the_programs(http: httpx2.AsyncClient, site: Site) -> None:
    headers = {"authorization": "Bearer secret", "x-own": "1", "user-agent": "crawler"}
    await http.get(ORIGIN + "/articles/1?q=1", headers=headers)
    (asked,) = site.asked
    assert (asked.method, str(asked.url)) == ("GET", ORIGIN + PATH)
    assert set(asked.headers) == {"host", "accept", "accept-encoding", "user-agent"}
    assert asked.headers["user-agent"] == "crawler"


async def test_a_redirect_is_not_followed(http: httpx2.AsyncClient, site: Site) -> None:
    site.answer = lambda _: httpx2.Response(302, headers={"location": "https://evil.example" + PATH})
    await http.get(ORIGIN + "/articles/1")
    assert {request.url.host for request in site.seller.requests} == {"a.example"}
    assert site.pages == [("/articles/1", False), ("/articles/1", True)]


class Endless(httpx2.AsyncByteStream):
    """A body that never ends; `read` counts its parts."""

    def __init__(self, *, is_slow: bool) -> None:
        self.is_slow = is_slow
        self.read = 0
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            if self.is_slow:
                await asyncio.get_running_loop().create_future()
            self.read += 1
            yield b" " * 65_536

    async def aclose(self) -> None:
        self.is_closed = True


async def test_a_manifest_without_an_end_is_left_and_the_page_is_bought(http: httpx2.AsyncClient, site: Site) -> None:
    body = Endless(is_slow=False)
    site.answer = lambda _: httpx2.Response(200, stream=body)
    assert (await http.get(ORIGIN + "/articles/1")).status_code == 200
    assert (body.read, body.is_closed) == (5, True)


async def test_a_manifest_that_is_too_slow_is_left(wallet: Wallet, seller: FakeSeller, site: Site) -> None:
    body = Endless(is_slow=True)
    site.answer = lambda _: httpx2.Response(200, stream=body)
    transport = PayingTransport(wallet, seller, read_manifests=True, manifest_s_max=0.01)
    async with httpx2.AsyncClient(transport=transport) as client:
        assert (await client.get(ORIGIN + "/articles/1")).status_code == 200
    assert body.is_closed
    (asked,) = site.asked
    assert set(asked.extensions["timeout"].values()) == {0.01}


async def test_a_connection_that_fails_leaves_the_page_as_it_was(http: httpx2.AsyncClient, site: Site) -> None:
    def fail(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("gone")

    site.answer = fail
    assert (await http.get(ORIGIN + "/articles/1")).status_code == 200
    assert site.pages == [("/articles/1", False), ("/articles/1", True)]


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.update(x402Version=1),
        lambda told: told.pop("items"),
        lambda told: told.pop("pay-ahead"),
        lambda told: told["pay-ahead"].update(max_age_s=0),
        lambda told: told["pay-ahead"].update(max_age_s=True),
        lambda told: told["pay-ahead"].update(max_age_s="300"),
        lambda told: told["pay-ahead"].update(patterns={}),
        lambda told: told["pay-ahead"].update(patterns=[None, 7, {}, {"path": "articles"}]),
        lambda told: told["pay-ahead"].update(patterns=[{"path": "/*"}]),
        lambda told: told["pay-ahead"].update(patterns=[{"path": "/*", "item": 1}]),
        lambda told: told["pay-ahead"].update(patterns=[{"path": "/*", "item": -1}]),
        lambda told: told["pay-ahead"].update(patterns=[{"path": "/*", "item": True}]),
        lambda told: told["items"].__setitem__(0, None),
        lambda told: told["items"][0].update(accepts=None),
        lambda told: told["items"][0].update(accepts=[7]),
        lambda told: told["items"][0].update(resource=7),
        # Of another origin: a site speaks for itself alone.
        lambda told: told["items"][0].update(resource={"url": "https://b.example/articles/*"}),
        lambda told: told["items"][0].update(resource={"url": "http://a.example/articles/*"}),
        # What the wallet would not take from a 402 either.
        lambda told: told["items"][0]["accepts"][0].update(network="eip155:1"),
        lambda told: told["items"][0]["accepts"][0].update(amount="-1"),
        lambda told: told["items"][0]["accepts"][0]["extra"].update(escrow="0x" + "11" * 20),
        lambda told: told["items"][0]["accepts"][0].update(scheme="other"),
    ],
)
async def test_what_is_no_price_of_this_site_is_not_believed(
    http: httpx2.AsyncClient, site: Site, change: Callable[[dict[str, Any]], Any]
) -> None:
    told = site.manifest()
    change(told)
    site.answer = lambda _: httpx2.Response(200, json=told)
    assert (await http.get(ORIGIN + "/articles/1")).status_code == 200
    assert site.pages == [("/articles/1", False), ("/articles/1", True)]


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b'{"items":' + b"[" * 100_000, b"<html>"])
async def test_what_is_no_manifest_is_not_believed(http: httpx2.AsyncClient, site: Site, body: bytes) -> None:
    site.answer = lambda _: httpx2.Response(200, content=body)
    assert (await http.get(ORIGIN + "/articles/1")).status_code == 200
    assert site.pages == [("/articles/1", False), ("/articles/1", True)]


async def test_a_body_in_an_encoding_is_not_unpacked(http: httpx2.AsyncClient, site: Site) -> None:
    packed = json.dumps(site.manifest()).encode()
    site.answer = lambda _: httpx2.Response(200, headers={"content-encoding": "br"}, stream=httpx2.ByteStream(packed))
    await http.get(ORIGIN + "/articles/1")
    assert site.pages == [("/articles/1", False), ("/articles/1", True)]


async def test_what_must_not_be_paid_ahead_is_not(
    wallet: Wallet, seller: FakeSeller, http: httpx2.AsyncClient, site: Site
) -> None:
    del wallet
    site.scheme = "exact"
    seller.schemes = ("exact",)
    await http.get(ORIGIN + "/articles/1")
    assert site.pages[0] == ("/articles/1", False)
    site.patterns = [{"path": "/*", "item": 0}]
    for method, page in (("HEAD", "/articles/1"), ("OPTIONS", "/articles/1"), ("GET", "/robots.txt")):
        before = len(site.pages)
        await http.request(method, ORIGIN + page)
        assert site.pages[before] == (page, False)


async def test_over_plain_http_nothing_is_learned(http: httpx2.AsyncClient, site: Site) -> None:
    with pytest.raises(Exception, match="https"):
        await http.get("http://a.example/articles/1")
    assert site.asked == []


# A manifest that lies.


async def test_a_price_above_the_budget_is_asked_for_first_and_costs_nothing(
    open_wallet: OpenWallet, seller: FakeSeller, site: Site, aggregator: FakeAggregator
) -> None:
    wallet = await open_wallet(budgets=Budgets(per_request="0.002"))
    site.amount = 2_001
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller, read_manifests=True)) as client:
        assert (await client.get(ORIGIN + "/articles/1")).status_code == 200
        assert site.pages == [("/articles/1", False), ("/articles/1", True)]
        assert aggregator.account.committed == PRICE
        seller.price = 2_001
        with pytest.raises(BudgetExceededError):
            await client.get(ORIGIN + "/articles/2")
    assert aggregator.account.committed == PRICE


async def test_a_price_above_the_402s_costs_what_the_402_says_where_the_seller_is_honest(
    http: httpx2.AsyncClient, site: Site, aggregator: FakeAggregator, wallet: Wallet
) -> None:
    site.amount = 5 * PRICE
    await http.get(ORIGIN + "/articles/1")
    assert aggregator.account.committed == PRICE
    assert (await wallet.status()).accounts[0].charged == PRICE


async def test_all_requests_together_stay_within_the_budgets_whatever_is_published(
    open_wallet: OpenWallet, seller: FakeSeller, site: Site, aggregator: FakeAggregator
) -> None:
    wallet = await open_wallet(budgets=Budgets(per_request="0.005", per_host="0.012"))
    site.amount, site.patterns, seller.price = 5_000, [{"path": "*", "item": 0}], 5_000
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller, read_manifests=True)) as client:
        for page in range(2):
            assert (await client.get(f"{ORIGIN}/{page}")).status_code == 200
        with pytest.raises(BudgetExceededError):
            await client.get(ORIGIN + "/3")
    assert aggregator.account.committed == 10_000


async def test_a_pattern_that_matches_everything_says_nothing_of_another_origin(
    http: httpx2.AsyncClient, site: Site
) -> None:
    site.patterns = [{"path": "*", "item": 0}]
    await http.get(ORIGIN + "/articles/1")
    site.answer = lambda _: httpx2.Response(404)
    for other in ("https://b.example", "https://a.example:8443", "https://sub.a.example"):
        await http.get(other + "/articles/1")
        assert site.pages[-2:] == [("/articles/1", False), ("/articles/1", True)]


async def test_a_lower_price_than_the_402s_is_corrected_by_it_and_paid_once(
    http: httpx2.AsyncClient, site: Site, aggregator: FakeAggregator
) -> None:
    site.amount = PRICE - 1
    assert (await http.get(ORIGIN + "/articles/1")).status_code == 200
    assert aggregator.account.committed == PRICE
    assert site.pages == [("/articles/1", True), ("/articles/1", True)]


async def test_another_receiver_than_the_402s_is_not_paid_twice_and_not_believed_again(
    http: httpx2.AsyncClient, site: Site, aggregator: FakeAggregator
) -> None:
    site.host = "elsewhere.example"  # whose receiver it then is
    assert (await http.get(ORIGIN + "/articles/1")).status_code == 402
    assert (await http.get(ORIGIN + "/articles/2")).status_code == 200
    assert site.pages == [("/articles/1", True), ("/articles/2", False), ("/articles/2", True)]
    assert aggregator.account.committed == PRICE


async def test_a_free_page_inside_a_pattern_is_paid_for_once_at_most(
    http: httpx2.AsyncClient, site: Site, aggregator: FakeAggregator
) -> None:
    site.seller.prices["/articles/free"] = 0
    for _ in range(2):
        assert (await http.get(ORIGIN + "/articles/free")).status_code == 200
    assert site.pages[-1][0] == "/articles/free"
    assert aggregator.account.committed == 0


async def test_many_first_requests_at_once_fetch_one_manifest(http: httpx2.AsyncClient, site: Site) -> None:
    answers = await asyncio.gather(*(http.get(f"{ORIGIN}/articles/{page}") for page in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(site.asked) == 1


async def test_what_is_forgotten_for_newer_origins_is_not_believed_for_ever(wallet: Wallet, site: Site) -> None:
    prices = Prices()
    manifests = Manifests(wallet, prices, lambda: 1_000.0)

    def request(host: str) -> PayableRequest:
        return payable_request("GET", "https", host, b"/articles/1", {}, b"")

    first = request("a.example")
    assert manifests.due(first) is not None
    manifests.fetched(first.origin, Answer(200, {}, json.dumps(site.manifest()).encode()))
    assert prices.offer_for(first.origin, "GET", first.target) is not None
    for number in range(ORIGINS_MAX):
        assert manifests.due(request(f"{number}.example")) is not None
    assert manifests.due(first) is not None
    assert prices.offer_for(first.origin, "GET", first.target) is None
