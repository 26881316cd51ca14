"""A fake aggregator behind real gRPC, and a fake seller that charges through it: as strict as the real ones where money
is concerned, and as unreliable as a test asks for.
"""

# ruff: noqa: N802 - gRPC names the methods

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import grpc
import grpc.aio
import httpx2
import uvicorn

from tallystick import eip712
from tallystick.amounts import decode_amount, encode_amount
from tallystick.channels import ChannelConfig, account_id, channel_id
from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick.requests import body_digest, normal_target, request_hash
from tallystick.signatures import recover
from tallystick.spend_keys import SpendProver, key_hash
from tallystick.tokens import Token
from tallystick.v1 import account_pb2 as pb
from tallystick.v1 import account_pb2_grpc, common_pb2
from tallystick.vouchers import UncheckedVoucher, check_voucher
from tallystick.x402 import (
    PAYMENT_IDENTIFIER,
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PAYMENT_SIGNATURE_HEADER,
    SCHEME_DEFERRED,
    SCHEME_EXACT,
    DeferredPayment,
    DeferredTerms,
    ExactTerms,
    Network,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    SettleResponse,
    bound_hash,
    decode_header,
    encode_header,
    pay_ahead_extension,
    payment_identifier_declaration,
    read_deferred,
    read_exact,
)
from tallystick_client import Operator
from tallystick_client.payer.policy.offers import Offer
from tallystick_client.payer.wallet.schemes.port import by_name
from tallystick_client.payer.wallet.schemes.standard import STANDARD_SCHEMES

CHAIN_ID: Final = 31_337
OPERATOR: Final = bytes([0x09] * 20)
ESCROW: Final = bytes([0xE5] * 20)
USDC: Final = bytes([0x70] * 20)
DELAY_S: Final = 86_400
PRICE: Final = 1_000
DOMAIN: Final = eip712.escrow_domain(CHAIN_ID, ESCROW)
TOKEN_DOMAIN: Final = eip712.Domain("USD Coin", "2", CHAIN_ID, USDC)


def make_operator(target: str) -> Operator:
    token = Token(USDC, "USDC", 6, "USD Coin", "2", min_deposit=100)
    return Operator(Network(CHAIN_ID), target, OPERATOR, ESCROW, DELAY_S, (token,), insecure=True)


class Paying:
    """What a wallet with this allow-list can pay with."""

    def __init__(self, *operators: Operator, has_deposit: bool = True, allows_exact: bool = True) -> None:
        self.operators = operators
        self.schemes = by_name(STANDARD_SCHEMES)
        self.allows_exact = allows_exact
        self.has_deposit = has_deposit

    def can_defer(self, operator: Operator, token: Token) -> bool:
        del operator, token
        return self.has_deposit

    def channel_lack(self, offer: Offer) -> str:
        del offer
        return "" if self.has_deposit else "there is no deposit with this seller"


class RefusalError(Exception):
    def __init__(self, reason: Reason, message: str = "no") -> None:
        self.reason = reason
        super().__init__(message)


@dataclass
class Key:
    secret: bytes
    cap: int
    expires_at: int
    spent: int = 0
    revoked: bool = False


@dataclass
class Channel:
    config: ChannelConfig
    ceiling: int = 0
    charged: int = 0
    reserved: int = 0
    used: set[int] = field(default_factory=set)
    payments: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)


@dataclass
class Account:
    config: ChannelConfig
    funds: int = 0
    keys: dict[bytes, Key] = field(default_factory=dict)
    channels: dict[bytes, Channel] = field(default_factory=dict)
    deposits: dict[bytes, int] = field(default_factory=dict)
    refunds: dict[bytes, int] = field(default_factory=dict)
    approved: dict[bytes, int] = field(default_factory=dict)

    @property
    def committed(self) -> int:
        return sum(channel.charged + channel.reserved for channel in self.channels.values())


