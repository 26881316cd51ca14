"""What sellers publish is listed: theirs alone, within bounds, and found by what clients ask for."""

import asyncio
import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from doubles import MUSIC, NETWORK, NEWS
from failing_disk import Fault, MemoryDisk, Operation
from http_twin import NOW_S, HttpEdge, Json, http_edge, request_of, requirements
from x402.extensions.bazaar import DiscoveryResourcesResponse, ListDiscoveryResourcesParams, with_bazaar
from x402.http import FacilitatorConfig, HTTPFacilitatorClientSync

from tallystick.hexadecimal import checksum
from tallystick_aggregator.auth.credentials import Principal, Scope
from tallystick_aggregator.listing import Filter, Listing, ListingLimits
from tallystick_aggregator.store.memory import MemoryListings

ORIGIN = "https://news.example"
PATH = "/discovery/resources"


def item(path: str = "/a", **changes: Any) -> Json:
    """A resource of NEWS as the specification lists it."""
    return {"resource": ORIGIN + path, "type": "http", "x402Version": 2, "accepts": [requirements()]} | changes


async def push(edge: HttpEdge, *items: Any, as_: str = "news") -> Any:
    body = json.dumps({"x402Version": 2, "items": items}).encode()
    return await edge.client.put(PATH, content=body, headers=dict(getattr(edge, as_)))


async def listed(edge: HttpEdge, query: str = "") -> list[Json]:
    items: list[Json] = (await edge.client.get(PATH + query)).json()["items"]
    return items


@pytest.fixture
async def bound(edge: HttpEdge) -> HttpEdge:
    """Return an edge where NEWS may list its site."""
    edge.credentials.bind("news", [ORIGIN])
    return edge


async def test_what_a_seller_pushed_is_listed_for_everybody(bound: HttpEdge) -> None:
    response = await push(bound, item(description="A page", mimeType="text/html", serviceName="News", tags=["daily"]))
    assert (response.status_code, response.json()) == (200, {"listed": 1, "dropped": []})
    assert await listed(bound) == [
        {
            "resource": ORIGIN + "/a",
            "type": "http",
            "x402Version": 2,
            "accepts": [requirements()],
            "lastUpdated": NOW_S,
            "description": "A page",
            "mimeType": "text/html",
            "serviceName": "News",
            "tags": ["daily"],
            "extensions": {},
        }
    ]


async def test_a_push_replaces_the_one_before_and_an_empty_one_ends_it(bound: HttpEdge) -> None:
    await push(bound, item("/a"), item("/b"))
    await push(bound, item("/c"))
    assert [one["resource"] for one in await listed(bound)] == [ORIGIN + "/c"]
    assert (await push(bound)).json() == {"listed": 0, "dropped": []}
    assert await listed(bound) == []


async def test_a_sellers_sites_do_not_replace_each_other(bound: HttpEdge) -> None:
    second = "https://second.example"
    bound.credentials.bind("news", [ORIGIN, second])
    for _ in range(2):
        await push(bound, item("/a"), item("/b"))
        await push(bound, item(resource=second + "/a"))
    assert [one["resource"] for one in await listed(bound)] == [ORIGIN + "/a", ORIGIN + "/b", second + "/a"]
    # What sells nothing any more says whose that is.
    body = json.dumps({"items": [], "origins": [ORIGIN + "/"]}).encode()
    await bound.client.put(PATH, content=body, headers=dict(bound.news))
    assert [one["resource"] for one in await listed(bound)] == [second + "/a"]
    await push(bound)
    assert await listed(bound) == []


async def test_all_sites_of_a_seller_share_its_room(tmp_path: Path) -> None:
    async with http_edge(tmp_path, listing_limits=ListingLimits(items_per_seller_max=2)) as edge:
        edge.credentials.bind("news", [ORIGIN, "https://second.example"])
        await push(edge, item("/a"), item("/b"))
        refused = await push(edge, item(resource="https://second.example/a"))
        assert (refused.status_code, refused.json()["field"]) == (400, "items")
        assert len(await listed(edge)) == 2


