"""batch-settlement end to end: `tallystick serve` on Anvil, with stand-ins of the standard's contracts."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from market import BatchSettlementMarket

from batch_channels import BatchChannel, batch_channel
from tallystick.hexadecimal import checksum
from tallystick.vouchers import UncheckedVoucher
from tallystick.x402 import Network, PaymentPayload, encode_json
from tallystick.x402.batch_settlement import (
    BatchSettlementPayload,
    Reservation,
    VoucherPayload,
    batch_settlement_payload,
)
from tallystick.x402.messages import PaymentRequirements
from tallystick.x402.terms import SCHEME_BATCH_SETTLEMENT, BatchSettlementTerms
from tallystick_client import Aggregator
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
