"""A wallet served to its workers over gRPC: a unix socket, loopback, or TLS, and a token on every call."""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Self, TypeVar

import grpc
import grpc.aio

from tallystick.amounts import decode_amount, encode_amount
from tallystick.codec.common import fixed, write_config
from tallystick.codec.facilitator import write_exact
from tallystick.errors import MalformedError, TallystickError
from tallystick.reasons import Reason
from tallystick.targets import check_target, is_loopback
from tallystick.v1 import wallet_pb2 as pb
from tallystick.v1 import wallet_pb2_grpc
from tallystick_client.payer.errors import WalletError
from tallystick_client.payer.fleet import codec
from tallystick_client.payer.fleet.workers import Reported, Workers
from tallystick_client.payer.wallet.wallet import LocalWallet
from tallystick_client.rpc import bearer

REPORT_EVERY_S: Final = 1.0
LEASE_S: Final = 30.0

_log = logging.getLogger("tallystick.payer")

Context = grpc.aio.ServicerContext[Any, Any]
ResponseT = TypeVar("ResponseT", bound=codec.WithProblem)


@dataclass(frozen=True, slots=True)
class ServerCredentials:
    """PEM of the server's certificate chain and key; with `client_ca`, workers must show a certificate of theirs."""

    certificate_chain: bytes
    private_key: bytes
    client_ca: bytes | None = None


