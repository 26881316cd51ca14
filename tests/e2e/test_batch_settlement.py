"""batch-settlement end to end: `tallystick serve` on Anvil, with stand-ins of the standard's contracts."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from market import BatchSettlementMarket

from _anvil import hexed
from anvil import PERMIT2_CONTRACTS
from batch_channels import BatchChannel, approve_permit2, batch_channel
from tallystick.hexadecimal import checksum
from tallystick.vouchers import UncheckedVoucher
from tallystick.x402 import Network, PaymentPayload, encode_json
from tallystick.x402.batch_settlement import (
    BatchSettlementPayload,
    DepositPayload,
    RefundPayload,
    Reservation,
    VoucherPayload,
    batch_settlement_payload,
)
from tallystick.x402.messages import PaymentRequirements
from tallystick.x402.terms import SCHEME_BATCH_SETTLEMENT, BatchSettlementTerms
from tallystick_client import Aggregator
from tallystick_contracts import load
from waiting import wait_until

PRICE = 1_000
NETWORK = "eip155:31337"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchSettlementMarket]:
    with BatchSettlementMarket(tmp_path_factory.mktemp("batch")) as running:
        yield running


class Server:
    """A resource server that lets the facilitator manage its vouchers, by hand."""

    def __init__(self, market: BatchSettlementMarket) -> None:
        self.market = market
        (self.kind,) = (
            kind for kind in self.call("GET", "/supported")["kinds"] if kind["scheme"] == SCHEME_BATCH_SETTLEMENT
        )
        authorizer, delay_s = self.kind["extra"]["receiverAuthorizer"], self.kind["extra"]["withdrawDelay"]
        self.terms = BatchSettlementTerms(
            bytes.fromhex(authorizer[2:]), delay_s, "USD Coin", "2", voucher_manager="facilitator"
        )

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"authorization": f"Bearer {self.market.seller_token}"}
        return httpx2.request(method, self.market.http_url + path, json=body, headers=headers, timeout=60).json()

    def asks(self, amount: int = PRICE) -> PaymentRequirements:
        return PaymentRequirements(
            scheme=SCHEME_BATCH_SETTLEMENT,
            network=NETWORK,
            amount=str(amount),
            asset=checksum(self.market.token),
            pay_to=checksum(self.market.receiver),
            max_timeout_seconds=60,
            extra=self.terms.extra(),
        )

    def post(self, verb: str, payload: BatchSettlementPayload, amount: int = PRICE) -> dict[str, Any]:
        payment = PaymentPayload(payload=batch_settlement_payload(payload), accepted=self.asks())
        body = {
            "x402Version": 2,
            "paymentPayload": json.loads(encode_json(payment)),
            "paymentRequirements": json.loads(encode_json(self.asks(amount))),
        }
        answer: dict[str, Any] = self.call("POST", f"/{verb}", body)
        return answer

    def channel(self) -> BatchChannel:
        """A new payer's, on the terms that are offered."""
        return batch_channel(
            self.market.devnet(),
            self.market.receiver,
            receiver_authorizer=self.terms.receiver_authorizer,
            withdraw_delay_s=self.terms.withdraw_delay_s,
        )


def pay(channel: BatchChannel, ceiling: int, pending_id: str | None = None) -> VoucherPayload:
    voucher = channel.voucher(ceiling)
    unchecked = UncheckedVoucher(channel.id, ceiling, voucher.signature)
    return VoucherPayload(channel.config, unchecked, Reservation(pending_id))


async def test_supported_has_the_scheme_over_both_edges(market: BatchSettlementMarket) -> None:
    kind = Server(market).kind
    operator = checksum(market.operator.operator)
    assert (kind["network"], kind["extra"]["receiverAuthorizer"]) == (NETWORK, operator)
    async with Aggregator(market.aggregator, token=market.seller_token, insecure=True) as aggregator:
        kinds = (await aggregator.supported()).kinds
    assert [one.escrow_name for one in kinds if one.scheme == SCHEME_BATCH_SETTLEMENT] == ["x402 Batch Settlement"]
    assert [one.escrow_name for one in kinds if one.scheme == "deferred"] == ["Tallystick Escrow"]
    assert sum(one.scheme == "exact" for one in kinds) == 1
    assert str(Network(31337)) == NETWORK


def test_a_channel_with_a_deposit_is_charged_also_after_a_restart(market: BatchSettlementMarket) -> None:
    server = Server(market)
    channel = server.channel()
    channel.deposit(10 * PRICE)

    def held_now() -> dict[str, Any] | None:
        answer = server.post("verify", pay(channel, PRICE))
        return answer if answer["isValid"] else None

    held = wait_until(held_now, 20, lambda: "the deposit is not credited")
    settled = server.post("settle", pay(channel, PRICE, held["extra"]["pendingId"]), PRICE - 1)
    assert (settled["success"], settled["amount"], settled["extra"]["chargedAmount"]) == (True, "", str(PRICE - 1))
    held = server.post("verify", pay(channel, 2 * PRICE - 1))
    market.server.stop()
    market.serve()
    again = Server(market)
    settled = again.post("settle", pay(channel, 2 * PRICE - 1, held["extra"]["pendingId"]))
    assert settled["extra"]["channelState"]["chargedCumulativeAmount"] == str(2 * PRICE - 1)
    assert again.call("GET", "/healthz") == {"status": "serving", "settling": True}


