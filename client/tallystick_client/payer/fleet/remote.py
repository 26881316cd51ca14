"""A wallet that another process serves, in the hands of one worker. A transport uses it like a wallet of its own.

    wallet = await Wallet.connect("unix:/run/wallet.sock", token="env:WALLET_TOKEN")
    async with wallet, httpx2.AsyncClient(transport=PayingTransport(wallet)) as http: ...

The worker asks for grants, spends them by itself, and reports about once a second what became of them. Grants go on
being spent while the wallet is away; if it has taken this worker for dead meanwhile, the worker learns so and asks for
new ones. Nothing is ever spent that the wallet does not count.
"""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import grpc.aio

from tallystick.amounts import decode_amount, encode_amount
from tallystick.channels import channel_id
from tallystick.codec.common import read_channel
from tallystick.codec.facilitator import read_exact
from tallystick.errors import TallystickError
from tallystick.quantities import PaymentId
from tallystick.reasons import Reason
from tallystick.spend_keys import SpendKey
from tallystick.tokens import Token
from tallystick.v1 import wallet_pb2 as pb
from tallystick.v1 import wallet_pb2_grpc
from tallystick.vouchers import UncheckedVoucher, check_voucher
from tallystick.x402 import ExactAuthorization
from tallystick_client.payer.errors import BudgetExceededError, WalletError
from tallystick_client.payer.fleet import codec
from tallystick_client.payer.policy.offers import Offer, Offered, Seller, choose
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.retries import retried
from tallystick_client.payer.wallet.grant_queue import GrantQueue
from tallystick_client.payer.wallet.grants import Clock, Payment, SpendKeyGrant
from tallystick_client.payer.wallet.schemes.port import Scheme, by_name
from tallystick_client.payer.wallet.schemes.standard import STANDARD_SCHEMES
from tallystick_client.rpc import (
    CHAIN_TIMEOUT_S,
    Method,
    RequestT,
    ResponseT,
    bearer,
    call,
    open_channel,
    read_token,
)

RETRY_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Between attempts while the wallet does not answer; it may be starting again."""
IDLE_S: Final = 30.0
"""After so long without a payment a seller's headroom goes back."""

_log = logging.getLogger("tallystick.payer")


@dataclass(slots=True, eq=False)
class _Held:
    """A grant, and what of its headroom was given back so far."""

    grant: SpendKeyGrant
    seller: Seller
    returned: int = 0
    told: pb.GrantReport | None = None
    """The last report that the wallet is known to have."""
    payments_seen: int = 0
    idle_since: float = 0.0

    def take_back(self) -> None:
        self.returned += self.grant.take_back()

    def report(self, *, is_final: bool = False) -> pb.GrantReport:
        """Its totals; final only once nothing of it is under way."""
        totals = self.grant.totals
        return pb.GrantReport(
            grant_id=self.grant.id,
            charged=encode_amount(totals.charged),
            unknown=encode_amount(totals.unknown + (self.grant.in_flight if is_final else 0)),
            returned=encode_amount(self.returned),
            is_final=is_final,
        )


class _RemoteQueue(GrantQueue):
    def __init__(self, wallet: "RemoteWallet", seller: Seller, max_headroom: int) -> None:
        super().__init__(max_headroom)
        self.seller = seller
        self.held: _Held | None = None
        self._wallet = wallet

    async def extend(self, need: int, want: int) -> None:
        await self._wallet.extend(self, need, want)

    def hold(self, held: _Held | None) -> None:
        """Pay from this grant from now on."""
        self.held = held
        self.grant = held.grant if held is not None else None


