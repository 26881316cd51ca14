"""`batch-settlement` over HTTP: x402's answers, to the field, and the standard's codes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from batch_market import PRICE, TERMS, BatchMarket, BatchPayer, batch_market, message_of, requirements
from doubles import NETWORK, NOW_S
from http_twin import HttpEdge, Json, http_edge

from tallystick.hexadecimal import checksum, to_hex
from tallystick.x402 import PaymentTerms, encode_json
from tallystick.x402.batch_settlement import BatchSettlementPayload

ALICE, BOB = BatchPayer("alice"), BatchPayer("bob")
CODE = "invalid_batch_settlement_evm_"


class Shop:
    """A server that forwards: its market and its edge."""

    def __init__(self, market: BatchMarket, edge: HttpEdge) -> None:
        self.market = market
        self.edge = edge

    async def post(self, verb: str, payload: BatchSettlementPayload, terms: PaymentTerms = TERMS, **asked: Any) -> Json:
        """What the facilitator answers; `asked` is changed in what the server asks for, not in what was accepted."""
        body = {
            "x402Version": 2,
            "paymentPayload": json.loads(encode_json(message_of(payload, terms))),
            "paymentRequirements": json.loads(encode_json(requirements(terms))) | asked,
        }
        response = await self.edge.post(f"/{verb}", body)
        assert response.status_code == 200, response.text
        answer: Json = response.json()
        return answer


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with batch_market() as market, http_edge(tmp_path, schemes=[market.scheme]) as edge:
        await market.chain.fund(ALICE.config, 10_000)
        yield Shop(market, edge)


def state(charged: int) -> Json:
    return {
        "channelId": to_hex(ALICE.channel_id),
        "balance": "10000",
        "totalClaimed": "0",
        "withdrawRequestedAt": 0,
        "refundNonce": "0",
        "chargedCumulativeAmount": str(charged),
    }


async def test_a_voucher_is_verified_and_settled_as_the_standard_writes_it(shop: Shop) -> None:
    verified = await shop.post("verify", ALICE.pay(PRICE))
    pending = verified["extra"].pop("pendingId")
    assert verified == {"isValid": True, "payer": checksum(ALICE.signer.address), "extra": state(0)}
    settled = await shop.post("settle", ALICE.pay(PRICE, pending_id=pending), amount="70")
    assert settled == {
        "success": True,
        "payer": checksum(ALICE.signer.address),
        "transaction": "",
        "network": NETWORK,
        "amount": "",
        "extra": {"chargedAmount": "70", "chargeCount": 1, "channelState": state(70)},
    }


async def test_a_mismatch_has_the_states_of_a_corrective_402_in_extra(shop: Shop) -> None:
    pending = (await shop.post("verify", ALICE.pay(PRICE)))["extra"]["pendingId"]
    await shop.post("settle", ALICE.pay(PRICE, pending_id=pending))
    for verb, valid, reason in (("verify", "isValid", "invalidReason"), ("settle", "success", "errorReason")):
        refused = await shop.post(verb, ALICE.pay(PRICE))
        assert (refused[valid], refused[reason]) == (False, f"{CODE}cumulative_amount_mismatch")
        assert refused["extra"]["channelState"] == state(PRICE)
        assert refused["extra"]["voucherState"] == {
            "signedMaxClaimable": str(PRICE),
            "signature": to_hex(ALICE.voucher(PRICE).signature),
        }


async def test_a_channel_that_is_busy_is_told_as_one_to_come_back_to(shop: Shop) -> None:
    pending = (await shop.post("verify", ALICE.pay(PRICE)))["extra"]["pendingId"]
    busy = await shop.post("verify", ALICE.pay(PRICE))
    assert (busy["invalidReason"], busy["extra"]["retry"]) == (f"{CODE}channel_busy", True)
    other = await shop.post("settle", ALICE.pay(PRICE, pending_id="00" * 16))
    assert other["errorReason"] == f"{CODE}pending_id_mismatch"
    cancelled = await shop.post("settle", ALICE.pay(PRICE, pending_id=pending, cancel=True), amount="0")
    assert (cancelled["success"], cancelled["amount"], cancelled["extra"]["chargedAmount"]) == (True, "", "0")
    assert (await shop.post("verify", ALICE.pay(PRICE)))["isValid"]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (ALICE.pay(PRICE, pending_id="00" * 16), "unexpected_pending_id"),
        (ALICE.pay(PRICE, cancel=True), "unexpected_cancel"),
        (BatchPayer("bob").pay(PRICE), "channel_not_found"),
        (BatchPayer("alice", withdraw_delay_s=90_000).pay(PRICE), "withdraw_delay_mismatch"),
    ],
)
async def test_what_is_refused_has_the_standards_code(shop: Shop, payload: BatchSettlementPayload, code: str) -> None:
    assert (await shop.post("verify", payload))["invalidReason"] == CODE + code


async def test_a_payload_that_cannot_be_read_names_its_field(shop: Shop) -> None:
    body = {
        "x402Version": 2,
        "paymentPayload": json.loads(encode_json(message_of(ALICE.pay(PRICE)))),
        "paymentRequirements": json.loads(encode_json(requirements())),
    }
    body["paymentPayload"]["payload"]["channelConfig"]["payerAuthorizer"] = checksum(bytes(20))
    refused = (await shop.edge.post("/verify", body)).json()
    assert refused["invalidReason"] == "invalid_payload"
    assert "payload.channelConfig.payerAuthorizer" in refused["invalidMessage"]


async def test_supported_tells_what_servers_copy_into_their_402s(shop: Shop) -> None:
    answer = (await shop.edge.client.get("/supported", headers=dict(shop.edge.news))).json()
    (kind,) = (one for one in answer["kinds"] if one["scheme"] == TERMS.scheme)
    assert kind["extra"] == {
        "receiverAuthorizer": checksum(ALICE.config.receiver_authorizer),
        "withdrawDelay": 86_400,
        "voucherManager": ["server", "facilitator"],
        "delegatedRefund": True,
    }
    assert checksum(shop.market.chain.sender) in answer["signers"]["eip155:*"]


async def test_a_deposit_is_settled_with_its_transaction_and_its_amount(shop: Shop) -> None:
    shop.market.chain.balances[BOB.signer.address] = 5_000
    verified = await shop.post("verify", BOB.deposit(5_000))
    assert (verified["isValid"], verified["extra"]["balance"]) == (True, "0")
    settled = await shop.post("settle", BOB.deposit(5_000, pending_id=verified["extra"]["pendingId"]), amount="70")
    assert settled["transaction"] == to_hex(shop.market.chain.sent[0].attempts[0].transaction_hash)
    assert (settled["success"], settled["amount"], settled["payer"]) == (True, "5000", checksum(BOB.signer.address))
    assert settled["extra"] == {
        "chargedAmount": "70",
        "chargeCount": 1,
        "channelState": {
            "channelId": to_hex(BOB.channel_id),
            "balance": "5000",
            "totalClaimed": "0",
            "withdrawRequestedAt": 0,
            "refundNonce": "0",
            "chargedCumulativeAmount": "70",
        },
    }


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (BOB.deposit(5_001), CODE + "insufficient_balance"),
        (BOB.deposit(5_000, PRICE + 1), CODE + "cumulative_amount_mismatch"),
        (BOB.deposit(999), "deposit_below_minimum"),
        (BOB.deposit(5_000, window=(0, NOW_S)), CODE + "payload_authorization_valid_before"),
    ],
)
async def test_a_deposit_that_would_not_do_has_the_standards_code(
    shop: Shop, payload: BatchSettlementPayload, reason: str
) -> None:
    shop.market.chain.balances[BOB.signer.address] = 5_000
    assert (await shop.post("verify", payload))["invalidReason"] == reason
    assert (await shop.post("settle", payload))["errorReason"] == reason


async def test_a_refund_is_settled_with_what_it_gave_back(shop: Shop) -> None:
    pending = (await shop.post("verify", ALICE.pay(PRICE)))["extra"]["pendingId"]
    await shop.post("settle", ALICE.pay(PRICE, pending_id=pending), amount="70")
    verified = await shop.post("verify", ALICE.refund(70))
    assert verified["extra"].pop("pendingId")
    assert verified["extra"] == state(70)
    settled = await shop.post("settle", ALICE.refund(70))
    assert settled["errorReason"] == f"{CODE}channel_busy"
    await shop.market.expire()
    settled = await shop.post("settle", ALICE.refund(70))
    assert (settled["success"], settled["amount"]) == (True, "9930")
    assert settled["transaction"] == to_hex(shop.market.chain.sent[0].attempts[0].transaction_hash)
    after = state(70) | {"balance": "70", "totalClaimed": "70", "refundNonce": "1"}
    assert settled["extra"] == {"chargeCount": 0, "channelState": after}
    await shop.market.chain.look()
    assert (await shop.post("verify", ALICE.refund(70)))["invalidReason"] == f"{CODE}refund_no_balance"
    assert (await shop.post("verify", ALICE.refund(70, 0)))["invalidReason"] == f"{CODE}refund_amount_invalid"
