"""Those who lie: a seller behind real HTTP, an aggregator behind real gRPC, and a worker of a served wallet.

What they take is taken by the rules of the aggregator: it refuses what is not proven. What they say is another matter.
"""

# ruff: noqa: N802 - gRPC names the methods

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from payer_fakes import PRICE, FakeAggregator, FakeSeller, Key, RefusalError, receipt, served

from tallystick.amounts import encode_amount
from tallystick.requests import body_digest, normal_target, request_hash
from tallystick.v1 import account_pb2 as pb
from tallystick.v1 import wallet_pb2
from tallystick.x402 import (
    PAYMENT_RESPONSE_HEADER,
    DeferredPayment,
    PaymentPayload,
    SettleResponse,
    encode_header,
    read_deferred,
)
from tallystick_client.payer.fleet.remote import RemoteWallet

Lie = Callable[["LyingSeller", httpx2.Request], httpx2.Response]

_FAILED: Final = SettleResponse(
    success=False, error_reason="insufficient_funds", error_message="no", transaction="", network="eip155:31337"
)


def says_402(seller: "LyingSeller", request: httpx2.Request) -> httpx2.Response:
    """402, as if nothing had been taken."""
    return seller.ask(request, "overloaded: come again")


def says_no_ceiling(seller: "LyingSeller", request: httpx2.Request) -> httpx2.Response:
    """402 for a reason after which wallets compare their books."""
    return seller.ask(request, "insufficient_ceiling: no")


def says_nothing_charged(_seller: "LyingSeller", _request: httpx2.Request) -> httpx2.Response:
    """A page with a receipt of nothing."""
    return httpx2.Response(200, headers={PAYMENT_RESPONSE_HEADER: receipt(0)}, text="page")


def says_less(_seller: "LyingSeller", _request: httpx2.Request) -> httpx2.Response:
    """A page with a receipt of too little."""
    return httpx2.Response(200, headers={PAYMENT_RESPONSE_HEADER: receipt(1)}, text="page")


def says_failed(_seller: "LyingSeller", _request: httpx2.Request) -> httpx2.Response:
    """A receipt of a failure."""
    return httpx2.Response(500, headers={PAYMENT_RESPONSE_HEADER: encode_header(_FAILED)})


def says_key_unknown(seller: "LyingSeller", request: httpx2.Request) -> httpx2.Response:
    """402 for a reason after which wallets register another spend key."""
    return seller.ask(request, "spend_key_unknown: no")


LIES_ABOUT_CHARGES: Final = (says_402, says_no_ceiling, says_nothing_charged, says_less, says_failed, says_key_unknown)


@dataclass
class LyingSeller(FakeSeller):
    """Charges a payment if it can, at once or later (`hoards`), and says what its `lie` says."""

    lie: Lie = says_402
    hoards: bool = False
    hoard: list[tuple[DeferredPayment, int, bytes]] = field(default_factory=list)

    def _sell_deferred(
        self, request: httpx2.Request, message: PaymentPayload, price: int, body: bytes
    ) -> httpx2.Response:
        payment = read_deferred(message)
        hashed = request_hash(request.method, normal_target(request.url.raw_path), body_digest(body))
        self.hoard.append((payment, price, hashed))
        if not self.hoards:
            self.take_all()
        return self.lie(self, request)

    def take_all(self) -> None:
        """Charge all that can be charged of what was ever presented."""
        for payment, price, hashed in self.hoard:
            try:
                self.aggregator.charge(payment, price, hashed)
            except RefusalError:
                continue
        if not self.hoards:
            self.hoard.clear()


class LyingAggregator(FakeAggregator):
    """Keeps true books, by which it charges, and tells what it likes.

    `hides_charges`: totals and keys are told as if nothing had been charged. `forgets_keys`: it tells of no spend key.
    `keeps_keys`: it says that keys are revoked, and goes on charging under them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hides_charges = self.forgets_keys = self.keeps_keys = False

    async def GetAccount(self, request: pb.GetAccountRequest, context: Any) -> pb.GetAccountResponse:
        response = await super().GetAccount(request, context)
        if self.forgets_keys:
            del response.spend_keys[:]
        if self.hides_charges:
            for totals in response.channels:
                totals.charged = totals.reserved = encode_amount(0)
        return response

    async def RevokeSpendKey(self, request: pb.RevokeSpendKeyRequest, context: Any) -> pb.RevokeSpendKeyResponse:
        response = await super().RevokeSpendKey(request, context)
        if self.keeps_keys:
            self._key(request).revoked = False
        return response

    def _key(self, request: pb.RevokeSpendKeyRequest) -> Key:
        return self.accounts[request.account_id].keys[request.key_id]


class RogueWorker:
    """A worker that keeps all it gets, and reports it as returned."""

    def __init__(self, wallet: RemoteWallet) -> None:
        self._wallet = wallet
        self.proofs: list[DeferredPayment] = []

    async def take(self, pay: Callable[[RemoteWallet], Any], count: int) -> None:
        """Get so many payments' worth, and say that none of it was spent."""
        for _ in range(count):
            payment = await pay(self._wallet)
            self.proofs.append(payment.proof)
            payment.release()

    async def say_returned(self, *, is_leaving: bool = False) -> None:
        """Report everything as returned, the keys and vouchers in its pocket."""
        wallet = self._wallet
        reports: list[wallet_pb2.GrantReport] = []
        for line in wallet.grants._lines.values():
            if line.held is not None:
                wallet.grants._leave(line)
        for held in wallet.grants._leaving:
            held.take_back()
            reports.append(held.report(is_final=True))
        wallet.grants._leaving.clear()
        request = wallet_pb2.ReportRequest(worker_id=wallet.worker_id, reports=reports, is_leaving=is_leaving)
        await wallet._stub.Report(request, metadata=wallet._metadata)

    def spend(self, aggregator: FakeAggregator, request: bytes) -> int:
        """Have everything charged that the aggregator takes; how many payments that were."""
        taken = 0
        for proof in self.proofs:
            try:
                taken += bool(aggregator.charge(proof, PRICE, request))
            except RefusalError:
                continue
        return taken


class ToServer(httpx2.AsyncHTTPTransport):
    """Connects to one server, whatever the host of the URL is."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url.copy_with(host="127.0.0.1", port=self._port)
        sent = httpx2.Request(
            request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
        )
        return await super().handle_async_request(sent)


@asynccontextmanager
async def serving(seller: FakeSeller) -> AsyncIterator[ToServer]:
    """Serve a seller over HTTP; gives the transport that reaches it under every host."""
    async with served(seller) as port:
        yield ToServer(port)