async def test_nothing_is_listed_without_the_token_or_the_scope(bound: HttpEdge) -> None:
    body = json.dumps({"items": [item()]}).encode()
    assert (await bound.client.put(PATH, content=body)).status_code == 401
    wrong = {"authorization": "Bearer ts_wrong"}
    assert (await bound.client.put(PATH, content=body, headers=wrong)).status_code == 401
    assert await listed(bound) == []


async def test_only_origins_that_are_bound_to_the_token_are_listed(bound: HttpEdge) -> None:
    for foreign in (
        "https://music.example/a",
        "http://news.example/a",
        "https://news.example:8443/a",
        "https://news.example.evil/a",
        "https://news.example@evil.example/a",
        "https://user@news.example/a",
        "https://news.example\\@evil.example/a",
        "/a",
        "",
        7,
    ):
        response = (await push(bound, item(resource=foreign))).json()
        assert response["listed"] == 0, foreign
        assert "items[0].resource" in response["dropped"][0]
        assert ORIGIN in response["dropped"][0]
    same = item(resource="https://NEWS.example:443/a")
    assert (await push(bound, same)).json()["listed"] == 1
    other = (await push(bound, item(), as_="music")).json()
    assert (other["listed"], "no origin is bound" in other["dropped"][0]) == (0, True)


async def test_an_offer_to_another_receiver_is_not_listed(bound: HttpEdge) -> None:
    response = (
        await push(bound, item(accepts=[requirements(), requirements(payTo=checksum(MUSIC))]), item("/b"))
    ).json()
    assert response["listed"] == 1
    assert response["dropped"][0].startswith("items[0].accepts[1].payTo: ")
    assert [one["resource"] for one in await listed(bound)] == [ORIGIN + "/b"]


async def test_an_origin_that_is_bound_no_longer_is_listed_no_longer(bound: HttpEdge) -> None:
    await push(bound, item())
    bound.credentials.bind("news", ["https://other.example"])
    assert await listed(bound) == []
    bound.credentials.bind("news", [ORIGIN])
    assert len(await listed(bound)) == 1
    bound.credentials.revoke("news")
    assert await listed(bound) == []


async def test_what_describes_a_service_is_dropped_field_by_field(bound: HttpEdge) -> None:
    odd = item(serviceName="x" * 33, tags=["a", "A", "", "b", "c", "d", "e", "f"], iconUrl="http://127.0.0.1/i.png")
    response = (await push(bound, odd)).json()
    assert response["listed"] == 1
    assert [note.partition(":")[0] for note in response["dropped"]] == [
        "items[0].resource.serviceName",
        "items[0].resource.tags",
        "items[0].resource.iconUrl",
    ]
    (one,) = await listed(bound)
    assert one["tags"] == ["a", "b", "c", "d", "e"]
    assert not {"serviceName", "iconUrl"} & set(one)


async def test_the_bazaar_extension_is_checked_and_others_are_dropped(bound: HttpEdge) -> None:
    info = {"input": {"type": "http", "method": "GET", "queryParams": {"city": "Oslo"}}, "output": {"type": "json"}}
    good = {"bazaar": {"info": info, "schema": {"$ref": "https://evil.example/"}, "routeTemplate": "/u/:id"}}
    wrong = {"bazaar": {"info": {"input": {"type": "http", "method": "TRACE"}}}, "other": {}}
    steps_out = {"bazaar": {"info": info, "routeTemplate": "/u/%2e%2e/admin"}}
    response = (
        await push(bound, item("/a", extensions=good), item("/b", extensions=wrong), item("/c", extensions=steps_out))
    ).json()
    assert response["listed"] == 3
    assert [note.split(":")[0] for note in response["dropped"]] == [
        "items[1].extensions.'other'",
        "items[1].extensions.bazaar",
        "items[2].extensions.bazaar.routeTemplate",
    ]
    assert [one["extensions"] for one in await listed(bound)] == [
        {"bazaar": {"info": info, "routeTemplate": "/u/:id"}},
        {},
        {"bazaar": {"info": info}},
    ]


