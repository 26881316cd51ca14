"""/verify and /settle: x402's answers, and every refusal with the code that SDKs know."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doubles import MUSIC, NOW_S, Payer
from http_twin import ALICE, HttpEdge, Json, http_edge, request_of, requirements
from marketplace import PRICE, transfer_of

from tallystick.hexadecimal import checksum, to_hex
from tallystick.reasons import Reason
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.api.http.limits import HttpLimits
from tallystick_aggregator.api.http.reason_codes import standard_code
from tallystick_aggregator.schemes.exact.reason_codes import REASON_CODES
from tallystick_aggregator.store.port import StoreUncertainError, TransactionStatus
from waiting import until

PAYER = checksum(ALICE.signer.address)


async def verify(edge: HttpEdge, body: Json) -> Json:
    response = await edge.post("/verify", body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


async def settle(edge: HttpEdge, body: Json) -> Json:
    response = await edge.post("/settle", body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_payment_is_verified_and_settled_as_the_specification_says(edge: HttpEdge) -> None:
    assert await verify(edge, request_of()) == {"isValid": True, "payer": PAYER}
    answer = await settle(edge, request_of())
    (sent,) = edge.market.chain.sent
    assert answer == {
        "success": True,
        "payer": PAYER,
        "transaction": to_hex(sent.attempts[-1].transaction_hash),
        "network": "eip155:31337",
        "amount": str(PRICE),
    }


async def test_settling_again_moves_nothing_and_is_answered_alike(edge: HttpEdge) -> None:
    first = await settle(edge, request_of())
    assert await settle(edge, request_of()) == first
    assert len(edge.market.chain.sent) == 1


USED = "invalid_exact_evm_nonce_already_used"


async def test_a_payment_is_verified_once_so_that_no_seller_serves_two_pages_for_it(edge: HttpEdge) -> None:
    answers = await asyncio.gather(*(verify(edge, request_of()) for _ in range(5)))
    assert [answer["isValid"] for answer in answers].count(True) == 1
    refused = next(answer for answer in answers if not answer["isValid"])
    assert (refused["invalidReason"], refused["payer"]) == (USED, PAYER)
    assert refused["extra"] == {"reason": "payment_used", "retry": False}


async def test_a_payment_that_was_settled_is_not_valid_any_more(edge: HttpEdge) -> None:
    edge.market.chain.held = True
    assert (await settle(edge, request_of(maxTimeoutSeconds=0)))["errorReason"] == "settlement_pending"
    assert (await verify(edge, request_of()))["invalidReason"] == USED
    edge.market.chain.held = False
    assert (await settle(edge, request_of()))["success"] is True
    assert (await verify(edge, request_of()))["invalidReason"] == USED


async def test_a_payment_that_was_refused_may_be_verified_again(edge: HttpEdge) -> None:
    edge.market.chain.down = True
    assert (await verify(edge, request_of()))["isValid"] is False
    edge.market.chain.down = False
    assert (await verify(edge, request_of()))["isValid"] is True


async def test_a_used_payment_of_another_seller_is_refused_with_its_own_code(edge: HttpEdge) -> None:
    await settle(edge, request_of())
    to_music = transfer_of(ALICE, to=MUSIC)
    answer = await edge.post("/settle", request_of(to_music, payTo=checksum(MUSIC)), edge.music)
    assert answer.json()["errorReason"] == "invalid_exact_evm_nonce_already_used"


BOB = Payer("bob")
STRANGE = "0x" + "99" * 20


def forged() -> ExactAuthorization:
    return replace(transfer_of(ALICE), signature=transfer_of(ALICE, 1).signature)


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        (request_of(forged()), "invalid_exact_evm_payload_signature", "exact_signature"),
        (request_of(transfer_of(BOB)), "insufficient_funds", "insufficient_balance"),
        (
            request_of(transfer_of(ALICE, valid_before=NOW_S - 1)),
            "invalid_exact_evm_payload_authorization_valid_before",
            "exact_expired",
        ),
        (
            request_of(transfer_of(ALICE, valid_after=NOW_S + 99)),
            "invalid_exact_evm_payload_authorization_valid_after",
            "exact_not_yet_valid",
        ),
        (
            request_of(transfer_of(ALICE, value=PRICE - 1)),
            "invalid_exact_evm_payload_authorization_value_mismatch",
            "amount_mismatch",
        ),
        (
            request_of(transfer_of(ALICE, to=MUSIC)),
            "invalid_exact_evm_payload_recipient_mismatch",
            "receiver_mismatch",
        ),
        (request_of(network="eip155:1"), "invalid_network", "network_unsupported"),
        (request_of(asset=STRANGE), "invalid_payment_requirements", "token_unsupported"),
        (request_of(scheme="barter"), "unsupported_scheme", "scheme_unsupported"),
        (request_of(scheme=""), "unsupported_scheme", "scheme_unsupported"),
    ],
)
async def test_a_refusal_is_an_answer_with_the_standard_code_and_our_own_words(
    edge: HttpEdge, body: Json, code: str, reason: str
) -> None:
    verified, settled = await verify(edge, body), await settle(edge, body)
    assert (verified["isValid"], settled["success"]) == (False, False)
    assert (verified["invalidReason"], settled["errorReason"]) == (code, code)
    assert verified["invalidMessage"] == settled["errorMessage"] != ""
    assert verified["extra"]["reason"] == settled["extra"]["reason"] == reason
    assert (settled["transaction"], settled["network"]) == ("", body["paymentRequirements"]["network"])
    assert edge.market.chain.sent == []


@pytest.mark.parametrize(
    ("path", "code", "field"),
    [
        (("paymentPayload", "payload", "signature"), "invalid_payload", "payload.signature"),
        (("paymentPayload", "payload", "authorization", "nonce"), "invalid_payload", "payload.authorization.nonce"),
        (("paymentRequirements", "amount"), "invalid_payment_requirements", "paymentRequirements.amount"),
        (("paymentRequirements", "payTo"), "invalid_payment_requirements", "paymentRequirements.payTo"),
        (("paymentRequirements", "network"), "invalid_payment_requirements", "paymentRequirements.network"),
    ],
)
async def test_what_no_scheme_can_read_is_refused_and_the_field_is_named(
    edge: HttpEdge, path: tuple[str, ...], code: str, field: str
) -> None:
    body = request_of()
    body["paymentRequirements"] = dict(body["paymentRequirements"])
    place: Any = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "1.5"
    answer = await verify(edge, body)
    assert answer["invalidReason"] == code
    assert answer["invalidMessage"].startswith(f"{field}: got ")
    assert (await settle(edge, body))["errorReason"] == code


async def test_a_payment_of_another_scheme_than_is_asked_for_is_refused(edge: HttpEdge) -> None:
    body = request_of()
    body["paymentRequirements"] = requirements(scheme="deferred")
    answer = await verify(edge, body)
    assert answer["invalidReason"] == "invalid_payload"


async def test_a_chain_that_cannot_be_reached_is_no_fault_of_the_payment(edge: HttpEdge) -> None:
    edge.market.chain.down = True
    verified, settled = await verify(edge, request_of()), await settle(edge, request_of())
    assert (verified["invalidReason"], settled["errorReason"]) == ("unexpected_verify_error", "unexpected_settle_error")
    assert verified["extra"] == {"reason": "chain_unavailable", "retry": True}


async def test_a_transaction_on_its_way_is_settlement_pending_with_its_hash_and_then_known(edge: HttpEdge) -> None:
    edge.market.chain.held = True
    pending = await settle(edge, request_of(maxTimeoutSeconds=0))
    (sent,) = edge.market.chain.sent
    assert (pending["success"], pending["errorReason"]) == (False, "settlement_pending")
    assert pending["transaction"] == to_hex(sent.attempts[-1].transaction_hash)
    edge.market.chain.held = False
    final = await settle(edge, request_of())
    assert (final["success"], len(edge.market.chain.sent)) == (True, 1)


async def test_settle_stays_open_until_the_transaction_is_in_a_block(edge: HttpEdge) -> None:
    """The scheme waits for 0.2 s each time; the seller waits longer."""
    edge.market.chain.held = True
    settling = asyncio.create_task(settle(edge, request_of(maxTimeoutSeconds=60)))
    await asyncio.wait([settling], timeout=0.5)
    assert not settling.done()
    edge.market.chain.held = False
    assert (await settling)["success"] is True


async def test_a_settlement_that_outlasts_the_server_is_503_and_no_failure_in_the_log(
    edge: HttpEdge, caplog: pytest.LogCaptureFixture
) -> None:
    edge.market.chain.held = True
    settling = asyncio.create_task(edge.post("/settle", request_of(maxTimeoutSeconds=60)))
    await until(lambda: bool(edge.market.chain.sent))
    await edge.server.stop()
    response = await settling
    assert (response.status_code, response.json()["error"]) == (503, "stopping")
    assert (response.json()["success"], response.json()["errorReason"]) == (False, "unexpected_settle_error")
    assert "Exception in ASGI application" not in caplog.text


@pytest.mark.parametrize("settle_s_max", [0.1, 1.5])
async def test_settle_stays_open_no_longer_than_the_operator_allows_whatever_the_terms_ask_for(
    tmp_path: Path, settle_s_max: float
) -> None:
    async with http_edge(tmp_path, limits=HttpLimits(settle_s_max=settle_s_max)) as edge:
        edge.market.chain.balances[ALICE.signer.address] = PRICE
        edge.market.chain.held = True
        began = time.monotonic()
        pending = await settle(edge, request_of(maxTimeoutSeconds=600))
        assert settle_s_max <= time.monotonic() - began < 9
        assert (pending["errorReason"], len(pending["transaction"])) == ("settlement_pending", 66)
        edge.market.chain.held = False
        assert (await settle(edge, request_of(maxTimeoutSeconds=600)))["success"] is True
        assert len(edge.market.chain.sent) == 1


async def test_a_transfer_that_reverted_is_told_with_its_transaction(edge: HttpEdge) -> None:
    edge.market.chain.fate = TransactionStatus.REVERTED
    answer = await settle(edge, request_of())
    assert answer["errorReason"] == "invalid_transaction_state"
    assert answer["transaction"] == to_hex(edge.market.chain.sent[0].attempts[-1].transaction_hash)


async def test_an_outcome_that_the_store_cannot_tell_is_503_and_not_a_refusal(
    edge: HttpEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def uncertain(*_: object) -> None:
        raise StoreUncertainError("the disk is gone")

    monkeypatch.setattr(edge.market.exact, "settle", uncertain)
    response = await edge.post("/settle", request_of())
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "send the same request again" in response.json()["message"]


async def test_the_unexpected_tells_a_number_and_nothing_of_the_inside(
    edge: HttpEdge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(edge.market.exact, "verify", broken)
    response = await edge.post("/verify", request_of())
    told = response.json()
    assert response.status_code == 500
    assert "secret" not in response.text
    assert caplog.records[-1].incident in told["message"]  # type: ignore[attr-defined]
    assert (told["isValid"], told["invalidReason"]) == (False, "unexpected_verify_error")


def test_every_reason_has_a_code_and_those_of_exact_are_the_sdks() -> None:
    constants = pytest.importorskip("x402.mechanisms.evm.constants")
    known = {value for name, value in vars(constants).items() if name.startswith("ERR_")}
    assert set(REASON_CODES.values()) <= known
    for reason in Reason:
        for verb in ("verify", "settle"):
            code = standard_code(reason, verb)
            assert code
            assert "{" not in code
