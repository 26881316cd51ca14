"""A paywall has its aggregator list what it sells, and declares it in 402s, if it is told to."""

import asyncio
import json
import logging
from typing import Any

import grpc
import pytest
from seller_shop import hello

from tallystick.errors import MalformedError
from tallystick_client import Rule

RULES = [
    Rule(path="/articles/*", price="0.001 USDC", mime_type="text/html", description="An article"),
    Rule(path="/questions", price="0.01 USDC", methods=["POST"]),
    Rule(path="/made/*", price=lambda _: "0.002 USDC"),
]
BASE = "https://news.example"


class Sleeps:
    """The pauses between two pushes: each ends when the test says so."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self.go = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.asked.put_nowait(seconds)
        await self.go.acquire()


@pytest.fixture
async def sleeps() -> Sleeps:
    return Sleeps()


async def pushed(sleeps: Sleeps) -> None:
    """Wait until a turn is over."""
    async with asyncio.timeout(10):
        assert await sleeps.asked.get() == 300


def schemes(manifest: bytes) -> list[str]:
    """Of its first item's offers."""
    return [offer["scheme"] for offer in json.loads(manifest)["items"][0]["accepts"]]


async def test_what_is_sold_is_pushed_and_pages_do_not_wait(open_shop: Any, fake: Any, sleeps: Sleeps) -> None:
    shop = open_shop(hello, rules=RULES, list_resources=True, base_url=BASE, sleep=sleeps)
    assert (await shop.buy("/articles/1")).status_code == 200
    await pushed(sleeps)
    (manifest,) = fake.published
    items = json.loads(manifest)["items"]
    assert [(item["resource"]["url"], item["input"]["method"], bool(item["accepts"])) for item in items] == [
        (BASE + "/articles/*", "GET", True),
        (BASE + "/questions", "POST", True),
        (BASE + "/made/*", "GET", False),
    ]
    assert fake.tokens[fake.calls.index("PublishResources")].startswith("Bearer ")


async def test_prices_that_change_are_pushed_again(open_shop: Any, fake: Any, running: Any, sleeps: Sleeps) -> None:
    async with running.client(supported_refresh_s=0.0) as aggregator:
        shop = open_shop(rules=RULES, list_resources=True, base_url=BASE, sleep=sleeps, aggregator=aggregator)
        await shop.http.get("/articles/1")
        await pushed(sleeps)
        fake.kinds = [kind for kind in fake.kinds if kind.scheme == "exact"]
        assert schemes(fake.published[-1]) == ["deferred", "exact"]
        # What is supported is asked for in the background: one turn begins it, a later one has the answer.
        async with asyncio.timeout(10):
            while schemes(fake.published[-1]) != ["exact"]:
                sleeps.go.release()
                await pushed(sleeps)
        await shop.paywall.finish()


async def test_an_aggregator_that_does_not_take_it_stops_no_page_and_is_told_of_once(
    open_shop: Any, fake: Any, sleeps: Sleeps, caplog: pytest.LogCaptureFixture
) -> None:
    fake.publish_trouble = [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNIMPLEMENTED]
    fake.dropped = ["items[0].resource: not yours"]
    shop = open_shop(hello, rules=RULES, list_resources=True, base_url=BASE, sleep=sleeps)
    with caplog.at_level(logging.WARNING, "tallystick.seller"):
        assert (await shop.buy("/articles/1")).status_code == 200
        await pushed(sleeps)
        for _ in range(3):
            sleeps.go.release()
            await pushed(sleeps)
    told = [record.getMessage() for record in caplog.records]
    assert sum("does not list what is sold here" in text for text in told) == 1
    assert told.count("items[0].resource: not yours") == 1
    assert len(fake.published) == 2


async def test_it_begins_with_the_server_and_ends_with_it(open_shop: Any, fake: Any, sleeps: Sleeps) -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})

    shop = open_shop(app, rules=RULES, list_resources=True, base_url=BASE, sleep=sleeps)
    events: asyncio.Queue[Any] = asyncio.Queue()
    events.put_nowait({"type": "lifespan.startup"})

    async def send(_: Any) -> None:
        """Nobody listens."""

    lifespan = asyncio.create_task(
        shop.paywall({"type": "lifespan", "asgi": {}, "state": {}, "path": ""}, events.get, send)
    )
    await pushed(sleeps)
    assert len(fake.published) == 1
    events.put_nowait({"type": "lifespan.shutdown"})
    await lifespan
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("price list")]


async def test_without_being_told_to_nothing_is_pushed_or_declared(open_shop: Any, fake: Any, buyer: Any) -> None:
    shop = open_shop(rules=RULES)
    assert "bazaar" not in buyer.required(await shop.http.get("/articles/1")).extensions
    assert "PublishResources" not in fake.calls


async def test_a_402_declares_how_its_resource_is_called(open_shop: Any, buyer: Any, sleeps: Sleeps) -> None:
    shop = open_shop(rules=RULES, list_resources=True, base_url=BASE, sleep=sleeps)
    declared = buyer.required(await shop.http.get("/articles/1")).extensions["bazaar"]
    assert declared["info"] == {"input": {"type": "http", "method": "GET"}, "output": {"type": "text/html"}}
    assert declared["routeTemplate"] == "/articles/:part1"
    assert declared["schema"]["properties"]["input"]["properties"]["method"]["enum"] == ["GET", "HEAD", "DELETE"]
    posted = buyer.required(await shop.http.post("/questions")).extensions["bazaar"]
    assert posted["info"] == {"input": {"type": "http", "method": "POST", "bodyType": "text", "body": ""}}
    assert "routeTemplate" not in posted


def test_without_the_sites_address_it_is_a_mistake(open_shop: Any) -> None:
    with pytest.raises(MalformedError, match="base_url"):
        open_shop(rules=RULES, list_resources=True)
