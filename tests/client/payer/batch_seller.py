"""A seller by `batch-settlement` behind a transport: as strict as the standard, and as rogue as a test asks for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
from payer_fakes import CHAIN_ID, DELAY_S, OPERATOR, PRICE, TOKEN_DOMAIN, USDC, FakeAggregator

from batch_facilitator import BatchFacilitator
from tallystick import eip712
from tallystick.eip712 import Domain
from tallystick.errors import RefusedError
from tallystick.facilitator import Settled
from tallystick.hexadecimal import checksum
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PAYMENT_SIGNATURE_HEADER,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    SettleResponse,
    decode_header,
    encode_header,
    pay_ahead_extension,
    read_terms,
)
from tallystick.x402.batch_settlement import DepositPayload
from tallystick.x402.terms import BatchSettlementTerms
from tallystick_client import Budgets, DepositPolicy, PayingTransport, Wallet

SCHEME = "batch-settlement"
Fault = Callable[[httpx2.Request, httpx2.Response], httpx2.Response]
"""What a seller does with an answer to a payment: raises, returns another one, or lets it be."""


@dataclass
class BatchSeller(httpx2.AsyncBaseTransport):
    """Each host has a receiver of its own, each path a price. `keeps`: the same payment gets its answer again.

    `faults` are used up, one a paid request; `lie` changes what every corrective 402 says. `terms` are the offers'.
    """

    price: int = PRICE
    prices: dict[str, int] = field(default_factory=dict)
    keeps: bool = True
    charge_less: int = 0
    terms: BatchSettlementTerms = field(
        default_factory=lambda: BatchSettlementTerms(
            OPERATOR, DELAY_S, "USD Coin", "2", min_deposit=50_000, voucher_manager="facilitator"
        )
    )
    token: bytes = USDC
    token_domain: Domain = TOKEN_DOMAIN
    land: Callable[[DepositPayload], None] = lambda _: None
    """Has a deposit landed on another chain than the seller's own."""
    more_offers: list[PaymentRequirements] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    before: list[Callable[[], None]] = field(default_factory=list)
    """What happens before a payment is looked at, one a paid request."""
    lie: Callable[[dict[str, Any]], dict[str, Any]] = lambda extra: extra
    delay: Callable[[], Any] | None = None
    pattern: str = ""
    served: list[str] = field(default_factory=list)
    payments: list[PaymentPayload] = field(default_factory=list)
    in_flight_max: int = 0
    kept: dict[tuple[str, str], httpx2.Response] = field(default_factory=dict)
    _in_flight: int = 0

    def __post_init__(self) -> None:
        self.facilitator = BatchFacilitator(CHAIN_ID, self.terms.receiver_authorizer, self.token_domain, DELAY_S)
        self.facilitator.on_land = self.land

    @property
    def is_busy(self) -> bool:
        return self._in_flight > 0

    @property
    def ceilings(self) -> list[int]:
        """Of all vouchers that came, in their order."""
        return [int(payment.payload["voucher"]["maxClaimableAmount"]) for payment in self.payments]

    @property
    def kinds(self) -> list[str]:
        return [payment.payload["type"] for payment in self.payments]

    def receiver(self, host: str) -> bytes:
        return eip712.keccak256(host.encode())[:20]

    def offer(self, request: httpx2.Request) -> PaymentRequirements:
        return PaymentRequirements(
            scheme=SCHEME,
            network=f"eip155:{CHAIN_ID}",
            amount=str(self.prices.get(request.url.path, self.price)),
            asset=checksum(self.token),
            pay_to=checksum(self.receiver(request.url.netloc.decode())),
            max_timeout_seconds=60,
            extra=self.terms.extra(),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        header = request.headers.get(PAYMENT_SIGNATURE_HEADER)
        if header is None:
            return self.ask(request, "PAYMENT-SIGNATURE header is required")
        self._in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self._in_flight)
        try:
            if self.delay is not None:
                await self.delay()
            await asyncio.sleep(0)
            if self.before:
                self.before.pop(0)()
            message = decode_header(header, PaymentPayload, PAYMENT_SIGNATURE_HEADER)
            self.payments.append(message)
            response = self._sell(request, header, message)
            return self.faults.pop(0)(request, response) if self.faults else response
        finally:
            self._in_flight -= 1

    def ask(self, request: httpx2.Request, error: str, extra: dict[str, Any] | None = None) -> httpx2.Response:
        offer = self.offer(request)
        offer = PaymentRequirements(
            **{name: getattr(offer, name) for name in offer.__struct_fields__ if name != "extra"},
            extra=offer.extra | (extra or {}),
        )
        extensions = pay_ahead_extension(self.pattern, None) if self.pattern else None
        required = PaymentRequired(error=error, accepts=[*self.more_offers, offer], extensions=extensions)
        return httpx2.Response(402, headers={PAYMENT_REQUIRED_HEADER: encode_header(required)}, json={})

    def _sell(self, request: httpx2.Request, header: str, message: PaymentPayload) -> httpx2.Response:
        kept = self.kept.get((str(request.url), header))
        if kept is not None and self.keeps:
            return kept
        offer = self.offer(request)
        if message.accepted.scheme != SCHEME:
            return self.ask(request, "no")
        if message.accepted.amount != offer.amount:
            return self.ask(request, "amount_mismatch: no")
        terms = read_terms(offer)
        try:
            verified = self.facilitator.verify(message, terms)
            payload = {**message.payload, "pendingId": verified.extra["pendingId"]}
            held = PaymentPayload(payload=payload, accepted=message.accepted)
            is_refund = message.payload["type"] == "refund"
            settled = self.facilitator.settle(held, replace(terms, amount=terms.amount - self.charge_less))
        except RefusedError as refused:
            return self.ask(request, refused.code or refused.reason.code, self.lie(dict(refused.extra)))
        if not is_refund:
            self.served.append(request.url.path)
        response = httpx2.Response(200, headers={PAYMENT_RESPONSE_HEADER: receipt(settled)}, text="page")
        self.kept[str(request.url), header] = response
        return response


def receipt(settled: Settled, **changes: Any) -> str:
    """What a paywall says of a settlement."""
    amount = str(settled.amount) if settled.transaction else ""
    said = SettleResponse(
        success=True,
        transaction="0x" + settled.transaction.hex() if settled.transaction else "",
        network=f"eip155:{CHAIN_ID}",
        amount=amount,
        extra={**settled.extra, **changes},
    )
    return encode_header(said)


def lost(_request: httpx2.Request, _response: httpx2.Response) -> httpx2.Response:
    """The answer is lost on its way."""
    raise httpx2.ReadError("the connection broke")


@dataclass
class BatchBuyer:
    """Pays a seller from a wallet."""

    wallet: Wallet
    seller: BatchSeller
    transport: PayingTransport

    async def get(self, path: str = "/1", host: str = "a.example") -> httpx2.Response:
        return await self.transport.handle_async_request(httpx2.Request("GET", f"https://{host}{path}"))

    @property
    def channel(self) -> Any:
        (channel,) = self.wallet._book.seller_channels.values()
        return channel


DEFAULTS: dict[str, Any] = {"deposit": DepositPolicy(low=0, high="0.2"), "budgets": Budgets()}


def tell_held(aggregator: FakeAggregator, seller: BatchSeller, payer: bytes) -> None:
    """Have the aggregator tell what this payer's channels hold on the seller's chain."""
    aggregator.payer = payer
    aggregator.held = lambda: {id_: channel.balance for id_, channel in seller.facilitator.channels.items()}