async def test_an_item_of_a_manifest_is_listed_as_the_specification_has_it(bound: HttpEdge) -> None:
    told = {
        "resource": {"url": ORIGIN + "/articles/*", "description": "An article", "mimeType": "text/html"},
        "type": "http",
        "accepts": [requirements()],
        "input": {"method": "GET", "routeTemplate": "/articles/*"},
    }
    assert (await push(bound, told)).json() == {"listed": 1, "dropped": []}
    (one,) = await listed(bound)
    assert (one["resource"], one["description"]) == (ORIGIN + "/articles/*", "An article")
    assert one["extensions"]["bazaar"] == {
        "info": {"input": {"type": "http", "method": "GET"}},
        "routeTemplate": "/articles/:part1",
    }


async def test_clients_find_what_they_ask_for_page_by_page(bound: HttpEdge) -> None:
    bound.credentials.bind("music", ["https://music.example"])
    theirs = requirements(payTo=checksum(MUSIC), scheme="upto")
    await push(
        bound, item("/a"), item("/b", extensions={"bazaar": {"info": {"input": {"type": "http", "method": "GET"}}}})
    )
    await push(bound, item(resource="https://music.example/m", accepts=[theirs]), as_="music")
    for query, names in (
        ("", "abm"),
        ("?type=http", "abm"),
        ("?type=mcp", ""),
        (f"?payTo={checksum(NEWS)}", "ab"),
        (f"?payTo={checksum(NEWS).lower()}", "ab"),
        ("?scheme=upto", "m"),
        (f"?payTo={checksum(NEWS)}&scheme=upto", ""),
        (f"?network={NETWORK}", "abm"),
        ("?network=eip155:1", ""),
        ("?extensions=bazaar", "b"),
        ("?limit=1&offset=1", "b"),
        ("?offset=9", ""),
    ):
        found = await listed(bound, query)
        assert [one["resource"][-1] for one in found] == list(names), query
    told = (await bound.client.get(PATH + "?limit=1&offset=1")).json()["pagination"]
    assert told == {"limit": 1, "offset": 1, "total": 3}
    wrong = await bound.client.get(PATH + "?payTo=me")
    assert (wrong.status_code, wrong.json()["field"]) == (400, "payTo")


async def test_what_strangers_ask_is_looked_for_once_and_nonsense_never() -> None:
    listing = Listing(MemoryListings(MemoryDisk()), lambda _: frozenset({ORIGIN}), clock=lambda: NOW_S)
    principal = Principal("news", frozenset({NEWS}), frozenset({Scope.CHARGE}))
    manifest = json.dumps({"items": [item(f"/{number}") for number in range(9)]}).encode()
    await listing.publish(principal, manifest)
    for odd in (
        Filter(kind="odd"),
        Filter(scheme="odd"),
        Filter(network="eip155:9"),
        Filter(extension="odd"),
        Filter(pay_to=MUSIC),
    ):
        assert listing.page(odd, 9, 0).total == 0
    assert listing._found == {}
    asked = Filter("http", scheme="exact")
    assert [listing.page(asked, 3, offset).total for offset in (0, 3, 6)] == [9, 9, 9]
    assert list(listing._found) == [asked]
    await listing.publish(principal, b'{"items": []}')
    assert listing.page(asked, 3, 0).total == 0


async def test_the_official_client_reads_the_list(bound: HttpEdge) -> None:
    await push(bound, item("/a", description="A page"), item("/b"))

    def ask() -> DiscoveryResourcesResponse:
        params = ListDiscoveryResourcesParams(type="http", pay_to=checksum(NEWS), network=NETWORK, limit=1, offset=0)
        with HTTPFacilitatorClientSync(FacilitatorConfig(url=bound.server.url)) as client:
            return with_bazaar(client).extensions.bazaar.list_resources(params)

    told = await asyncio.to_thread(ask)
    assert (told.pagination.total, len(told.items)) == (2, 1)
    assert (told.items[0].resource, told.items[0].description) == (ORIGIN + "/a", "A page")
    assert told.items[0].accepts is not None


