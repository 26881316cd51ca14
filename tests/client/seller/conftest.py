"""A fake aggregator behind real gRPC, a buyer that pays it, and a way to call ASGI applications message by message."""

# ruff: noqa: N802, ARG002 - gRPC names the methods and their arguments

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from tallystick import payment_ids, x402
from tallystick.amounts import decode_amount, encode_amount
from tallystick.channels import ChannelConfig, channel_id
from tallystick.eip712 import escrow_domain
from tallystick.requests import body_digest, request_hash
from tallystick.spend_keys import SpendProof, SpendProver
from tallystick.v1 import (
    charge_pb2,
    charge_pb2_grpc,
    common_pb2,
    facilitator_pb2,
    facilitator_pb2_grpc,
    settlement_pb2,
    settlement_pb2_grpc,
)
from tallystick_client import Aggregator, Paywall, Rule

NETWORK = "eip155:31337"
SELLER = bytes([0x5E] * 20)
OPERATOR = bytes([0x09] * 20)
ESCROW = bytes([0xE5] * 20)
TOKEN = bytes([0x70] * 20)
PAYER = bytes([0xBA] * 20)
TOKEN_OF_SELLER = "seller-token"
SECRET = bytes([7] * 32)
PROVER = SpendProver(SECRET)
DOMAIN = escrow_domain(31337, ESCROW)
TRANSACTION = bytes([0xAB] * 32)

Message = MutableMapping[str, Any]


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
        self.calls: list[str] = []
        self.tokens: list[str] = []
        self.payments: dict[tuple[bytes, bytes], Payment] = {}
        self.handles: dict[bytes, tuple[bytes, bytes]] = {}
        self.exact_settled: dict[bytes, bytes] = {}
        self.charged: dict[bytes, int] = {}
        self.verify_trouble: list[Any] = []
        self.settle_trouble: list[Any] = []
        self.settlements: list[settlement_pb2.Settlement] = []
        self.batches: list[charge_pb2.StreamChargesRequest] = []
        self.stream_breaks: list[str] = []
        self.open_streams = 0
        self.stream_gate: asyncio.Event | None = None

    def _enter(self, name: str, context: Any) -> None:
        self.calls.append(name)
        metadata = dict(context.invocation_metadata())
        self.tokens.append(metadata.get("authorization", ""))

    async def Supported(self, request: Any, context: Any) -> facilitator_pb2.SupportedResponse:
        self._enter("Supported", context)
        return facilitator_pb2.SupportedResponse(kinds=self.kinds, limits=self.limits)

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
        replayed = payment.nonce in self.exact_settled
        return facilitator_pb2.VerifyResponse(valid=True, payer=getattr(payment, "from"), replayed=replayed)

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
            return facilitator_pb2.VerifyResponse(valid=True, payer=config.payer, replayed=known.status == "charged")
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
            return facilitator_pb2.SettleResponse(refusal=trouble)
        response = self._settle_exact(request) if request.HasField("exact") else self._settle_handle(request)
        if isinstance(trouble, tuple):
            await context.abort(trouble[1], "the answer is lost")
        return response

    def _settle_exact(self, request: Any) -> facilitator_pb2.SettleResponse:
        payment = request.exact
        replayed = payment.nonce in self.exact_settled
        self.exact_settled[payment.nonce] = TRANSACTION
        return facilitator_pb2.SettleResponse(
            success=True,
            payer=getattr(payment, "from"),
            amount=payment.value,
            transaction=TRANSACTION,
            replayed=replayed,
        )

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
                await asyncio.sleep(3600)
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
        return settlement_pb2.SettleNowResponse(settlements=self.settlements[:1])

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


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    started = await start_server(FakeAggregator())
    yield started
    await started.stop()


@pytest.fixture
def restart() -> Callable[[FakeAggregator, int], Awaitable[Running]]:
    return start_server


@pytest.fixture
def fake(running: Running) -> FakeAggregator:
    return running.fake


@pytest.fixture
async def aggregator(running: Running) -> AsyncIterator[Aggregator]:
    async with running.client(timeout_s=2.0, chain_timeout_s=2.0) as client:
        yield client