class RemoteWallet:
    """See the module. Made by `connect`; closed by `close` or as an async context manager."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        stub: "wallet_pb2_grpc.WalletServiceAsyncStub",
        token: str,
        terms: codec.WalletTerms,
        schemes: Sequence[Scheme],
        retry_pauses_s: tuple[float, ...],
        clock: Clock,
    ) -> None:
        """Use `connect`."""
        self.address = terms.payer
        self.operators = terms.operators
        self.schemes = by_name(schemes)
        self.allows_exact = terms.allows_exact
        self.worker_id = os.urandom(16)
        self._channel = channel
        self._stub = stub
        self._metadata = bearer(token)
        self._terms = terms
        self._retry_pauses_s = retry_pauses_s
        self._clock = clock
        self._lines: dict[Seller, _RemoteQueue] = {}
        self._leaving: list[_Held] = []
        self._transferred: list[bytes] = []
        self._reporting = asyncio.Lock()
        self._report_soon = asyncio.Event()
        self._chores = asyncio.create_task(self._report_for_ever())

    @classmethod
    async def connect(
        cls,
        target: str,
        *,
        token: str,
        insecure: bool = False,
        root_certificates: bytes | None = None,
        certificate_chain: bytes | None = None,
        private_key: bytes | None = None,
        schemes: Sequence[Scheme] = STANDARD_SCHEMES,
        retry_pauses_s: tuple[float, ...] = RETRY_PAUSES_S,
        clock: Clock = time.time,
    ) -> Self:
        """Connect to a wallet at host:port or unix:path.

        `token`: "env:NAME", "file:PATH", or the token itself. TLS unless the target is this machine or `insecure`.
        Raises MalformedError, AggregatorUnavailableError where nobody answers, CallRejectedError where the token is not
        the one.
        """
        secret = read_token(token)
        metadata = bearer(secret)
        channel = open_channel(
            target,
            insecure=insecure,
            root_certificates=root_certificates,
            certificate_chain=certificate_chain,
            private_key=private_key,
        )
        stub = wallet_pb2_grpc.WalletServiceStub(channel)
        try:
            describe = partial(call, stub.Describe, pb.DescribeRequest(), metadata=metadata)
            described = await retried(describe, retry_pauses_s)
            return cls(channel, stub, secret, codec.read_terms(described), schemes, retry_pauses_s, clock)
        except BaseException:
            await channel.close()
            raise

    # What a transport asks.

    def can_defer(self, operator: Operator, token: Token) -> bool:
        """Whether there is, or may be, a deposit to pay from."""
        return (operator, token.address) in self._terms.deferred

    def choose(self, required: Offered) -> Offer:
        """The offer of a 402 to take; raises OfferNotAllowedError."""
        return choose(required, self)

    async def pay(self, offer: Offer, host: str, request_hash: bytes, payment_id: PaymentId | None = None) -> Payment:
        """A payment of the offer's amount; see Wallet.pay."""
        seller, amount = offer.seller(host), offer.terms.amount
        per_request = self._terms.per_request[offer.operator, offer.token.address]
        if amount > per_request:
            raise BudgetExceededError("per_request", amount, per_request, offer.token.decimals, offer.token.symbol)
        line = self._lines.get(seller)
        if line is None:
            line = self._lines[seller] = _RemoteQueue(self, seller, self._terms.max_headroom)
        return await line.pay(amount, request_hash, payment_id)

    async def pay_exact(self, offer: Offer, host: str) -> ExactAuthorization:
        """A transfer of the offer's amount; see Wallet.pay_exact."""
        request = pb.PayExactRequest(
            payee=codec.write_payee(offer.seller(host)),
            amount=encode_amount(offer.terms.amount),
            max_timeout_s=offer.accepted.max_timeout_seconds,
        )
        # Not repeated where the answer is lost: each is another transfer.
        response = await call(self._stub.PayExact, request, metadata=self._metadata)
        _check(response)
        return read_exact(response.payment)

    def note_exact(self, nonce: bytes) -> None:
        """A seller says that the transfer of this nonce was made: the wallet hears of it with the next report."""
        self._transferred.append(nonce)

    async def spend(self, offer: Offer, host: str) -> None:
        """Raises WalletError: only the process that opened the wallet counts for schemes that pay by themselves."""
        del host
        raise WalletError(f"scheme {offer.terms.scheme}: a wallet that another process serves does not pay by it")

    async def recover_from(self, offer: Offer, reason: Reason, host: str = "", key_id: bytes = b"") -> bool:
        """Do what can be done about a refusal; see Wallet.recover_from."""
        async with self._reporting:
            request = pb.RemedyRequest(
                worker_id=self.worker_id,
                payee=codec.write_payee(offer.seller(host or "recover_from")),
                reason=int(reason),  # type: ignore[arg-type]
                reports=[report for _, report in self._reports()],
                key_id=key_id,
                amount=encode_amount(offer.terms.amount),
            )
            response = await self._insist(self._stub.Remedy, request)
        _check(response)
        if response.may_retry:
            self._retire(offer.operator, offer.token)
        return response.may_retry

    # Grants.

    async def extend(self, line: _RemoteQueue, need: int, want: int) -> None:
        """Extend a line's grant, or give it a new one."""
        held = line.held
        if held is not None and not held.grant.is_valid():
            self._leave(line)
            held = None
        request = pb.ExtendGrantRequest(
            worker_id=self.worker_id,
            request_id=os.urandom(16),
            payee=codec.write_payee(line.seller),
            grant_id=held.grant.id if held is not None else 0,
            need=encode_amount(need),
            want=encode_amount(want),
            reports=[held.report()] if held is not None else [],
        )
        # Where the answer is lost, the request id makes the next one the same.
        response = await self._insist(self._stub.ExtendGrant, request)
        _check(response)
        if held is not None and line.held is not held and response.grant_id == held.grant.id:
            # The grant was retired in the meantime: its final report gives this back with the rest.
            return
        if held is None or line.held is not held or response.grant_id != held.grant.id:
            self._leave(line)
            held = _Held(self._new_grant(response, line.seller), line.seller, idle_since=time.monotonic())
            line.hold(held)
        voucher = check_voucher(
            line.seller.operator.domain,
            UncheckedVoucher(held.grant.channel_id, decode_amount(response.ceiling, "ceiling"), response.signature),
            self.address,
        )
        held.grant.extend(decode_amount(response.amount, "amount"), voucher)

    async def _insist(self, method: Method[RequestT, ResponseT], request: RequestT) -> ResponseT:
        """The answer to what changes nothing when it is repeated, asked for while the wallet does not answer."""
        attempt = partial(call, method, request, timeout_s=CHAIN_TIMEOUT_S, metadata=self._metadata)
        return await retried(attempt, self._retry_pauses_s)

    def _new_grant(self, response: pb.ExtendGrantResponse, seller: Seller) -> SpendKeyGrant:
        config = read_channel(response.config, "config")
        return SpendKeyGrant(
            response.grant_id,
            channel_id(seller.operator.domain, config),
            config,
            SpendKey(response.key_id, response.key_secret),
            response.valid_until,
            self._clock,
        )

    def _retire(self, operator: Operator, token: Token) -> None:
        for line in self._lines.values():
            if (line.seller.operator, line.seller.token) == (operator, token):
                self._leave(line)

    def _leave(self, line: _RemoteQueue) -> None:
        held = line.held
        if held is not None:
            line.hold(None)
            held.grant.closed = True
            held.take_back()
            self._leaving.append(held)

    # Reports.

    async def report(self) -> None:
        """Tell the wallet what became of the grants; done every second anyway."""
        async with self._reporting:
            self._return_idle()
            reports = self._reports()
            transferred = list(self._transferred)
            request = pb.ReportRequest(
                worker_id=self.worker_id, reports=[report for _, report in reports], transferred_nonces=transferred
            )
            response = await call(self._stub.Report, request, metadata=self._metadata)
            _check(response)
            del self._transferred[: len(transferred)]
            for held, report in reports:
                held.told = None if response.is_new_worker and not report.is_final else report
            self._leaving = [held for held in self._leaving if held.told is None or not held.told.is_final]
            self._forget(frozenset(response.closed_grant_ids))
            if response.is_new_worker:
                # It may have been taken for dead: what else it holds may be closed too.
                for line in self._lines.values():
                    if line.held is not None:
                        line.held.told = None
            if response.call_back:
                for line in self._lines.values():
                    if line.held is not None and line.is_idle:
                        line.held.take_back()
                self._report_soon.set()

    def _reports(self) -> list[tuple[_Held, pb.GrantReport]]:
        """What the wallet does not know yet."""
        reports = [(line.held, line.held.report()) for line in self._lines.values() if line.held is not None]
        for held in self._leaving:
            held.take_back()
            reports.append((held, held.report(is_final=not held.grant.in_flight)))
        return [(held, report) for held, report in reports if report != held.told]

    def _forget(self, closed: frozenset[int]) -> None:
        """Spend no more of what the wallet has closed: it counts all of it as spent."""
        for line in self._lines.values():
            if line.held is not None and line.held.grant.id in closed:
                line.held.grant.closed = True
                line.hold(None)
        self._leaving = [held for held in self._leaving if held.grant.id not in closed]

    def _return_idle(self) -> None:
        now = time.monotonic()
        for seller, line in list(self._lines.items()):
            held = line.held
            if held is None:
                if line.is_idle:
                    del self._lines[seller]
            elif held.grant.payments != held.payments_seen or not line.is_idle:
                held.payments_seen, held.idle_since = held.grant.payments, now
            elif now - held.idle_since > IDLE_S:
                self._leave(line)

    async def _report_for_ever(self) -> None:
        while True:
            try:
                # Not wait_for: up to Python 3.11 it swallows a cancellation that comes with its timeout.
                async with asyncio.timeout(self._terms.report_every_s):
                    await self._report_soon.wait()
            except TimeoutError:
                pass
            else:
                # Not at once: what was called back is reported, and a flag that stays up is no endless loop.
                await asyncio.sleep(min(0.1, self._terms.report_every_s))
            self._report_soon.clear()
            try:
                await self.report()
            except TallystickError as error:
                _log.warning("reporting to the wallet failed: %s", error)

    async def close(self) -> None:
        """Return what is unspent and say good-bye. Payments under way become unknown."""
        if self._chores.done():
            return
        self._chores.cancel()
        await asyncio.gather(self._chores, return_exceptions=True)
        for line in self._lines.values():
            line.stop()
            self._leave(line)
        reports = [held.report(is_final=True) for held in self._leaving]
        request = pb.ReportRequest(
            worker_id=self.worker_id, reports=reports, is_leaving=True, transferred_nonces=self._transferred
        )
        try:
            _check(await call(self._stub.Report, request, metadata=self._metadata))
        except TallystickError as error:
            _log.warning("the wallet did not hear that this worker leaves: %s", error)
        await self._channel.close()

    async def __aenter__(self) -> Self:
        """Nothing to do: `connect` did it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()


class _Answer(Protocol):
    @property
    def problem(self) -> pb.WalletProblem: ...

    def HasField(self, field_name: Literal["problem"], /) -> bool: ...  # noqa: N802 - protobuf's name


def _check(answer: _Answer) -> None:
    if answer.HasField("problem"):
        raise codec.read_problem(answer.problem)
