"""A buyer that pays 402s, a shop behind a paywall, and a way to call ASGI applications message by message."""

import asyncio
import itertools
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
from seller_fakes import ESCROW, OPERATOR, PAYER, PROVER, SELLER, TOKEN, FakeAggregator

from tallystick import payment_ids, x402
from tallystick.channels import ChannelConfig, channel_id
from tallystick.codec.facilitator import read_supported
from tallystick.eip712 import escrow_domain
from tallystick.errors import RefusedError
from tallystick.facilitator import Supported, Verified
from tallystick.reasons import Reason
from tallystick.requests import blinded_hash, body_digest, normal_target, request_hash
from tallystick.spend_keys import SpendProof
from tallystick.v1 import facilitator_pb2
from tallystick_client import Aggregator, Paywall

DOMAIN = escrow_domain(31337, ESCROW)

Message = MutableMapping[str, Any]


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
    def terms(response: httpx2.Response, scheme: str) -> x402.PaymentRequirements:
        required = Buyer.required(response)
        return next(offer for offer in required.accepts if offer.scheme == scheme)

    @staticmethod
    def required(response: httpx2.Response) -> x402.PaymentRequired:
        assert response.status_code == 402, response.text
        return x402.decode_header(response.headers["payment-required"], x402.PaymentRequired, "PAYMENT-REQUIRED")

    @staticmethod
    def receipt(response: httpx2.Response) -> x402.SettleResponse:
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
        blind: bytes = b"",
        names_request: bool = False,
        change: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> dict[str, str]:
        """The header that pays for a request."""
        payment_id = payment_id or payment_ids.new()
        bound_to = request_hash(method, normal_target(target.encode()), body_digest(body))
        if blind:
            bound_to = blinded_hash(bound_to, blind)
        most = int(offer.amount) if max_amount is None else max_amount
        payment = x402.DeferredPayment(
            config=self.config,
            payment_id=payment_id,
            ceiling=ceiling,
            signature=bytes([1] * 64) + b"\x1b",
            spend=SpendProof(bytes(32), most, PROVER.mac(self.channel_id, payment_id, most, bound_to)),
            channel_id=self.channel_id,
            request_hash=bound_to if names_request else b"",
            blind=blind,
        )
        payload = x402.deferred_payload(payment)
        change(payload)
        return self.header(offer, payload, x402.payment_identifier_extension(payment_id))

    def exact(
        self, offer: x402.PaymentRequirements, *, nonce: int = 0, value: int | None = None, identifier: str = ""
    ) -> dict[str, str]:
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
        named = {"payment-identifier": {"info": {"required": False, "id": identifier}}} if identifier else None
        return self.header(offer, x402.exact_payload(authorization), named)

    @staticmethod
    def header(
        offer: x402.PaymentRequirements, payload: dict[str, Any], extensions: dict[str, Any] | None
    ) -> dict[str, str]:
        message = x402.PaymentPayload(payload=payload, accepted=offer, extensions=extensions)
        return {"PAYMENT-SIGNATURE": x402.encode_header(message)}


class Unmoved(Aggregator):
    """An aggregator that refuses every payment that reaches it; without a connection, so that thousands are quick."""

    def __init__(self, supported: Supported) -> None:
        super().__init__("127.0.0.1:1", token="t")
        self._known = supported

    async def supported(self) -> Supported:
        return self._known

    async def verify(self, terms: Any, payment: Any, attempt: Any = None) -> Verified:  # noqa: ARG002
        raise RefusedError(Reason.SPEND_KEY_PROOF, "No.")


def supported_by(fake: FakeAggregator) -> Supported:
    """What a fake aggregator supports, as the seller's client reads it."""
    return read_supported(facilitator_pb2.SupportedResponse(kinds=fake.kinds, limits=fake.limits))


@dataclass
class Shop:
    """An application behind a paywall, and what its handler was asked."""

    paywall: Paywall
    http: httpx2.AsyncClient
    buyer: Buyer
    served: list[str] = field(default_factory=list)

    async def offer(self, target: str, scheme: str = "deferred", **request: Any) -> x402.PaymentRequirements:
        method = request.pop("method", "GET")
        return self.buyer.terms(await self.http.request(method, target, **request), scheme)

    async def buy(self, target: str, **payment: Any) -> httpx2.Response:
        return await self.http.get(target, headers=self.buyer.deferred(await self.offer(target), target, **payment))

    async def buy_exact(self, target: str, **payment: Any) -> httpx2.Response:
        offer = await self.offer(target, "exact")
        return await self.http.get(target, headers=self.buyer.exact(offer, **payment))


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