class Buyer:
    """Pays 402s with `deferred` or `exact`."""

    def __init__(self) -> None:
        self.config = ChannelConfig(
            payer=PAYER,
            payer_authorizer=PAYER,
            receiver=SELLER,
            receiver_authorizer=OPERATOR,
            token=TOKEN,
            withdraw_delay_s=86_400,
            salt=bytes(32),
        )
        self.channel_id = channel_id(DOMAIN, self.config)
        self._nonces = itertools.count(1)

    @staticmethod
    def terms(response: httpx.Response, scheme: str) -> x402.PaymentRequirements:
        required = Buyer.required(response)
        return next(offer for offer in required.accepts if offer.scheme == scheme)

    @staticmethod
    def required(response: httpx.Response) -> x402.PaymentRequired:
        assert response.status_code == 402, response.text
        return x402.decode_header(response.headers["payment-required"], x402.PaymentRequired, "PAYMENT-REQUIRED")

    @staticmethod
    def receipt(response: httpx.Response) -> x402.SettleResponse:
        return x402.decode_header(response.headers["payment-response"], x402.SettleResponse, "PAYMENT-RESPONSE")

    def deferred(
        self,
        offer: x402.PaymentRequirements,
        target: str,
        *,
        method: str = "GET",
        body: bytes = b"",
        payment_id: bytes = b"",
        ceiling: int = 1_000_000,
        max_amount: int | None = None,
        change: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> dict[str, str]:
        """The header that pays for a request."""
        payment_id = payment_id or payment_ids.new()
        bound_to = request_hash(method, target.encode(), body_digest(body))
        most = int(offer.amount) if max_amount is None else max_amount
        payment = x402.DeferredPayment(
            config=self.config,
            payment_id=payment_id,
            ceiling=ceiling,
            signature=bytes([1] * 64) + b"\x1b",
            spend=SpendProof(bytes(32), most, PROVER.mac(self.channel_id, payment_id, most, bound_to)),
            channel_id=self.channel_id,
        )
        payload = x402.deferred_payload(payment)
        change(payload)
        return self.header(offer, payload, x402.payment_identifier_extension(payment_id))

    def exact(self, offer: x402.PaymentRequirements, *, nonce: int = 0, value: int | None = None) -> dict[str, str]:
        number = nonce or next(self._nonces)
        authorization = x402.ExactAuthorization(
            from_=PAYER,
            to=SELLER,
            value=int(offer.amount) if value is None else value,
            valid_after=0,
            valid_before=2_000_000_000,
            nonce=number.to_bytes(32, "big"),
            signature=bytes([2] * 65),
        )
        return self.header(offer, x402.exact_payload(authorization), None)

    @staticmethod
    def header(
        offer: x402.PaymentRequirements, payload: dict[str, Any], extensions: dict[str, Any] | None
    ) -> dict[str, str]:
        message = x402.PaymentPayload(payload=payload, accepted=offer, extensions=extensions)
        return {"PAYMENT-SIGNATURE": x402.encode_header(message)}


@pytest.fixture
def buyer() -> Buyer:
    return Buyer()


@dataclass
class Shop:
    """An application behind a paywall, and what its handler was asked."""

    paywall: Paywall
    http: httpx.AsyncClient
    buyer: Buyer
    served: list[str] = field(default_factory=list)

    async def offer(self, target: str, scheme: str = "deferred", **request: Any) -> x402.PaymentRequirements:
        method = request.pop("method", "GET")
        return self.buyer.terms(await self.http.request(method, target, **request), scheme)

    async def buy(self, target: str, **payment: Any) -> httpx.Response:
        return await self.http.get(target, headers=self.buyer.deferred(await self.offer(target), target, **payment))

    async def buy_exact(self, target: str, **payment: Any) -> httpx.Response:
        offer = await self.offer(target, "exact")
        return await self.http.get(target, headers=self.buyer.exact(offer, **payment))


OpenShop = Callable[..., Shop]


@pytest.fixture
async def open_shop(aggregator: Aggregator, buyer: Buyer) -> AsyncIterator[OpenShop]:
    """Opens shops: `open_shop(handler, rules=..., **settings)`. A handler is an ASGI application."""
    clients: list[httpx.AsyncClient] = []
    shops: list[Shop] = []

    def open_(handler: Any = None, *, rules: Any = None, **settings: Any) -> Shop:
        async def app(scope: Message, receive: Any, send: Any) -> None:
            shops[index].served.append(scope["path"])
            await (handler or hello)(scope, receive, send)

        index = len(shops)
        settings.setdefault("aggregator", aggregator)
        settings.setdefault("settle_patience_s", 0.5)
        paywall = Paywall(
            app,
            pay_to="0x" + SELLER.hex(),
            rules=rules or [Rule(path="/articles/*", price="0.001 USDC")],
            **settings,
        )
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(paywall, raise_app_exceptions=False), base_url="http://shop.test"
        )
        clients.append(client)
        shops.append(Shop(paywall, client, buyer))
        return shops[index]

    yield open_
    for shop in shops:
        await shop.paywall._till.finish()
    for client in clients:
        await client.aclose()


async def hello(_scope: Message, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


@dataclass
class Exchange:
    """One ASGI request, driven by hand."""

    app: Any
    scope: Message
    incoming: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    sent: list[Message] = field(default_factory=list)
    on_send: Callable[[Message], None] = lambda _: None

    async def run(self) -> None:
        async def send(message: Message) -> None:
            self.on_send(message)
            self.sent.append(message)

        await self.app(self.scope, self.incoming.get, send)

    @property
    def status(self) -> int | None:
        return next((m["status"] for m in self.sent if m["type"] == "http.response.start"), None)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent if m["type"] == "http.response.body")


@pytest.fixture
def exchange() -> Callable[..., Exchange]:
    def make(app: Any, target: str, headers: dict[str, str], *, method: str = "GET", body: bytes = b"") -> Exchange:
        path, _, query = target.partition("?")
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "server": ("shop.test", 80),
        }
        made = Exchange(app, scope)
        made.incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        return made

    return make


@pytest.fixture
def refusal_of() -> Callable[..., common_pb2.Refusal]:
    return refusal


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Waits until a condition holds, for at most five seconds."""

    async def wait(condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - conditions of all kinds, none with an event
                await asyncio.sleep(0.002)

    return wait