class FakeAggregator(account_pb2_grpc.AccountServiceServicer):
    """Holds to the rules of a charge; `calls` counts what came, `lose_answers` makes calls take effect unheard, `hold`
    makes them wait.

    `held`: what channels of the standard's contract hold on chain, by their ids, as their payer is told. `salts`: of
    all deposits that came, refused ones too. `retention_s`: 0 is an aggregator that does not tell it. `balance`: what
    each payer holds; None is an aggregator of before GetBalance, whose payers hold enough. `landed`:
    the nonces of transfers on chain. `keys_max`: live spend keys of an account. `raises_caps`, `tells_nonces`: false
    for an older version.
    """

    def __init__(self) -> None:
        self.accounts: dict[bytes, Account] = {}
        self.calls: list[str] = []
        self.salts: set[bytes] = set()
        self.lose_answers: dict[str, int] = {}
        self.refuse: dict[str, Reason] = {}
        self.retry_after_s = 0
        self.hold: dict[str, asyncio.Event] = {}
        self.delay_s: float = 0
        self.retention_s = 172_800
        self.balance: int | None = 10**12
        self.landed: set[bytes] = set()
        self.payer = b""
        """Whose channels `held` has."""
        self.held: Callable[[], dict[bytes, int]] = dict
        self.keys_max = 1_024
        self.raises_caps = self.tells_nonces = True
        self.propose: Callable[[Account], list[tuple[bytes, int]]] = propose_charged
        self.target = ""
        self.clock: Callable[[], float] = time.time
        self._server: grpc.aio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = grpc.aio.server()
        account_pb2_grpc.add_AccountServiceServicer_to_server(self, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    @property
    def account(self) -> Account:
        """The only account."""
        (account,) = self.accounts.values()
        return account

    # What sellers ask.

    def charge(self, payment: DeferredPayment, amount: int, request: bytes) -> int:
        """What the payment was charged.

        Raises RefusalError. The same payment again is RefusalError(PAYMENT_ID_REUSED).
        """
        account, channel = self._channel(payment)
        if payment.payment_id in channel.payments:
            raise RefusalError(Reason.PAYMENT_ID_REUSED)
        self._prove(account, channel, payment, amount, request)
        ceiling = channel.ceiling
        if payment.ceiling > ceiling:
            check_voucher(
                DOMAIN,
                UncheckedVoucher(payment.channel_id, payment.ceiling, payment.signature),
                payment.config.payer_authorizer,
            )
            ceiling = payment.ceiling
        if channel.charged + channel.reserved + amount > ceiling:
            raise RefusalError(Reason.INSUFFICIENT_CEILING)
        if account.committed + amount > account.funds:
            raise RefusalError(Reason.INSUFFICIENT_FUNDS)
        channel.ceiling = ceiling
        channel.charged += amount
        channel.payments[payment.payment_id] = (amount, request)
        if payment.spend is None:
            channel.used.add(payment.ceiling)
        else:
            account.keys[payment.spend.key_id].spent += amount
        return amount

    def _channel(self, payment: DeferredPayment) -> tuple[Account, Channel]:
        assert payment.channel_id == channel_id(DOMAIN, payment.config)
        account = self.accounts.get(account_id(DOMAIN, payment.config))
        if account is None:
            raise RefusalError(Reason.ACCOUNT_UNKNOWN)
        return account, account.channels.setdefault(payment.channel_id, Channel(payment.config))

    def _prove(self, account: Account, channel: Channel, payment: DeferredPayment, amount: int, request: bytes) -> None:
        if payment.spend is None:
            if account.keys:
                raise RefusalError(Reason.SPEND_KEY_REQUIRED)
            voucher = UncheckedVoucher(payment.channel_id, payment.ceiling, payment.signature)
            check_voucher(DOMAIN, voucher, payment.config.payer_authorizer)
            if payment.ceiling in channel.used:
                raise RefusalError(Reason.VOUCHER_USED)
            return
        key = account.keys.get(payment.spend.key_id)
        if key is None:
            raise RefusalError(Reason.SPEND_KEY_UNKNOWN)
        if key.revoked:
            raise RefusalError(Reason.SPEND_KEY_REVOKED)
        if self.clock() >= key.expires_at:
            raise RefusalError(Reason.SPEND_KEY_EXPIRED)
        if not SpendProver(key.secret).check(
            payment.channel_id, payment.payment_id, payment.spend.max_amount, request, payment.spend.mac
        ):
            raise RefusalError(Reason.SPEND_KEY_PROOF)
        if amount > payment.spend.max_amount:
            raise RefusalError(Reason.AMOUNT_ABOVE_AGREED)
        if key.spent + amount > key.cap:
            raise RefusalError(Reason.SPEND_KEY_EXHAUSTED)

    # What payers ask.

    async def Deposit(self, request: pb.DepositRequest, context: Any) -> pb.DepositResponse:
        config = read_config(request.account)
        id_ = account_id(DOMAIN, config)
        amount = decode_amount(request.amount, "amount")
        struct_hash = eip712.hash_receive_with_authorization(
            config.payer,
            ESCROW,
            amount,
            request.valid_after,
            request.valid_before,
            eip712.deposit_nonce(id_, request.salt),
        )
        assert recover(eip712.digest(TOKEN_DOMAIN, struct_hash), request.signature) == config.payer
        self.salts.add(request.salt)
        refusal = await self._enter("Deposit")
        if refusal is not None:
            return pb.DepositResponse(refusal=refusal)
        account = self.accounts.get(id_, Account(config))
        if request.salt not in account.deposits:
            if self.balance is not None and amount > self.balance:
                return pb.DepositResponse(refusal=refuse(Reason.INSUFFICIENT_BALANCE))
            self.accounts[id_] = account
            account.deposits[request.salt] = amount
            account.funds += amount
            self._move(-amount)
        await self._leave("Deposit", context)
        return pb.DepositResponse(transaction=bytes(32))

    async def GetBalance(self, request: pb.GetBalanceRequest, context: Any) -> pb.GetBalanceResponse:
        if self.balance is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        config, authorization = read_config(request.account), request.authorization
        struct_hash = eip712.hash_read_account(account_id(DOMAIN, config), authorization.deadline)
        assert request.network == f"eip155:{CHAIN_ID}"
        assert recover(eip712.digest(DOMAIN, struct_hash), authorization.signature) == config.payer
        assert self.clock() <= authorization.deadline <= self.clock() + 300
        refusal = await self._enter("GetBalance")
        if refusal is not None:
            return pb.GetBalanceResponse(refusal=refusal)
        await self._leave("GetBalance", context)
        used = [nonce in self.landed for nonce in request.nonces] if self.tells_nonces else []
        return pb.GetBalanceResponse(
            balance=encode_amount(self.balance), nonces_used=used, nonces_at=int(self.clock()) if used else 0
        )

    def _move(self, amount: int) -> None:
        if self.balance is not None:
            self.balance += amount

    async def GetAccount(self, request: pb.GetAccountRequest, context: Any) -> pb.GetAccountResponse:
        account = self.accounts.get(request.account_id)
        deadline = request.authorization.deadline
        held = self.held()
        if request.account_id in held:
            return await self._tell_channel(request, held[request.account_id])
        self._check_call(request, eip712.hash_read_account(request.account_id, deadline))
        refusal = await self._enter("GetAccount")
        if refusal is not None or account is None:
            return pb.GetAccountResponse(refusal=refusal or refuse(Reason.ACCOUNT_UNKNOWN))
        await self._leave("GetAccount", context)
        later = sorted((id_, c) for id_, c in account.channels.items() if id_ > request.after_channel_id)
        page = later[:2]
        return pb.GetAccountResponse(
            account=common_pb2.AccountTotals(
                account_id=request.account_id,
                funds=encode_amount(account.funds),
                available=encode_amount(max(0, account.funds - account.committed)),
            ),
            channels=[write_totals(id_, channel) for id_, channel in page],
            more=len(later) > len(page),
            spend_keys=[
                pb.SpendKeyState(
                    key_id=id_,
                    cap=encode_amount(key.cap),
                    spent=encode_amount(key.spent),
                    expires_at=key.expires_at,
                    revoked=key.revoked,
                )
                for id_, key in account.keys.items()
            ],
            payment_id_retention_s=self.retention_s,
        )

    async def _tell_channel(self, request: pb.GetAccountRequest, held: int) -> pb.GetAccountResponse:
        struct_hash = eip712.hash_read_account(request.account_id, request.authorization.deadline)
        digest = eip712.digest(eip712.batch_settlement_domain(CHAIN_ID), struct_hash)
        assert recover(digest, request.authorization.signature) == self.payer
        refusal = await self._enter("GetAccount")
        if refusal is not None:
            return pb.GetAccountResponse(refusal=refusal)
        totals = common_pb2.AccountTotals(account_id=request.account_id, funds=encode_amount(held))
        return pb.GetAccountResponse(account=totals)

    async def RegisterSpendKey(self, request: pb.RegisterSpendKeyRequest, context: Any) -> pb.RegisterSpendKeyResponse:
        account = self.accounts[request.account_id]
        cap = decode_amount(request.cap, "cap")
        hashed = eip712.hash_register_spend_key(
            request.account_id,
            request.key_id,
            key_hash(request.secret),
            cap,
            request.expires_at,
            request.authorization.deadline,
        )
        self._check_call(request, hashed)
        refusal = await self._enter("RegisterSpendKey")
        if refusal is not None:
            return pb.RegisterSpendKeyResponse(refusal=refusal)
        known = account.keys.get(request.key_id)
        if known is not None and (known.revoked or not self.raises_caps):
            reason = Reason.SPEND_KEY_REVOKED if known.revoked else Reason.SPEND_KEY_CONFLICT
            return pb.RegisterSpendKeyResponse(refusal=refuse(reason))
        if known is not None:
            known.cap = max(known.cap, cap)
        elif sum(not key.revoked for key in account.keys.values()) >= self.keys_max:
            return pb.RegisterSpendKeyResponse(refusal=refuse(Reason.SPEND_KEY_LIMIT))
        else:
            account.keys[request.key_id] = Key(request.secret, cap, request.expires_at)
        await self._leave("RegisterSpendKey", context)
        return pb.RegisterSpendKeyResponse()

    async def RevokeSpendKey(self, request: pb.RevokeSpendKeyRequest, context: Any) -> pb.RevokeSpendKeyResponse:
        deadline = request.authorization.deadline
        self._check_call(request, eip712.hash_revoke_spend_key(request.account_id, request.key_id, deadline))
        refusal = await self._enter("RevokeSpendKey")
        account = self.accounts.get(request.account_id)
        key = account.keys.get(request.key_id) if account else None
        if refusal is not None or key is None:
            return pb.RevokeSpendKeyResponse(refusal=refusal or refuse(Reason.SPEND_KEY_UNKNOWN))
        key.revoked = True
        await self._leave("RevokeSpendKey", context)
        return pb.RevokeSpendKeyResponse()

    async def RequestRefund(self, request: pb.RequestRefundRequest, context: Any) -> pb.RequestRefundResponse:
        amount = decode_amount(request.amount, "amount")
        deadline = request.authorization.deadline
        hashed = eip712.hash_request_refund(request.account_id, request.refund_id, amount, deadline)
        self._check_call(request, hashed)
        refusal = await self._enter("RequestRefund")
        account = self.accounts[request.account_id]
        if refusal is None and request.refund_id not in account.refunds:
            available = account.funds - account.committed
            amount = amount or available
            if amount == 0 or amount > available:
                refusal = refuse(Reason.REFUND_EXCEEDS_AVAILABLE)
            else:
                account.refunds[request.refund_id] = amount
                account.funds -= amount
                self._move(amount)
        if refusal is not None:
            return pb.RequestRefundResponse(refusal=refusal)
        await self._leave("RequestRefund", context)
        returned = account.refunds[request.refund_id]
        return pb.RequestRefundResponse(transaction=bytes([1] * 32), amount=encode_amount(returned))

    async def GetTotalsToApprove(
        self, request: pb.GetTotalsToApproveRequest, context: Any
    ) -> pb.GetTotalsToApproveResponse:
        deadline = request.authorization.deadline
        self._check_call(request, eip712.hash_read_account(request.account_id, deadline))
        await self._enter("GetTotalsToApprove")
        await self._leave("GetTotalsToApprove", context)
        totals = self.propose(self.accounts[request.account_id])
        return pb.GetTotalsToApproveResponse(
            totals=[pb.ReceiverTotal(receiver=receiver, total=encode_amount(total)) for receiver, total in totals]
        )

    async def ApproveTotals(self, request: pb.ApproveTotalsRequest, context: Any) -> pb.ApproveTotalsResponse:
        account = self.accounts[request.account_id]
        totals = [(total.receiver, decode_amount(total.total, "total")) for total in request.totals]
        digest = eip712.digest(DOMAIN, eip712.hash_totals_approval(request.account_id, totals))
        assert recover(digest, request.signature) == account.config.payer
        await self._enter("ApproveTotals")
        account.approved = dict(totals)
        await self._leave("ApproveTotals", context)
        return pb.ApproveTotalsResponse()

    async def _enter(self, name: str) -> common_pb2.Refusal | None:
        self.calls.append(name)
        await asyncio.sleep(self.delay_s)
        if name in self.hold:
            await self.hold[name].wait()
        reason = self.refuse.get(name)
        return refuse(reason, self.retry_after_s) if reason is not None else None

    async def _leave(self, name: str, context: Any) -> None:
        if self.lose_answers.get(name, 0):
            self.lose_answers[name] -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")

    def _check_call(self, request: Any, struct_hash: bytes) -> None:
        authorization = request.authorization
        account = self.accounts.get(request.account_id)
        signer = recover(eip712.digest(DOMAIN, struct_hash), authorization.signature)
        assert account is None or signer == account.config.payer
        assert self.clock() <= authorization.deadline <= self.clock() + 300


class Steps:
    """Counts what the wallet does inside the `with`, in steps of the interpreter: the same on a slow machine."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if "tallystick_client/payer/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        self.count += event == "opcode"
        return self._trace


def propose_charged(account: Account) -> list[tuple[bytes, int]]:
    return [(channel.config.receiver, channel.charged) for channel in account.channels.values()]


def refuse(reason: Reason, retry_after_s: int = 0) -> common_pb2.Refusal:
    number: Any = int(reason)
    return common_pb2.Refusal(reason=number, retry=reason.retry, message="no", retry_after_s=retry_after_s)


def read_config(config: common_pb2.ChannelConfig) -> ChannelConfig:
    return ChannelConfig(
        config.payer,
        config.payer_authorizer,
        config.receiver or bytes(20),
        config.receiver_authorizer,
        config.token,
        config.withdraw_delay_s,
        config.salt,
    )


def write_totals(id_: bytes, channel: Channel) -> common_pb2.ChannelTotals:
    return common_pb2.ChannelTotals(
        channel_id=id_,
        receiver=channel.config.receiver,
        ceiling=encode_amount(channel.ceiling),
        charged=encode_amount(channel.charged),
        reserved=encode_amount(channel.reserved),
    )


Fault = Callable[[httpx2.Request], httpx2.Response | None]
"""What a seller does instead of answering: raises, or returns another answer; None: nothing."""


@dataclass
class FakeSeller(httpx2.AsyncBaseTransport):
    """Any number of sites behind one transport: each host has a receiver of its own, each path a price."""

    aggregator: FakeAggregator
    operator: Operator
    prices: dict[str, int] = field(default_factory=dict)
    price: int = PRICE
    schemes: tuple[str, ...] = (SCHEME_DEFERRED, SCHEME_EXACT)
    before: list[Fault] = field(default_factory=list)
    """Faults before the payment is charged, one a paid request."""
    after: list[Fault] = field(default_factory=list)
    """Faults after it."""
    delay_s: float = 0
    requests: list[httpx2.Request] = field(default_factory=list)
    exact: list[Any] = field(default_factory=list)
    served: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    charge_less: int = 0
    is_blinding: bool = True
    """Whether it takes blinded payments, and says so."""
    pattern: str = "/*"
    """Where it publishes that the price holds; empty: nowhere."""
    others: dict[str, Callable[[httpx2.Request], httpx2.Response]] = field(default_factory=dict)
    """Who else answers, by the path's beginning."""

    def receiver(self, host: str) -> bytes:
        return eip712.keccak256(host.encode())[:20]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            other = next((self.others[front] for front in self.others if request.url.path.startswith(front)), None)
            return await self._answer(request) if other is None else other(request)
        finally:
            self.in_flight -= 1

    @property
    def paid_requests(self) -> list[httpx2.Request]:
        return [request for request in self.requests if PAYMENT_SIGNATURE_HEADER in request.headers]

    def price_of(self, request: httpx2.Request) -> int:
        return self.prices.get(request.url.path, self.price)

    def required(self, request: httpx2.Request, error: str = "payment required") -> PaymentRequired:
        host = request.url.netloc.decode()
        return PaymentRequired(
            error=error,
            accepts=[self.offer(scheme, host, self.price_of(request)) for scheme in self.schemes],
            extensions={PAYMENT_IDENTIFIER: payment_identifier_declaration()}
            | (pay_ahead_extension(self.pattern, None) if self.pattern else {}),
        )

    def offer(self, scheme: str, host: str, amount: int) -> PaymentRequirements:
        operator, token = self.operator, self.operator.tokens[0]
        deferred = DeferredTerms(
            operator.escrow,
            operator.operator,
            operator.withdraw_delay_s,
            "Tallystick Escrow",
            "1",
            blinding=self.is_blinding,
        )
        return PaymentRequirements(
            scheme=scheme,
            network=str(operator.network),
            amount=str(amount),
            asset=checksum(token.address),
            pay_to=checksum(self.receiver(host)),
            max_timeout_seconds=60,
            extra=deferred.extra() if scheme == SCHEME_DEFERRED else ExactTerms(token.name, token.version).extra(),
        )

    def ask(self, request: httpx2.Request, error: str = "payment required") -> httpx2.Response:
        header = encode_header(self.required(request, error))
        return httpx2.Response(402, headers={PAYMENT_REQUIRED_HEADER: header}, json={})

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        body = b"".join([chunk async for chunk in request.stream])  # type: ignore[union-attr]
        price = self.price_of(request)
        if not price:
            return httpx2.Response(200, text="free")
        header = request.headers.get(PAYMENT_SIGNATURE_HEADER)
        if header is None:
            return self.ask(request)
        fault = self.before.pop(0)(request) if self.before else None
        if fault is not None:
            return fault
        message = decode_header(header, PaymentPayload, PAYMENT_SIGNATURE_HEADER)
        if message.accepted.scheme == SCHEME_EXACT:
            return self._sell_exact(message)
        if int(message.accepted.amount) < price or message.accepted.pay_to != checksum(
            self.receiver(request.url.netloc.decode())
        ):
            return self.ask(request, "amount_mismatch: no")
        return self._sell_deferred(request, message, price - self.charge_less, body)

    def _sell_deferred(
        self, request: httpx2.Request, message: PaymentPayload, price: int, body: bytes
    ) -> httpx2.Response:
        payment = read_deferred(message)
        digest = b"" if "transfer-encoding" in request.headers else body_digest(body)
        try:
            target = normal_target(request.url.raw_path)
            bound = bound_hash(payment, request_hash(request.method, target, digest))
            charged = self.aggregator.charge(payment, price, bound)
        except RefusalError as refusal:
            if refusal.reason is Reason.PAYMENT_ID_REUSED:
                return httpx2.Response(409, json={"error": "payment_replayed"})
            return self.ask(request, f"{refusal.reason.code}: no")
        self.served += 1
        fault = self.after.pop(0)(request) if self.after else None
        return fault or httpx2.Response(200, headers={PAYMENT_RESPONSE_HEADER: receipt(charged)}, text="page")

    def _sell_exact(self, message: PaymentPayload) -> httpx2.Response:
        authorization = read_exact(message)
        struct_hash = eip712.hash_transfer_with_authorization(
            authorization.from_,
            authorization.to,
            authorization.value,
            authorization.valid_after,
            authorization.valid_before,
            authorization.nonce,
        )
        assert recover(eip712.digest(TOKEN_DOMAIN, struct_hash), authorization.signature) == authorization.from_
        assert authorization.valid_after < time.time() < authorization.valid_before
        self.exact.append(authorization)
        self.aggregator.landed.add(authorization.nonce)
        self.served += 1
        settled = SettleResponse(success=True, transaction="0x" + "ab" * 32, network=message.accepted.network)
        return httpx2.Response(200, headers={PAYMENT_RESPONSE_HEADER: encode_header(settled)}, text="page")


def receipt(charged: int) -> str:
    settled = SettleResponse(
        success=True, transaction="", network=f"eip155:{CHAIN_ID}", extra={"chargedAmount": str(charged)}
    )
    return encode_header(settled)


async def no_sleep(_seconds: float) -> None:
    """For those who would wait: others get their turn, no time passes."""
    await asyncio.sleep(0)


async def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - whatever a test looks at has no event
            await asyncio.sleep(0.002)


class _Site:
    """A seller as an ASGI application."""

    def __init__(self, seller: FakeSeller) -> None:
        self._seller = seller

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = dict(scope["headers"])
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        url = f"http://{headers[b'host'].decode()}{(scope['raw_path'] + query).decode()}"
        request = httpx2.Request(scope["method"], url, headers=scope["headers"], content=body)
        response = await self._seller.handle_async_request(request)
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.headers.raw})
        await send({"type": "http.response.body", "body": await response.aread()})


@asynccontextmanager
async def served(seller: FakeSeller) -> AsyncIterator[int]:
    """The seller on a port of its own, over HTTP."""
    server = uvicorn.Server(uvicorn.Config(_Site(seller), port=0, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


def write_operator_file(operator: Operator, path: Path) -> None:
    """The file that `Operator.load` reads."""
    tokens = [
        {
            "token": checksum(token.address),
            "symbol": token.symbol,
            "decimals": token.decimals,
            "name": token.name,
            "version": token.version,
            "min_deposit": str(token.min_deposit),
        }
        for token in operator.tokens
    ]
    fields = {
        "network": str(operator.network),
        "aggregator": operator.aggregator,
        "insecure": operator.insecure,
        "ca_file": operator.ca_file,
        "operator": checksum(operator.operator),
        "escrow": checksum(operator.escrow),
        "withdraw_delay_s": operator.withdraw_delay_s,
        "tokens": tokens,
    }
    path.write_text(json.dumps(fields))
