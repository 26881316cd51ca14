"""Who may ask: sellers by their tokens, and strangers only for schemes that are open."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from doubles import MUSIC
from http_twin import ALICE, HttpEdge, bearer, http_edge, request_of, requirements
from marketplace import transfer_of

from tallystick.hexadecimal import checksum
from tallystick_aggregator.auth.credentials import Scope


@pytest.mark.parametrize("path", ["/verify", "/settle"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer ts_nobody"},
        {"authorization": "Basic dTpw"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer " + "x" * 300},
    ],
)
async def test_nobody_known_is_401(edge: HttpEdge, path: str, headers: Mapping[str, str]) -> None:
    response = await edge.post(path, request_of(), headers)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.json()["error"] == "unauthorized"
    assert (await edge.client.get("/supported", headers=headers)).status_code == 401
    assert edge.market.chain.sent == []


async def test_two_tokens_are_none(edge: HttpEdge) -> None:
    both = [("authorization", value["authorization"]) for value in (edge.news, edge.music)]
    assert (await edge.client.post("/verify", content=b"{}", headers=both)).status_code == 401


async def test_the_scheme_of_authorization_may_be_written_in_any_case(edge: HttpEdge) -> None:
    lower = {"authorization": edge.news["authorization"].replace("Bearer", "bearer")}
    assert (await edge.post("/verify", request_of(), lower)).status_code == 200


@pytest.mark.parametrize("path", ["/verify", "/settle"])
async def test_a_token_of_another_receiver_or_without_the_scope_is_403(edge: HttpEdge, path: str) -> None:
    assert (await edge.post(path, request_of(), edge.music)).status_code == 403
    reader = bearer(edge.credentials.add("reader", [MUSIC], [Scope.READ]))
    assert (await edge.post(path, request_of(), reader)).status_code == 403
    assert (await edge.client.get("/supported", headers=reader)).status_code == 200
    assert edge.market.chain.sent == []


@pytest.mark.parametrize("path", ["/verify", "/settle"])
async def test_strangers_may_use_an_open_scheme_for_any_receiver_and_no_other(tmp_path: Path, path: str) -> None:
    async with http_edge(tmp_path, open_schemes=["exact"]) as edge:
        edge.market.chain.balances[ALICE.signer.address] = 1_000
        to_music = request_of(transfer_of(ALICE, to=MUSIC), payTo=checksum(MUSIC))
        response = await edge.post(path, to_music, {})
        assert response.status_code == 200, response.text
        assert response.json().get("isValid", response.json().get("success")) is True
        for scheme in ("deferred", "barter"):
            body = to_music | {"paymentRequirements": requirements(scheme=scheme)}
            assert (await edge.post(path, body, {})).status_code == 401
        assert (await edge.post(path, request_of(), {"authorization": "Bearer ts_nobody"})).status_code == 401
        kinds = (await edge.client.get("/supported")).json()["kinds"]
        assert [kind["scheme"] for kind in kinds] == ["exact"]


async def test_a_token_is_never_echoed(edge: HttpEdge, caplog: pytest.LogCaptureFixture) -> None:
    secret = "ts_" + "s3cret" * 5
    response = await edge.post("/verify", request_of(), bearer(secret))
    assert secret not in response.text + caplog.text
