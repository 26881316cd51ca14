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
from functools import partial
from typing import Final, Self

import grpc.aio

from tallystick.amounts import encode_amount
from tallystick.codec.facilitator import read_exact
from tallystick.errors import TallystickError
from tallystick.reasons import Reason
from tallystick.tokens import Permit2Approval, Token
from tallystick.v1 import wallet_pb2 as pb
from tallystick.v1 import wallet_pb2_grpc
from tallystick.x402 import ExactAuthorization
from tallystick_client.payer.errors import WalletError
from tallystick_client.payer.fleet import codec
from tallystick_client.payer.fleet.remote_grants import RemoteGrants
from tallystick_client.payer.policy.offers import Offer, Offered, choose
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.retries import retried
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.permit_turns import PermitTurns
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

_log = logging.getLogger("tallystick.payer")


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
        self.channels = None
        self.worker_id = os.urandom(16)
        self._channel = channel
        self._stub = stub
        self._metadata = bearer(token)
        self._terms = terms
        self._retry_pauses_s = retry_pauses_s
        self.grants = RemoteGrants(terms, self.worker_id, self._extend_grant, clock)
        self.permit_turns = PermitTurns()
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

    def channel_lack(self, offer: Offer) -> str:
        """The wallet's process alone pays from channels: one payment at a time."""
        del offer
        return "a wallet that another process serves does not pay from channels with one seller"

    def choose(self, required: Offered) -> Offer:
        """The offer of a 402 to take; raises OfferNotAllowedError."""
        return choose(required, self)

    async def pay_exact(self, offer: Offer, host: str) -> ExactAuthorization:
        """A transfer of the offer's amount; see Wallet.pay_exact."""
        request = pb.PayExactRequest(
            payee=codec.write_payee(offer.seller(host)),
            amount=encode_amount(offer.terms.amount),
            max_timeout_s=offer.accepted.max_timeout_seconds,
        )
        # Not repeated where the answer is lost: each is another transfer.
        response = await call(self._stub.PayExact, request, metadata=self._metadata)
        codec.check_problem(response)
        return read_exact(response.payment)

    def note_exact(self, nonce: bytes) -> None:
        """A seller says that the transfer of this nonce was made: the wallet hears of it with the next report."""
        self._transferred.append(nonce)

    async def spend(self, offer: Offer, host: str) -> None:
        """Raises WalletError: only the process that opened the wallet counts for schemes that pay by themselves."""
        del host
        raise WalletError(f"scheme {offer.terms.scheme}: a wallet that another process serves does not pay by it")

    async def permit2_approval(self, offer: Offer, host: str) -> Permit2Approval | None:
        """Raises WalletError, as `spend` does."""
        await self.spend(offer, host)
        return None

    async def recover_from(self, offer: Offer, reason: Reason, host: str = "", key_id: bytes = b"") -> bool:
        """Do what can be done about a refusal; see Wallet.recover_from."""
        async with self._reporting:
            request = pb.RemedyRequest(
                worker_id=self.worker_id,
                payee=codec.write_payee(offer.seller(host or "recover_from")),
                reason=int(reason),  # type: ignore[arg-type]
                reports=[report for _, report in self.grants.reports()],
                key_id=key_id,
                amount=encode_amount(offer.terms.amount),
            )
            response = await self._insist(self._stub.Remedy, request)
        codec.check_problem(response)
        if response.may_retry:
            self.grants.retire(offer.operator, offer.token)
        return response.may_retry

    async def _extend_grant(self, request: pb.ExtendGrantRequest) -> pb.ExtendGrantResponse:
        # Where the answer is lost, the request id makes the next one the same.
        response = await self._insist(self._stub.ExtendGrant, request)
        codec.check_problem(response)
        return response

    async def _insist(self, method: Method[RequestT, ResponseT], request: RequestT) -> ResponseT:
        """The answer to what changes nothing when it is repeated, asked for while the wallet does not answer."""
        attempt = partial(call, method, request, timeout_s=CHAIN_TIMEOUT_S, metadata=self._metadata)
        return await retried(attempt, self._retry_pauses_s)

    # Reports.

    async def report(self) -> None:
        """Tell the wallet what became of the grants; done every second anyway."""
        async with self._reporting:
            self.grants.return_idle()
            reports = self.grants.reports()
            transferred = list(self._transferred)
            request = pb.ReportRequest(
                worker_id=self.worker_id, reports=[report for _, report in reports], transferred_nonces=transferred
            )
            response = await call(self._stub.Report, request, metadata=self._metadata)
            codec.check_problem(response)
            del self._transferred[: len(transferred)]
            self.grants.reported(reports, frozenset(response.closed_grant_ids), is_new_worker=response.is_new_worker)
            if response.call_back:
                self.grants.give_back_idle()
                self._report_soon.set()

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
        request = pb.ReportRequest(
            worker_id=self.worker_id,
            reports=self.grants.final_reports(),
            is_leaving=True,
            transferred_nonces=self._transferred,
        )
        try:
            codec.check_problem(await call(self._stub.Report, request, metadata=self._metadata))
        except TallystickError as error:
            _log.warning("the wallet did not hear that this worker leaves: %s", error)
        await self._channel.close()

    async def __aenter__(self) -> Self:
        """Nothing to do: `connect` did it."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()
