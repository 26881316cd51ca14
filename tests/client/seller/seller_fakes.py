"""A fake aggregator behind real gRPC: it keeps the rules as far as sellers see them, and fails when it is told to."""

# ruff: noqa: N802, ARG002 - gRPC names the methods and their arguments

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from tallystick.amounts import decode_amount, encode_amount
from tallystick.spend_keys import SpendProver
from tallystick.v1 import (
    charge_pb2,
    charge_pb2_grpc,
    common_pb2,
    facilitator_pb2,
    facilitator_pb2_grpc,
    settlement_pb2,
    settlement_pb2_grpc,
)
from tallystick_client import Aggregator

NETWORK = "eip155:31337"
SELLER = bytes([0x5E] * 20)
OPERATOR = bytes([0x09] * 20)
ESCROW = bytes([0xE5] * 20)
TOKEN = bytes([0x70] * 20)
PAYER = bytes([0xBA] * 20)
TOKEN_OF_SELLER = "seller-token"
SECRET = bytes([7] * 32)
PROVER = SpendProver(SECRET)
TRANSACTION = bytes([0xAB] * 32)


def usdc() -> facilitator_pb2.Asset:
    return facilitator_pb2.Asset(
        token=TOKEN, symbol="USDC", decimals=6, name="USD Coin", version="2", min_deposit=encode_amount(100_000)
    )


def supported_kinds(network: str = NETWORK) -> list[facilitator_pb2.Kind]:
    return [
        facilitator_pb2.Kind(scheme="exact", network=network, assets=[usdc()]),
        facilitator_pb2.Kind(
            scheme="deferred",
            network=network,
            assets=[usdc()],
            escrow=ESCROW,
            escrow_name="Tallystick Escrow",
            escrow_version="1",
            operator=OPERATOR,
            withdraw_delay_s_min=7_200,
            withdraw_delay_s_max=2_592_000,
            withdraw_delay_s=86_400,
        ),
    ]


def refusal(reason: str, **fields: Any) -> common_pb2.Refusal:
    return common_pb2.Refusal(reason=common_pb2.Reason.Value(f"REASON_{reason}"), message="No.", **fields)


@dataclass
class Payment:
    amount: int
    request_hash: bytes
    status: str