class WalletServer:
    """Serves one wallet. Use it as an async context manager; the wallet stays the caller's to close."""

    def __init__(
        self,
        wallet: LocalWallet,
        listen: str,
        token: str,
        *,
        credentials: ServerCredentials | None = None,
        insecure: bool = False,
        lease_s: float = LEASE_S,
        report_every_s: float = REPORT_EVERY_S,
    ) -> None:
        """`listen` is host:port (port 0: any) or unix:path.

        Raises MalformedError on a bind beyond this machine without TLS, unless `insecure`.
        """
        if not listen.endswith(":0"):
            check_target(listen, "listen")
        if credentials is None and not insecure and not is_loopback(listen):
            raise MalformedError("listen", listen, "a loopback address or a unix socket, or TLS, or --insecure")
        bearer(token)
        self.target = listen
        self._wallet = wallet
        self._workers = Workers(wallet.core, lease_s)
        self._lease_s = lease_s
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        service = _Service(wallet, self._workers, token, round(report_every_s * 1_000), round(lease_s * 1_000))
        wallet_pb2_grpc.add_WalletServiceServicer_to_server(service, self._server)
        self._credentials = credentials
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Listen; raises WalletError where the address cannot be bound."""
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(self.target)
            else:
                pair = (self._credentials.private_key, self._credentials.certificate_chain)
                client_ca = self._credentials.client_ca
                tls = grpc.ssl_server_credentials([pair], client_ca, client_ca is not None)
                port = self._server.add_secure_port(self.target, tls)
        except RuntimeError as error:
            raise WalletError(f"the wallet cannot listen on {self.target}: {error}") from None
        if self.target.endswith(":0"):
            self.target = f"{self.target.removesuffix(':0')}:{port}"
        await self._server.start()
        self._watch = asyncio.create_task(self._watch_leases())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; workers keep their grants until their leases run out, or the wallet is served again."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._server.stop(grace=1)

    async def wait(self) -> None:
        """Serve until the server is stopped."""
        await self._server.wait_for_termination()

    async def _watch_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 4)
            dead = self._workers.expire_leases()
            try:
                await self._wallet.flush()
                if dead:
                    _log.warning("%d workers are not heard of any more; what they held is being reconciled", dead)
                    await self._wallet.reconcile()
            except TallystickError as error:
                _log.warning("reconciling after a worker's death failed: %s", error)


class _Service(wallet_pb2_grpc.WalletServiceServicer):
    def __init__(self, wallet: LocalWallet, workers: Workers, token: str, report_every_ms: int, lease_ms: int) -> None:
        self._wallet = wallet
        self._core = wallet.core
        self._workers = workers
        self._token_hash = hashlib.sha256(token.encode()).digest()
        self._report_every_ms = report_every_ms
        self._lease_ms = lease_ms

    # gRPC names the methods.

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:  # noqa: N802
        del request
        await self._authenticate(context)
        core = self._core
        return pb.DescribeResponse(
            payer=self._wallet.address,
            operators=[
                codec.write_operator(
                    operator,
                    [token.address for token in operator.tokens if self._wallet.can_defer(operator, token)],
                    [core.budgets.limits(token.decimals).per_request for token in operator.tokens],
                )
                for operator in core.operators
            ],
            allows_exact=self._wallet.allows_exact,
            max_headroom=core.max_headroom,
            report_every_ms=self._report_every_ms,
            lease_ms=self._lease_ms,
        )

    async def ExtendGrant(self, request: pb.ExtendGrantRequest, context: Context) -> pb.ExtendGrantResponse:  # noqa: N802
        async def extend() -> pb.ExtendGrantResponse:
            holder = _holder(request.worker_id)
            need, want = decode_amount(request.need, "need"), decode_amount(request.want, "want")
            fixed(request.request_id, 16, "request_id")
            if not 0 < need <= want:
                raise MalformedError("need", need, "more than 0 and at most `want`")
            seller = codec.read_payee(request.payee, self._core.operators)
            self._core.allocator.check_request(seller, need)
            self._workers.report(holder, _read_reports(request))
            allotment = await self._workers.extend(holder, seller, request.grant_id, request.request_id, need, want)
            assert allotment.key is not None, "a wallet is served with spend keys only"
            voucher = self._core.allocator.voucher(allotment)
            return pb.ExtendGrantResponse(
                grant_id=allotment.row.id,
                config=write_config(allotment.channel.config),
                amount=encode_amount(allotment.amount),
                ceiling=encode_amount(voucher.max_claimable_amount),
                signature=voucher.signature,
                key_id=allotment.key.key.key_id,
                key_secret=allotment.key.key.secret,
                valid_until=int(allotment.valid_until),
            )

        return await self._answer(context, extend, lambda problem: pb.ExtendGrantResponse(problem=problem))

    async def Report(self, request: pb.ReportRequest, context: Context) -> pb.ReportResponse:  # noqa: N802
        async def report() -> pb.ReportResponse:
            holder = _holder(request.worker_id)
            is_new = not self._workers.knows(holder)
            closed = self._workers.report(holder, _read_reports(request), is_leaving=request.is_leaving)
            for nonce in request.transferred_nonces:
                self._wallet.note_exact(nonce)
            if request.is_leaving:
                await self._workers.settle()
            return pb.ReportResponse(
                closed_grant_ids=closed, call_back=self._workers.is_calling_back, is_new_worker=is_new
            )

        return await self._answer(context, report, lambda problem: pb.ReportResponse(problem=problem))

    async def PayExact(self, request: pb.PayExactRequest, context: Context) -> pb.PayExactResponse:  # noqa: N802
        async def pay() -> pb.PayExactResponse:
            seller = codec.read_payee(request.payee, self._core.operators)
            amount = decode_amount(request.amount, "amount")
            if not self._wallet.allows_exact:
                raise WalletError("this wallet does not pay by exact")
            payment = await self._core.exact.pay(seller, amount, request.max_timeout_s)
            return pb.PayExactResponse(payment=write_exact(payment))

        return await self._answer(context, pay, lambda problem: pb.PayExactResponse(problem=problem))

    async def Remedy(self, request: pb.RemedyRequest, context: Context) -> pb.RemedyResponse:  # noqa: N802
        async def recover_from() -> pb.RemedyResponse:
            holder = _holder(request.worker_id)
            seller = codec.read_payee(request.payee, self._core.operators)
            self._workers.report(holder, _read_reports(request))
            reason = Reason.from_wire(request.reason)
            amount = decode_amount(request.amount, "amount") if request.amount else 0
            may_retry = await self._workers.recover_from(holder, seller, reason, request.key_id, amount)
            return pb.RemedyResponse(may_retry=may_retry)

        return await self._answer(context, recover_from, lambda problem: pb.RemedyResponse(problem=problem))

    async def _answer(
        self,
        context: Context,
        work: Callable[[], Awaitable[ResponseT]],
        refuse: Callable[[pb.WalletProblem], ResponseT],
    ) -> ResponseT:
        await self._authenticate(context)
        try:
            return await work()
        except (MalformedError, ValueError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except TallystickError as error:
            return refuse(codec.write_problem(error))

    async def _authenticate(self, context: Context) -> None:
        metadata = {str(key): value for key, value in context.invocation_metadata() or ()}
        shown = metadata.get("authorization", "")
        token = shown.removeprefix("Bearer ") if isinstance(shown, str) else ""
        if not hmac.compare_digest(hashlib.sha256(token.encode()).digest(), self._token_hash):
            await _refuse_caller(context)


async def _refuse_caller(context: Context) -> NoReturn:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not the one of this wallet")


def _holder(worker_id: bytes) -> str:
    return fixed(worker_id, 16, "worker_id").hex()


def _read_reports(request: pb.ExtendGrantRequest | pb.ReportRequest | pb.RemedyRequest) -> list[Reported]:
    return [_read_report(report) for report in request.reports]


def _read_report(report: pb.GrantReport) -> Reported:
    charged = decode_amount(report.charged, "reports.charged")
    unknown = decode_amount(report.unknown, "reports.unknown")
    found = decode_amount(report.found_charged, "reports.found_charged")
    if found > unknown:
        raise MalformedError("reports.found_charged", found, f"at most {unknown}, what is unknown")
    returned = decode_amount(report.returned, "reports.returned")
    return Reported(report.grant_id, charged + found, unknown - found, returned, report.is_final)