async def test_a_push_is_bounded_in_items_bytes_and_depth(tmp_path: Path) -> None:
    limits = ListingLimits(items_per_seller_max=2, item_bytes_max=1_024, bytes_max=1_200)
    async with http_edge(tmp_path, listing_limits=limits) as edge:
        edge.credentials.bind("news", [ORIGIN])
        deep: Any = []
        for _ in range(200):
            deep = [deep]
        for odd in (item(description="x" * 1_024), item(metadata=deep)):
            response = (await push(edge, odd, item("/b"))).json()
            assert (response["listed"], len(response["dropped"])) == (1, 1)
        many = (await push(edge, item("/a"), item("/b"), item("/c"))).json()
        assert (many["listed"], many["dropped"]) == (2, ["items: got 3, allowed 2: the rest is not listed"])
        # The list is everybody's: what does not fit changes nothing.
        full = await push(edge, item("/a", description="x" * 300), item("/b", description="x" * 300))
        assert (full.status_code, full.json()["field"]) == (400, "items")
        assert [one["resource"][-1] for one in await listed(edge)] == ["a", "b"]


async def test_a_seller_that_is_revoked_leaves_its_room_to_the_others(tmp_path: Path) -> None:
    async with http_edge(tmp_path, listing_limits=ListingLimits(bytes_max=1_200)) as edge:
        edge.credentials.bind("news", [ORIGIN])
        edge.credentials.bind("music", ["https://music.example"])
        theirs = item(resource="https://music.example/m", accepts=[requirements(payTo=checksum(MUSIC))])
        assert (await push(edge, theirs | {"description": "x" * 500}, as_="music")).status_code == 200
        big = item(description="x" * 500)
        assert (await push(edge, big)).status_code == 400
        edge.credentials.revoke("music")
        assert (await push(edge, big)).status_code == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"items": {}}', b"\xff", b'{"items": [' + b"[" * 9_000])
async def test_what_is_no_manifest_is_400_and_changes_nothing(bound: HttpEdge, body: bytes) -> None:
    await push(bound, item())
    response = await bound.client.put(PATH, content=body, headers=dict(bound.news))
    assert (response.status_code, response.json()["field"]) == (400, "manifest")
    assert len(await listed(bound)) == 1


@pytest.mark.parametrize("odd", [None, [], 7, "x", {}, {"resource": {}}, {"resource": {"url": None}}])
async def test_what_is_no_item_is_dropped_alone(bound: HttpEdge, odd: Any) -> None:
    assert (await push(bound, odd, item())).json()["listed"] == 1


async def test_a_body_that_is_too_long_is_413(bound: HttpEdge) -> None:
    assert (await push(bound, *[item(f"/{number}") for number in range(500)])).status_code == 413


async def test_what_was_published_survives_a_restart_and_the_same_again_writes_nothing() -> None:
    writes: list[Operation] = []

    def plan(operation: Operation) -> Fault:
        writes.append(operation)
        return Fault.NONE

    disk = MemoryDisk(plan=plan)
    times = iter(range(100, 200))

    def open_listing() -> Listing:
        return Listing(MemoryListings(disk), lambda _: frozenset({ORIGIN}), clock=lambda: next(times))

    principal = Principal("news", frozenset({NEWS}), frozenset({Scope.CHARGE}))
    listing = open_listing()
    one, two = json.dumps({"items": [item("/a")]}).encode(), json.dumps({"items": [item("/a"), item("/b")]}).encode()
    await listing.publish(principal, one)
    await listing.publish(principal, one)
    assert len(writes) == 1
    await listing.publish(principal, two)
    again = open_listing()
    await again.load()
    items = again.page(Filter(), 9, 0).items
    assert [(told["resource"][-1], told["lastUpdated"]) for told in items] == [("a", 100), ("b", 102)]


async def test_a_payment_lists_nothing_and_its_seller_is_told_so(bound: HttpEdge) -> None:
    request = request_of()
    plain = await bound.post("/verify", request)
    assert "extension-responses" not in plain.headers
    request["paymentPayload"]["extensions"] = {"bazaar": {"info": {"input": {"type": "http", "method": "GET"}}}}
    for path in ("/verify", "/settle"):
        response = await bound.post(path, request)
        told = json.loads(b64decode(response.headers["extension-responses"]))
        assert told["bazaar"]["status"] == "rejected"
        assert "PUT /discovery/resources" in told["bazaar"]["rejectedReason"]
        assert response.json().get("isValid", response.json().get("success")) is True
    assert await listed(bound) == []