class FakeAggregator(
    facilitator_pb2_grpc.FacilitatorServiceServicer,
    charge_pb2_grpc.ChargeServiceServicer,
    settlement_pb2_grpc.SettlementServiceServicer,
):
    """Keeps the rules of an aggregator as far as sellers see them. `verify_trouble` and the like hold, for the next
    calls in turn: a status to fail with, a Refusal to answer, or ("after", status) to fail with after the effect."""

    def __init__(self) -> None:
        self.kinds = supported_kinds()
        self.limits = facilitator_pb2.Limits(
            charges_per_batch_max=4, unanswered_batches_max=2, reservation_s=60, payment_id_retention_s=172_800
        )
        self.receivers = [SELLER]
        self.scopes = ["charge", "read", "settle"]
        self.calls: list[str] = []
        self.tokens: list[str] = []
        self.payments: dict[tuple[bytes, bytes], Payment] = {}
        self.handles: dict[bytes, tuple[bytes, bytes]] = {}
        self.exact_settled: dict[bytes, bytes] = {}
        self.exact_owners: dict[bytes, tuple[bytes, bytes]] = {}
        self.exact_given_back: set[bytes] = set()
        self.charged: dict[bytes, int] = {}
        self.supported_trouble: list[grpc.StatusCode] = []
        self.publish_trouble: list[grpc.StatusCode] = []
        self.published: list[bytes] = []
        self.dropped: list[str] = []
        self.verify_trouble: list[Any] = []
        self.settle_trouble: list[Any] = []
        self.settlements: list[settlement_pb2.Settlement] = []
        self.left_out: list[settlement_pb2.LeftOut] = []
        self.batches: list[charge_pb2.StreamChargesRequest] = []
        self.stream_breaks: list[str] = []
        self.open_streams = 0
        self.held_is_replayed = True
        self.stream_gate: asyncio.Event | None = None

    def _enter(self, name: str, context: Any) -> None:
        self.calls.append(name)
        metadata = dict(context.invocation_metadata())
        self.tokens.append(metadata.get("authorization", ""))

    async def Supported(self, request: Any, context: Any) -> facilitator_pb2.SupportedResponse:
        self._enter("Supported", context)
        if self.supported_trouble:
            await context.abort(self.supported_trouble.pop(0), "not for you")
        return facilitator_pb2.SupportedResponse(
            kinds=self.kinds, limits=self.limits, receivers=self.receivers, scopes=self.scopes
        )

    async def PublishResources(self, request: Any, context: Any) -> facilitator_pb2.PublishResourcesResponse:
        self._enter("PublishResources", context)
        if self.publish_trouble:
            await context.abort(self.publish_trouble.pop(0), "not now")
        self.published.append(request.manifest)
        return facilitator_pb2.PublishResourcesResponse(listed=1, dropped=self.dropped)

    async def Verify(self, request: Any, context: Any) -> facilitator_pb2.VerifyResponse:
        self._enter("Verify", context)
        trouble = self.verify_trouble.pop(0) if self.verify_trouble else None
        if isinstance(trouble, grpc.StatusCode):
            await context.abort(trouble, "down for a test")
        if isinstance(trouble, common_pb2.Refusal):
            return facilitator_pb2.VerifyResponse(refusal=trouble)
        response = self._verify_exact(request) if request.HasField("exact") else self._reserve(request)
        if isinstance(trouble, tuple):
            await context.abort(trouble[1], "the answer is lost")
        return response

    def _verify_exact(self, request: Any) -> facilitator_pb2.VerifyResponse:
        payment = request.exact
        if payment.value != request.terms.amount:
            return facilitator_pb2.VerifyResponse(refusal=refusal("AMOUNT_MISMATCH"))
        if not request.HasField("attempt"):
            replayed = payment.nonce in self.exact_settled
            return facilitator_pb2.VerifyResponse(valid=True, payer=getattr(payment, "from"), replayed=replayed)
        trouble = self._take_exact(payment.nonce, request.attempt)
        if trouble is not None:
            return facilitator_pb2.VerifyResponse(refusal=trouble)
        return facilitator_pb2.VerifyResponse(valid=True, payer=getattr(payment, "from"))

    def _take_exact(self, nonce: bytes, attempt: Any) -> common_pb2.Refusal | None:
        """Make an exact payment this attempt's; why not, if it is another's."""
        mine = (attempt.id, attempt.request_hash)
        owner = self.exact_owners.get(nonce, mine)
        taken_over = nonce in self.exact_given_back and owner[1] == mine[1]
        if owner != mine and not taken_over:
            return refusal("PAYMENT_USED" if nonce in self.exact_settled else "PAYMENT_PENDING")
        self.exact_given_back.discard(nonce)
        self.exact_owners[nonce] = mine
        return None

    def _reserve(self, request: Any) -> facilitator_pb2.VerifyResponse:
        config, charge = request.deferred.config, request.deferred.charge
        amount = decode_amount(charge.amount, "amount")
        assert config.receiver == request.terms.pay_to
        assert amount == decode_amount(request.terms.amount, "amount")
        key = (charge.channel_id, charge.payment_id)
        known = self.payments.get(key)
        if known is not None:
            if known.status == "released":
                return facilitator_pb2.VerifyResponse(refusal=refusal("RESERVATION_RELEASED"))
            if (known.amount, known.request_hash) != (amount, charge.request_hash):
                return facilitator_pb2.VerifyResponse(refusal=refusal("PAYMENT_ID_REUSED"))
            return facilitator_pb2.VerifyResponse(
                valid=True, payer=config.payer, replayed=known.status == "charged" or self.held_is_replayed
            )
        proof = charge.spend_proof
        most = decode_amount(proof.max_amount, "max_amount")
        if not PROVER.check(charge.channel_id, charge.payment_id, most, charge.request_hash, proof.mac):
            return facilitator_pb2.VerifyResponse(refusal=refusal("SPEND_KEY_PROOF"))
        if most < amount:
            return facilitator_pb2.VerifyResponse(refusal=refusal("AMOUNT_ABOVE_AGREED"))
        if decode_amount(charge.ceiling, "ceiling") < amount:
            totals = common_pb2.ChannelTotals(
                channel_id=charge.channel_id, receiver=SELLER, ceiling=charge.ceiling, charged=b"\x07", reserved=b"\x02"
            )
            return facilitator_pb2.VerifyResponse(refusal=refusal("INSUFFICIENT_CEILING", totals=totals))
        handle = b"handle" + charge.payment_id
        self.payments[key] = Payment(amount, charge.request_hash, "reserved")
        self.handles[handle] = key
        return facilitator_pb2.VerifyResponse(
            valid=True, payer=config.payer, handle=handle, reservation_expires_at=2_000_000_000
        )

    async def Settle(self, request: Any, context: Any) -> facilitator_pb2.SettleResponse:
        self._enter("Release" if request.release else "Settle", context)
        trouble = self.settle_trouble.pop(0) if self.settle_trouble else None
        if isinstance(trouble, grpc.StatusCode):
            await context.abort(trouble, "down for a test")
        if isinstance(trouble, common_pb2.Refusal):
            if request.HasField("exact") and trouble.reason == common_pb2.REASON_TRANSACTION_PENDING:
                self.exact_owners[request.exact.nonce] = (request.attempt.id, request.attempt.request_hash)
                self.exact_settled[request.exact.nonce] = TRANSACTION
            return facilitator_pb2.SettleResponse(refusal=trouble)
        response = self._settle_exact(request) if request.HasField("exact") else self._settle_handle(request)
        if isinstance(trouble, tuple):
            await context.abort(trouble[1], "the answer is lost")
        return response

    def _settle_exact(self, request: Any) -> facilitator_pb2.SettleResponse:
        payment = request.exact
        replayed = payment.nonce in self.exact_settled
        if request.HasField("attempt"):
            trouble = self._take_exact(payment.nonce, request.attempt)
            if trouble is not None:
                return facilitator_pb2.SettleResponse(refusal=trouble)
            if request.release:
                self._give_back_exact(payment.nonce)
                return facilitator_pb2.SettleResponse(success=True, payer=getattr(payment, "from"), replayed=replayed)
            replayed = False
        self.exact_settled[payment.nonce] = TRANSACTION
        return facilitator_pb2.SettleResponse(
            success=True,
            payer=getattr(payment, "from"),
            amount=payment.value,
            transaction=TRANSACTION,
            replayed=replayed,
        )

    def _give_back_exact(self, nonce: bytes) -> None:
        if nonce in self.exact_settled:  # sent, whether it has landed or not
            self.exact_given_back.add(nonce)
        else:
            self.exact_owners.pop(nonce)

    def _settle_handle(self, request: Any) -> facilitator_pb2.SettleResponse:
        key = self.handles.get(request.handle)
        if key is None:
            return facilitator_pb2.SettleResponse(refusal=refusal("RESERVATION_UNKNOWN"))
        payment = self.payments[key]
        if request.release:
            if payment.status == "charged":
                return facilitator_pb2.SettleResponse(refusal=refusal("PAYMENT_ID_REUSED"))
            payment.status = "released"
            return facilitator_pb2.SettleResponse(success=True, payer=PAYER)
        if payment.status == "released":
            return facilitator_pb2.SettleResponse(refusal=refusal("RESERVATION_RELEASED"))
        amount = decode_amount(request.terms.amount, "amount")
        assert amount <= payment.amount
        replayed = payment.status == "charged"
        if not replayed:
            payment.status = "charged"
            self.charged[key[0]] = self.charged.get(key[0], 0) + amount
        return facilitator_pb2.SettleResponse(
            success=True,
            payer=PAYER,
            amount=encode_amount(amount),
            charged=encode_amount(self.charged[key[0]]),
            replayed=replayed,
        )

    # The fast way.

    def _charge(self, charge: Any) -> charge_pb2.ChargeResult:
        key = (charge.channel_id, charge.payment_id)
        if decode_amount(charge.amount, "amount") == 666:
            return charge_pb2.ChargeResult(refusal=refusal("INSUFFICIENT_FUNDS"))
        known = self.payments.get(key)
        if known is None:
            amount = decode_amount(charge.amount, "amount")
            self.payments[key] = Payment(amount, charge.request_hash, "charged")
            self.charged[key[0]] = self.charged.get(key[0], 0) + amount
        return charge_pb2.ChargeResult(
            accepted=True, replayed=known is not None, charged=encode_amount(self.charged[key[0]])
        )

    async def Charge(self, request: Any, context: Any) -> charge_pb2.ChargeResponse:
        self._enter("Charge", context)
        return charge_pb2.ChargeResponse(result=self._charge(request.charge))

    async def StreamCharges(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        self._enter("StreamCharges", context)
        self.open_streams += 1
        async for request in request_iterator:
            self.batches.append(request)
            if self.stream_gate is not None:
                await self.stream_gate.wait()
            how = self.stream_breaks.pop(0) if self.stream_breaks else ""
            if how == "before":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken for a test")
            results = [self._charge(charge) for charge in request.charges]
            if how == "after":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken for a test")
            if how == "end":
                return
            if how == "denied":
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not yours")
            if how == "silent":
                await asyncio.Event().wait()
            if how == "short":
                results = results[:-1]
            if how == "not an amount":
                results[0].charged = b"\x00"
            yield charge_pb2.StreamChargesResponse(seq=request.seq, results=results)

    async def ListSettlements(self, request: Any, context: Any) -> settlement_pb2.ListSettlementsResponse:
        self._enter("ListSettlements", context)
        if self.stream_gate is not None:
            await self.stream_gate.wait()
        older = [s for s in self.settlements if not request.before_id or s.id < request.before_id]
        return settlement_pb2.ListSettlementsResponse(settlements=older[: request.limit])

    async def SettleNow(self, request: Any, context: Any) -> settlement_pb2.SettleNowResponse:
        self._enter("SettleNow", context)
        if self.settle_trouble:
            await context.abort(self.settle_trouble.pop(0), "scope settle is needed")
        if not self.settlements:
            return settlement_pb2.SettleNowResponse(refusal=refusal("CHAIN_UNAVAILABLE"))
        return settlement_pb2.SettleNowResponse(settlements=self.settlements[:1], left_out=self.left_out)

    def statuses(self) -> list[str]:
        return [payment.status for payment in self.payments.values()]


@dataclass
class Running:
    """A fake aggregator that listens."""

    fake: FakeAggregator
    server: grpc.aio.Server
    port: int

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def client(self, **settings: Any) -> Aggregator:
        return Aggregator(self.target, token=TOKEN_OF_SELLER, **settings)

    async def stop(self) -> None:
        await self.server.stop(None)


async def start_server(fake: FakeAggregator, port: int = 0) -> Running:
    server = grpc.aio.server()
    facilitator_pb2_grpc.add_FacilitatorServiceServicer_to_server(fake, server)
    charge_pb2_grpc.add_ChargeServiceServicer_to_server(fake, server)
    settlement_pb2_grpc.add_SettlementServiceServicer_to_server(fake, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return Running(fake, server, bound)