def lands_and_pays(market: BatchSettlementMarket, payload: DepositPayload, channel: BatchChannel) -> None:
    """A deposit of ten prices and a voucher over one: verified, landed, charged, and never again."""
    server = Server(market)
    verified = server.post("verify", payload)
    assert verified["isValid"], verified
    held = replace(payload, reservation=Reservation(verified["extra"]["pendingId"]))
    settled = server.post("settle", held, PRICE - 1)
    assert settled["success"], settled
    assert (settled["amount"], settled["extra"]["chargedAmount"]) == (str(10 * PRICE), str(PRICE - 1))
    assert settled["extra"]["channelState"]["balance"] == str(10 * PRICE)
    assert market.anvil.rpc("eth_getTransactionReceipt", settled["transaction"])["status"] == "0x1"
    again = server.post("settle", held, PRICE - 1)
    assert again["errorReason"].endswith("cumulative_amount_mismatch"), again
    assert server.post("verify", pay(channel, 2 * PRICE - 1))["isValid"]


def funded(market: BatchSettlementMarket) -> BatchChannel:
    """A channel of somebody who holds ten prices."""
    channel = Server(market).channel()
    market.anvil.mint(market.token, channel.payer.address, 10 * PRICE)
    return channel


def test_a_deposit_lands_until_it_is_final_and_pays_for_its_request(market: BatchSettlementMarket) -> None:
    channel = funded(market)
    lands_and_pays(market, channel.deposit_payload(10 * PRICE, PRICE), channel)


def test_a_refund_claims_what_is_charged_and_gives_the_rest_back(market: BatchSettlementMarket) -> None:
    server, channel = Server(market), funded(market)
    deposited = server.post("settle", channel.deposit_payload(10 * PRICE, PRICE))
    assert deposited["success"], deposited
    voucher = UncheckedVoucher(channel.id, PRICE, channel.voucher(PRICE).signature)
    verified = server.post("verify", RefundPayload(channel.config, voucher))
    assert verified["isValid"], verified
    held = RefundPayload(channel.config, voucher, reservation=Reservation(verified["extra"]["pendingId"]))
    refunded = server.post("settle", held)
    assert (refunded.get("success"), refunded["amount"]) == (True, str(9 * PRICE)), refunded
    assert server.post("settle", held)["transaction"] == refunded["transaction"]
    assert market.anvil.token_balance(market.token, channel.payer.address) == 9 * PRICE
    assert channel.state == (PRICE, PRICE)
    # The receiver is paid what was claimed, though no claim of its own was sent.
    wait_until(lambda: channel.words("receivers", market.receiver, market.token)[1] >= PRICE, 60, lambda: "not settled")


class Permit2Market(BatchSettlementMarket):
    """The same, and its token may move by Permit2 too."""

    def prepare(self) -> None:
        for address, name in PERMIT2_CONTRACTS.items():
            self.anvil.rpc("anvil_setCode", hexed(address), hexed(load(name).deployed_bytecode))
        text = self.config.read_text()
        methods = '\ntransfer_methods = ["eip3009", "permit2"]'
        self.config.write_text(re.sub(r"(\nsymbol = .*)", rf"\1{methods}", text, count=1))
        super().prepare()


def test_a_deposit_by_permit2_lands_where_its_payer_has_approved_it(tmp_path: Path) -> None:
    with Permit2Market(tmp_path) as market:
        channel = funded(market)
        payload = channel.deposit_payload(10 * PRICE, PRICE)
        payload = replace(payload, authorization=channel.permit2(10 * PRICE))
        refused = Server(market).post("verify", payload)
        assert refused["invalidReason"].endswith("permit2_allowance_required"), refused
        approve_permit2(channel)
        lands_and_pays(market, payload, channel)


class HastyMarket(BatchSettlementMarket):
    """The same, and a channel is held for two seconds."""

    def prepare(self) -> None:
        self.config.write_text(self.config.read_text() + "\n[limits]\nreservation_s = 2\n")
        super().prepare()


@pytest.mark.timeout(180)
def test_a_stale_lock_after_kill_9_hangs_no_channel(tmp_path: Path) -> None:
    """A stale lock file after kill -9 hangs every channel: not here, where a hold that outlives its process ends."""
    with HastyMarket(tmp_path) as market:
        server = Server(market)
        held, other = server.channel(), server.channel()
        for channel in (held, other):
            channel.deposit(10 * PRICE)

            def verified(channel: BatchChannel = channel) -> dict[str, Any] | None:
                answer = server.post("verify", pay(channel, PRICE))
                return answer if answer["isValid"] else None

            wait_until(verified, 20, lambda: "the deposit is not credited")
        market.server.kill()
        market.serve()
        again = Server(market)
        for channel in (held, other):

            def free(channel: BatchChannel = channel) -> dict[str, Any] | None:
                answer = again.post("verify", pay(channel, PRICE))
                assert answer["isValid"] or answer["invalidReason"].endswith("channel_busy"), answer
                return answer if answer["isValid"] else None

            answer = wait_until(free, 20, lambda: "the channel is still held")
            settled = again.post("settle", pay(channel, PRICE, answer["extra"]["pendingId"]))
            assert settled["extra"]["channelState"]["chargedCumulativeAmount"] == str(PRICE), settled
