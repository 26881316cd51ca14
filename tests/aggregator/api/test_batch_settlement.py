"""`batch-settlement` over gRPC: x402's JSON as the payment, and the scheme's extra both ways."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from batch_market import ASKED, PRICE, TERMS, BatchMarket, BatchPayer, batch_market, message_of
from doubles import NEWS, TOKEN
from serving_twin import Edge, serving

from tallystick.amounts import decode_amount
from tallystick.codec.facilitator import write_terms
from tallystick.reasons import Reason
from tallystick.v1 import facilitator_pb2 as pb
from tallystick.x402 import PaymentTerms, encode_json
from tallystick.x402.batch_settlement import (
    BatchSettlementPayload,
    ClaimPayload,
    RefundPayload,
    SettlePayload,
    VoucherClaim,
    VoucherPayload,
    read_channel_state,
    read_correction,
    read_settlement,
)

ALICE = BatchPayer("alice")
SERVERS = replace(TERMS, extra=replace(ASKED, voucher_manager="server").extra())
"""The server manages its vouchers."""
JOB = replace(TERMS, amount=0, max_timeout_s=0, extra={})
"""What a server sends along for its own sake."""


class Shop:
    def __init__(self, market: BatchMarket, edge: Edge) -> None:
        self.market = market
        self.edge = edge

    async def verify(self, payload: VoucherPayload) -> pb.VerifyResponse:
        request = pb.VerifyRequest(terms=write_terms(TERMS), payload=encode_json(message_of(payload)))
        return await self.edge.facilitator.Verify(request, metadata=self.edge.news)

    async def settle(self, payload: VoucherPayload, amount: int, *, release: bool = False) -> pb.SettleResponse:
        terms = write_terms(replace(TERMS, amount=amount))
        request = pb.SettleRequest(terms=terms, payload=encode_json(message_of(payload)), release=release)
        return await self.edge.facilitator.Settle(request, metadata=self.edge.news)

    async def verify_for_server(self, payload: BatchSettlementPayload) -> pb.VerifyResponse:
        message = encode_json(message_of(payload, SERVERS))
        request = pb.VerifyRequest(terms=write_terms(SERVERS), payload=message)
        return await self.edge.facilitator.Verify(request, metadata=self.edge.news)

    async def settle_for_server(self, payload: BatchSettlementPayload, terms: PaymentTerms = JOB) -> pb.SettleResponse:
        request = pb.SettleRequest(terms=write_terms(terms), payload=encode_json(message_of(payload, terms)))
        return await self.edge.facilitator.Settle(request, metadata=self.edge.news)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with batch_market() as market, serving(tmp_path, schemes=[market.scheme]) as edge:
        await market.chain.fund(ALICE.config, 10_000)
        yield Shop(market, edge)


async def test_a_voucher_is_verified_settled_and_given_back(shop: Shop) -> None:
    verified = await shop.verify(ALICE.pay(PRICE))
    assert (verified.valid, verified.payer, verified.handle) == (True, ALICE.signer.address, b"")
    extra = json.loads(verified.extra)
    assert read_channel_state(extra, "extra").charged == 0
    settled = await shop.settle(ALICE.pay(PRICE, pending_id=extra["pendingId"]), 70)
    assert (settled.success, decode_amount(settled.amount, "amount"), settled.transaction) == (True, 70, b"")
    assert read_settlement(json.loads(settled.extra)).charged == 70
    pending = json.loads((await shop.verify(ALICE.pay(70 + PRICE))).extra)["pendingId"]
    assert (await shop.settle(ALICE.pay(70 + PRICE, pending_id=pending), 0, release=True)).success
    assert shop.market.channel(ALICE).charged == 70


async def test_a_mismatch_tells_the_payer_what_it_needs(shop: Shop) -> None:
    pending = json.loads((await shop.verify(ALICE.pay(PRICE))).extra)["pendingId"]
    await shop.settle(ALICE.pay(PRICE, pending_id=pending), PRICE)
    refused = await shop.verify(ALICE.pay(PRICE))
    assert (refused.valid, refused.refusal.reason) == (False, int(Reason.CUMULATIVE_AMOUNT_MISMATCH))
    correction = read_correction(json.loads(refused.refusal.extra))
    assert correction is not None
    state, voucher = correction
    assert (state.charged, voucher and voucher.signed_max_claimable) == (PRICE, PRICE)


async def test_supported_names_the_contract_and_what_offers_carry(shop: Shop) -> None:
    answer = await shop.edge.facilitator.Supported(pb.SupportedRequest(), metadata=shop.edge.news)
    (kind,) = (one for one in answer.kinds if one.scheme == TERMS.scheme)
    assert (kind.escrow, kind.operator) == (shop.market.chain.address, ALICE.config.receiver_authorizer)
    assert json.loads(kind.extra)["voucherManager"] == ["server", "facilitator"]
    assert decode_amount(kind.assets[0].min_deposit, "min_deposit") == 1_000


async def test_a_server_that_manages_its_vouchers_verifies_deposits_claims_settles_and_refunds(shop: Shop) -> None:
    held = await shop.verify_for_server(ALICE.pay(PRICE))
    assert (held.valid, read_channel_state(json.loads(held.extra), "extra").balance) == (True, 10_000)
    shop.market.chain.balances[ALICE.signer.address] = 5_000
    landed = await shop.settle_for_server(ALICE.deposit(5_000), SERVERS)
    assert (landed.success, decode_amount(landed.amount, "amount"), len(landed.transaction)) == (True, 5_000, 32)
    voucher = ALICE.voucher(70)
    rows = (VoucherClaim(ALICE.config, voucher.max_claimable_amount, voucher.signature, 70),)
    claimed = await shop.settle_for_server(ClaimPayload(rows))
    assert (claimed.success, len(claimed.transaction)) == (True, 32)
    for _ in range(2):  # the same again finds the first
        settled = await shop.settle_for_server(SettlePayload(NEWS, TOKEN))
        assert (decode_amount(settled.amount, "amount"), len(settled.transaction)) == (70, 32)
    refunded = await shop.settle_for_server(RefundPayload(ALICE.config, ALICE.voucher(0), 2_000, 0))
    assert (refunded.success, decode_amount(refunded.amount, "amount")) == (True, 2_000)
    state = read_settlement(json.loads(refunded.extra)).state
    assert (state.balance, state.total_claimed, state.refund_nonce) == (13_000, 70, 1)


async def test_a_settle_with_nothing_to_pay_succeeds_with_the_amount_0(shop: Shop) -> None:
    settled = await shop.settle_for_server(SettlePayload(NEWS, TOKEN))
    assert (settled.success, decode_amount(settled.amount, "amount"), settled.transaction) == (True, 0, b"")
