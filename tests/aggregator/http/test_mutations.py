"""Whatever is posted, the answer is one of those that there are: never 500, never an exception."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from batch_market import PRICE as BATCH_PRICE
from batch_market import TERMS, BatchPayer, batch_market, message_of, requirements
from doubles import MUSIC
from http_mutations import Mutator
from http_twin import ALICE, HttpEdge, Json, http_edge, request_of
from marketplace import transfer_of

from tallystick.hexadecimal import checksum
from tallystick.x402 import encode_json

SEED = 7461
OLD = {"x402Version": 1, "paymentPayload": {"x402Version": 1}, "paymentRequirements": {"network": "base"}}
ANSWERS = {200, 307, 400, 401, 403, 404, 405, 408, 413}


async def ask(edge: HttpEdge, path: str, method: str, headers: Any, body: bytes) -> tuple[int, bytes]:
    """Call the application as a server does, without a connection."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await edge.app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def mutated(folder: Path, count: int) -> None:
    to_music = request_of(transfer_of(ALICE, 1, to=MUSIC), payTo=checksum(MUSIC))
    async with http_edge(folder) as edge:
        edge.market.chain.balances[ALICE.signer.address] = 10**9
        seen = await answered(edge, [request_of(maxTimeoutSeconds=0), to_music, OLD], count)
        assert {200, 400, 401, 403} <= seen


async def answered(edge: HttpEdge, bodies: list[Json], count: int) -> set[int]:
    """Post so many mutations of these; the statuses that there were."""
    token = edge.news["authorization"].encode()
    seen = set()
    for path, method, headers, body in islice(Mutator(SEED, bodies, token), count):
        status, answer = await ask(edge, path, method, headers, body)
        assert status in ANSWERS, (path, method, headers, body, answer)
        seen.add(status)
        if path in {"/verify", "/settle"} and method == "POST":
            told = msgspec.json.decode(answer)
            outcome = told["isValid" if path == "/verify" else "success"]
            assert outcome is False or status == 200
            assert outcome or told["invalidReason" if path == "/verify" else "errorReason"]
    assert edge.app.seats.all == 0
    return seen


async def test_mutated_requests_are_answered_and_never_by_500(tmp_path: Path) -> None:
    await mutated(tmp_path, 20_000)


@pytest.mark.full
@pytest.mark.timeout(3_600)
async def test_a_million_mutated_requests_are_answered_and_never_by_500(tmp_path: Path) -> None:
    await mutated(tmp_path, 1_000_000)


async def test_mutated_vouchers_deposits_and_refunds_are_answered_and_never_by_500(tmp_path: Path) -> None:
    alice, bob = BatchPayer("alice"), BatchPayer("bob")
    asks = json.loads(encode_json(requirements(TERMS))) | {"maxTimeoutSeconds": 0}
    payloads = [
        alice.pay(BATCH_PRICE),
        alice.pay(BATCH_PRICE, pending_id="00" * 16),
        alice.pay(BATCH_PRICE, pending_id="00" * 16, cancel=True),
        alice.refund(0),
        bob.deposit(5_000),
    ]
    bodies = [
        {
            "x402Version": 2,
            "paymentPayload": json.loads(encode_json(message_of(payload, TERMS))),
            "paymentRequirements": asks,
        }
        for payload in payloads
    ]
    async with batch_market() as market, http_edge(tmp_path, schemes=[market.scheme]) as edge:
        await market.chain.fund(alice.config, 10_000)
        assert {200, 400, 401} <= await answered(edge, bodies, 20_000)
