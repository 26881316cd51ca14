"""The pages that only tell: what is supported, what can be bought, health, and what is not there."""

from pathlib import Path
from typing import Any

import pytest
from doubles import ESCROW, NETWORK, OPERATOR
from http_twin import HttpEdge, http_edge

from tallystick.hexadecimal import checksum
from tallystick_aggregator.auth.credentials import Principal
from tallystick_aggregator.listing import Filter, Published, ResourcePage


async def test_supported_has_the_specifications_shape(edge: HttpEdge) -> None:
    told = (await edge.client.get("/supported", headers=dict(edge.news))).json()
    deferred, exact = told["kinds"]
    assert exact == {"x402Version": 2, "scheme": "exact", "network": NETWORK}
    assert (deferred["x402Version"], deferred["scheme"]) == (2, "deferred")
    assert deferred["extra"] == {
        "escrow": checksum(ESCROW),
        "receiverAuthorizer": checksum(OPERATOR),
        "withdrawDelay": 86_400,
        "name": "Tallystick Escrow",
        "version": "1",
        "voucherManager": "facilitator",
    }
    assert told["signers"] == {"eip155:*": [checksum(edge.market.chain.sender)]}
    assert told["extensions"] == ["payment-identifier"]


async def test_exact_is_not_offered_while_nobody_can_pay_its_gas(edge: HttpEdge) -> None:
    edge.market.chain.gas_money = 0
    told = (await edge.client.get("/supported", headers=dict(edge.news))).json()
    assert [kind["scheme"] for kind in told["kinds"]] == ["deferred"]
    assert told["signers"] == {}


async def test_nothing_is_listed_where_nobody_lists(edge: HttpEdge) -> None:
    told = (await edge.client.get("/discovery/resources?type=http&metadata[provider]=x")).json()
    assert told == {"x402Version": 2, "items": [], "pagination": {"limit": 20, "offset": 0, "total": 0}}


class Two:
    """Two resources."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def page(self, wanted: Filter, limit: int, offset: int) -> ResourcePage:
        self.asked.append((wanted.kind, limit, offset))
        items = [{"resource": f"https://news.example/{name}", "type": "http"} for name in "ab"]
        return ResourcePage(items[offset : offset + limit], 2)

    async def publish(self, principal: Principal, manifest: bytes) -> Published:
        raise AssertionError((principal, manifest))


async def test_what_the_port_lists_is_told_page_by_page(tmp_path: Path) -> None:
    resources = Two()
    async with http_edge(tmp_path, resources=resources) as edge:
        told = (await edge.client.get("/discovery/resources?type=http&limit=1&offset=1")).json()
    assert resources.asked == [("http", 1, 1)]
    assert [item["resource"] for item in told["items"]] == ["https://news.example/b"]
    assert told["pagination"] == {"limit": 1, "offset": 1, "total": 2}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("offset=-1", "offset"),
        ("offset=99999999999999999999", "offset"),
        (f"type={'x' * 65}", "type"),
    ],
)
async def test_a_page_that_cannot_be_is_400(edge: HttpEdge, query: str, field: str) -> None:
    response = await edge.client.get(f"/discovery/resources?{query}")
    assert (response.status_code, response.json()["field"]) == (400, field)


async def test_health_is_told_by_the_status(edge: HttpEdge) -> None:
    response = await edge.client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "serving", "settling": True})
    await edge.app.tell_settling(settling=False)
    assert (await edge.client.get("/healthz")).json()["settling"] is False
    await edge.app.tell_health(serving=False)
    assert (await edge.client.get("/healthz")).status_code == 503


async def test_what_is_not_there_is_told_in_json(edge: HttpEdge) -> None:
    for method, path, status in (
        ("GET", "/verify", 405),
        ("GET", "/settle", 405),
        ("POST", "/supported", 405),
        ("GET", "/nowhere", 404),
        ("POST", "/verify/", 404),
    ):
        response = await edge.client.request(method, path)
        assert response.status_code == status, path
        assert response.json()["error"] in {"not_found", "method_not_allowed"}
        assert (status == 405) == ("allow" in response.headers)


async def test_people_find_their_way(edge: HttpEdge) -> None:
    response = await edge.client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "openapi.json" in response.text
