"""What the tests of `batch-settlement` sales share: a fake aggregator that manages vouchers, and a payer with a key."""

# ruff: noqa: N802 - gRPC names the methods

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx2
import msgspec
from seller_fakes import NETWORK, OPERATOR, SELLER, TOKEN, FakeAggregator, usdc
from seller_shop import Buyer, Shop

from batch_facilitator import BatchFacilitator
from tallystick import eip712, x402
from tallystick.channels import ChannelConfig, channel_id
from tallystick.codec.common import write_refusal
from tallystick.codec.facilitator import read_terms, write_settled, write_verified
from tallystick.errors import RefusedError
from tallystick.signatures import Signer
from tallystick.v1 import common_pb2, facilitator_pb2
from tallystick.vouchers import UncheckedVoucher, sign_voucher
from tallystick.x402.batch_settlement import (
    BatchSettlementSupport,
    DepositPayload,
    Erc3009Deposit,
    RefundPayload,
    VoucherPayload,
    batch_settlement_payload,
    read_correction,
)

CHAIN_ID = 31_337
DELAY_S = 86_400
TOKEN_DOMAIN = eip712.Domain("USD Coin", "2", CHAIN_ID, TOKEN)
SCHEME = "batch-settlement"


class BatchAggregator(FakeAggregator):
    """Manages vouchers beside what the other one does. `release_trouble` is as `settle_trouble`, for releases."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = BatchFacilitator(CHAIN_ID, OPERATOR, TOKEN_DOMAIN, DELAY_S)
        extra = BatchSettlementSupport(OPERATOR, DELAY_S, delegated_refund=True).extra()
        self.kinds.append(
            facilitator_pb2.Kind(
                scheme=SCHEME,
                network=NETWORK,
                assets=[usdc()],
                escrow=eip712.BATCH_SETTLEMENT_ADDRESS,
                operator=OPERATOR,
                extra=msgspec.json.encode(extra),
            )
        )
        self.payloads: list[dict[str, Any]] = []
        self.before_verify: Callable[[], Awaitable[None]] | None = None

    async def Verify(self, request: Any, context: Any) -> facilitator_pb2.VerifyResponse:
        if not request.payload:
            return await super().Verify(request, context)
        self._enter("Verify", context)
        if self.before_verify is not None:
            await self.before_verify()
        trouble = self.verify_trouble.pop(0) if self.verify_trouble else None
        if isinstance(trouble, grpc.StatusCode):
            await context.abort(trouble, "down for a test")
        try:
            return write_verified(self.channels.verify(self._message(request), read_terms(request)))
        except RefusedError as error:
            return facilitator_pb2.VerifyResponse(refusal=_written(error))

    async def Settle(self, request: Any, context: Any) -> facilitator_pb2.SettleResponse:
        if not request.payload:
            return await super().Settle(request, context)
        self._enter("Release" if request.release else "Settle", context)
        trouble = self.settle_trouble.pop(0) if self.settle_trouble else None
        if isinstance(trouble, grpc.StatusCode):
            await context.abort(trouble, "down for a test")
        if isinstance(trouble, common_pb2.Refusal):
            return facilitator_pb2.SettleResponse(refusal=trouble)
        try:
            settled = self.channels.settle(self._message(request), read_terms(request), release=request.release)
            response = write_settled(settled)
        except RefusedError as error:
            response = facilitator_pb2.SettleResponse(refusal=_written(error))
        if isinstance(trouble, tuple):
            await context.abort(trouble[1], "the answer is lost")
        return response

    def _message(self, request: Any) -> x402.PaymentPayload:
        message = x402.decode_json(request.payload, x402.PaymentPayload, "payload", 65_536)
        assert message.resource is None, "the page is the seller's and the payer's"
        self.payloads.append(message.payload)
        return message


def _written(error: RefusedError) -> common_pb2.Refusal:
    return write_refusal(error.reason, error.message, error.field, extra=error.extra, code=error.code)


@dataclass
class BatchBuyer:
    """A payer that signs what it is told to, and keeps no book."""

    signer: Signer = field(default_factory=lambda: Signer(bytes([0x21] * 32)))
    salts: int = 0

    @property
    def config(self) -> ChannelConfig:
        payer = self.signer.address
        return ChannelConfig(payer, payer, SELLER, OPERATOR, TOKEN, DELAY_S, bytes(32))

    @property
    def id(self) -> bytes:
        return channel_id(eip712.batch_settlement_domain(CHAIN_ID), self.config)

    def voucher(self, ceiling: int) -> UncheckedVoucher:
        signed = sign_voucher(self.signer, eip712.batch_settlement_domain(CHAIN_ID), self.id, ceiling)
        return UncheckedVoucher(self.id, ceiling, signed.signature)

    def pay(self, offer: x402.PaymentRequirements, ceiling: int, *, deposit: int = 0, **more: Any) -> dict[str, str]:
        """The header of a payment up to this ceiling, with a deposit where it has one."""
        if not deposit:
            return self.header(offer, VoucherPayload(self.config, self.voucher(ceiling)), **more)
        self.salts += 1
        unsigned = Erc3009Deposit(0, 2_000_000_000, self.salts.to_bytes(32, "big"), b"")
        digest = eip712.digest(TOKEN_DOMAIN, unsigned.struct_hash(self.config, self.id, deposit))
        signed = Erc3009Deposit(0, 2_000_000_000, unsigned.salt, self.signer.sign(digest))
        return self.header(offer, DepositPayload(self.config, self.voucher(ceiling), deposit, signed), **more)

    def refund(self, offer: x402.PaymentRequirements, ceiling: int, amount: int | None = None) -> dict[str, str]:
        return self.header(offer, RefundPayload(self.config, self.voucher(ceiling), amount))

    def header(
        self,
        offer: x402.PaymentRequirements,
        payload: Any,
        identifier: str = "",
        change: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> dict[str, str]:
        written = batch_settlement_payload(payload)
        change(written)
        named = {"payment-identifier": {"info": {"required": False, "id": identifier}}} if identifier else None
        return Buyer.header(offer, written, named)


@dataclass
class BatchShop:
    """A shop, its aggregator, and somebody who pays there."""

    shop: Shop
    fake: BatchAggregator
    buyer: BatchBuyer = field(default_factory=BatchBuyer)

    @property
    def http(self) -> httpx2.AsyncClient:
        return self.shop.http

    async def offer(self, target: str = "/articles/1") -> x402.PaymentRequirements:
        return await self.shop.offer(target, SCHEME)

    async def buy(self, target: str, ceiling: int, **payment: Any) -> httpx2.Response:
        return await self.http.get(target, headers=self.buyer.pay(await self.offer(target), ceiling, **payment))

    async def open(self, deposit: int = 100_000) -> None:
        """Buy the first page, with a deposit; 1,000 are charged."""
        response = await self.buy("/articles/first", 1_000, deposit=deposit)
        assert response.status_code == 200, response.text
        self.shop.served.clear()
        self.fake.calls.clear()

    @property
    def charged(self) -> int:
        return self.fake.channels.channel.charged


def correction_of(response: httpx2.Response) -> Any:
    """What a corrective 402 says of the channel, with its error."""
    required = Buyer.required(response)
    offer = next(offer for offer in required.accepts if offer.scheme == SCHEME)
    return required.error, read_correction(offer.extra)
