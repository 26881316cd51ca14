"""What is no request is 400 and names the field; version 1 is told what to use; size, time and number are bounded."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from http_twin import ALICE, HttpEdge, http_edge, raw, request_of

from tallystick_aggregator.api.http.limits import HttpLimits
from waiting import until


def head_of(edge: HttpEdge, path: str, length: int) -> bytes:
    """The beginning of a request of NEWS."""
    token = f"authorization: {edge.news['authorization']}"
    lines = f"POST {path} HTTP/1.1", "host: x", token, f"content-length: {length}", "connection: close", ""
    return "".join(f"{line}\r\n" for line in lines).encode()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"\xff\xfe", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b'"text"', "body"),
        ({}, "body $.paymentPayload"),
        ({"x402Version": "2"}, "body $.x402Version"),
        ({"x402Version": 3}, "body $.x402Version"),
        (request_of() | {"paymentPayload": 7}, "body $.paymentPayload"),
        (request_of() | {"paymentRequirements": None}, "body $.paymentRequirements"),
        (request_of(maxTimeoutSeconds=-1), "body $.paymentPayload.accepted.maxTimeoutSeconds"),
        (request_of(amount=100), "body $.paymentPayload.accepted.amount"),
    ],
)
async def test_what_is_no_request_is_400_and_names_the_field(edge: HttpEdge, body: Any, field: str) -> None:
    for path in ("/verify", "/settle"):
        response = await edge.post(path, body)
        told = response.json()
        assert (response.status_code, told["error"], told["field"]) == (400, "malformed", field)
        assert told["message"].startswith(f"{field}: got ")
        assert told.get("invalidReason", told.get("errorReason")) == "invalid_payload"


@pytest.mark.parametrize("path", ["/verify", "/settle"])
async def test_version_1_is_answered_with_what_to_use_instead(edge: HttpEdge, path: str) -> None:
    old = {
        "x402Version": 1,
        "paymentPayload": {"x402Version": 1, "scheme": "exact", "network": "base", "payload": {}},
        "paymentRequirements": {"scheme": "exact", "network": "base", "maxAmountRequired": "1"},
    }
    response = await edge.post(path, old)
    told = response.json()
    assert response.status_code == 200
    assert told.get("invalidReason", told.get("errorReason")) == "invalid_x402_version"
    assert "version 2" in told.get("invalidMessage", told.get("errorMessage"))
    assert path == "/verify" or told["network"] == "base"


async def test_keys_that_the_specification_may_add_are_taken(edge: HttpEdge) -> None:
    body = request_of() | {"sdk": "of tomorrow"}
    body["paymentPayload"]["extensions"] = {"bazaar": {"info": {"a": [1, 2]}}}
    assert (await edge.post("/verify", body)).json()["isValid"] is True


async def test_a_body_that_nests_deep_is_refused(edge: HttpEdge) -> None:
    body = request_of()
    deep: Any = {}
    for _ in range(600):
        deep = {"a": deep}
    body["paymentPayload"]["extensions"] = deep
    response = await edge.post("/verify", body)
    assert (response.status_code, response.json()["field"]) == (400, "body")


async def test_a_body_that_is_too_long_is_413_whether_it_tells_its_length_or_not(tmp_path: Path) -> None:
    async def chunks() -> Any:
        for _ in range(4):
            yield b" " * 512

    async with http_edge(tmp_path, limits=HttpLimits(body_bytes_max=1_024)) as edge:
        for content in (b" " * 1_025, chunks()):
            response = await edge.client.post("/verify", content=content, headers=dict(edge.news))
            assert (response.status_code, response.json()["error"]) == (413, "too_large")


async def test_a_body_that_does_not_arrive_is_408(tmp_path: Path) -> None:
    async with http_edge(tmp_path, limits=HttpLimits(body_s_max=0.1)) as edge:
        head = (
            f"POST /verify HTTP/1.1\r\nhost: x\r\nauthorization: {edge.news['authorization']}\r\ncontent-length: 9\r\n"
        )
        answer = await raw(edge.server.port, f"{head}connection: close\r\n\r\n{{".encode(), end=False)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert edge.app.seats.all == 0


async def test_a_head_that_does_not_arrive_or_does_not_end_closes_the_connection(tmp_path: Path) -> None:
    async with http_edge(tmp_path, limits=HttpLimits(head_s_max=0.1, head_bytes_max=2_048)) as edge:
        for begun in (b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /he"):
            assert b"HTTP/1.1 4" not in await raw(edge.server.port, begun, end=False)
        long = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 4_096
        assert (await raw(edge.server.port, long, end=False)).startswith(b"HTTP/1.1 431 ")


async def test_a_long_body_does_not_count_as_a_long_head(tmp_path: Path) -> None:
    async with http_edge(tmp_path, limits=HttpLimits(head_bytes_max=1_024)) as edge:
        edge.market.chain.balances[ALICE.signer.address] = 1_000
        for number in range(3):
            body = request_of(number=number)
            body["paymentPayload"]["resource"]["description"] = "x" * 8_000
            assert (await edge.post("/verify", body)).json()["isValid"] is True


async def settling_slowly(edge: HttpEdge, number: int, headers: Any = None) -> "asyncio.Task[Any]":
    task = asyncio.create_task(edge.post("/settle", request_of(number=number, maxTimeoutSeconds=60), headers))
    before = edge.app.seats.all
    await until(lambda: edge.app.seats.all > before)
    return task


async def test_one_sellers_requests_are_bounded_and_others_go_on(tmp_path: Path) -> None:
    async with http_edge(tmp_path, limits=HttpLimits(requests_per_seller_max=1)) as edge:
        edge.market.chain.balances[ALICE.signer.address] = 1_000
        edge.market.chain.held = True
        task = await settling_slowly(edge, 0)
        refused = await edge.post("/verify", request_of(number=1))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (await edge.post("/verify", request_of(number=1), edge.music)).status_code == 403
        edge.market.chain.held = False
        assert (await task).json()["success"] is True
        assert (await edge.post("/verify", request_of(number=1))).status_code == 200
        assert edge.app.seats.all == 0


async def test_all_requests_together_are_bounded(tmp_path: Path) -> None:
    async with http_edge(tmp_path, limits=HttpLimits(requests_max=1, requests_per_seller_max=1)) as edge:
        edge.market.chain.balances[ALICE.signer.address] = 1_000
        edge.market.chain.held = True
        task = await settling_slowly(edge, 0)
        refused = await edge.post("/verify", request_of(number=1), edge.music)
        assert (refused.status_code, refused.json()["error"]) == (503, "overloaded")
        edge.market.chain.held = False
        assert (await task).status_code == 200


async def test_a_client_that_leaves_cancels_no_settlement(edge: HttpEdge) -> None:
    edge.market.chain.held = True
    body = json.dumps(request_of(maxTimeoutSeconds=60)).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", edge.server.port)
    writer.write(head_of(edge, "/settle", len(body)) + body)
    await until(lambda: bool(edge.market.chain.sent))
    writer.transport.abort()
    edge.market.chain.held = False
    settled = (await edge.post("/settle", request_of())).json()
    assert (settled["success"], len(edge.market.chain.sent)) == (True, 1)


async def test_a_client_that_leaves_within_its_body_is_forgotten(edge: HttpEdge) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", edge.server.port)
    writer.write(head_of(edge, "/verify", 9) + b"{")
    await until(lambda: edge.app.seats.all == 1)
    writer.transport.abort()
    await until(lambda: edge.app.seats.all == 0)


async def test_a_server_that_is_told_to_stop_answers_what_it_took(tmp_path: Path) -> None:
    async with http_edge(tmp_path) as edge:
        edge.market.chain.balances[ALICE.signer.address] = 1_000
        edge.market.chain.held = True
        task = await settling_slowly(edge, 0)
        stopping = asyncio.create_task(edge.server.stop())
        await asyncio.sleep(0)
        edge.market.chain.held = False
        assert (await task).json()["success"] is True
        await stopping
        with pytest.raises(OSError, match=r"."):
            await raw(edge.server.port, b"")
