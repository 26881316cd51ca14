"""The seller's typed client of an aggregator.

Money is answered by return values and `tallystick.errors.RefusedError`; a call that failed as a call raises
AggregatorUnavailableError (repeat it with the same ids) or CallRejectedError (repeating changes nothing), see `rpc`.
"""

import asyncio
import hmac
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import grpc.aio

from tallystick.charges import Charge, Charged, DeferredCharge
from tallystick.codec import charge as charge_codec
from tallystick.codec import facilitator, settlement
from tallystick.codec.common import check_refusal
from tallystick.errors import RefusedError
from tallystick.facilitator import Attempt, Settled, Supported, Verified
from tallystick.settlements import Settlement
from tallystick.targets import check_target
from tallystick.v1 import (
    charge_pb2,
    charge_pb2_grpc,
    facilitator_pb2,
    facilitator_pb2_grpc,
    settlement_pb2,
    settlement_pb2_grpc,
)
from tallystick.x402 import ExactAuthorization, PaymentTerms
from tallystick_client import rpc
from tallystick_client.seller.client.messages import OtherPayment, PublishedResources, SettledNow
from tallystick_client.seller.client.stream import ChargeStream

if TYPE_CHECKING:
    from tallystick.v1.charge_pb2_grpc import ChargeServiceAsyncStub
    from tallystick.v1.facilitator_pb2_grpc import FacilitatorServiceAsyncStub
    from tallystick.v1.settlement_pb2_grpc import SettlementServiceAsyncStub

SUPPORTED_REFRESH_S: Final = 300.0
SUPPORTED_RETRY_S: Final = 10.0
"""How long an old answer serves after asking again failed."""

_log = logging.getLogger("tallystick.seller")


@dataclass(slots=True)
class _Connection:
    """A channel with its stubs, which belong to one event loop."""

    loop: asyncio.AbstractEventLoop
    channel: grpc.aio.Channel
    facilitator: "FacilitatorServiceAsyncStub"
    charges: "ChargeServiceAsyncStub"
    settlements: "SettlementServiceAsyncStub"
    refreshing: asyncio.Task[Supported] | None = None


class Aggregator:
    """One aggregator, as a seller's process sees it. Safe to share between tasks of one event loop.

    It connects when it is first used, and again when it is used after `close` or on another event loop. `target` is
    "host:port"; `token` the seller's token itself or, better, where it is: "env:NAME" or "file:PATH". TLS is used
    unless the target is loopback or `insecure` is set; `root_certificates`, `certificate_chain` and `private_key` are
    PEM. Times are seconds: `chain_timeout_s` is for calls that wait for a transaction, `supported_refresh_s` is how
    old the answer of Supported may be before it is asked for again. Raises MalformedError.
    """

    def __init__(
        self,
        target: str,
        *,
        token: str,
        insecure: bool = False,
        root_certificates: bytes | None = None,
        certificate_chain: bytes | None = None,
        private_key: bytes | None = None,
        timeout_s: float = rpc.CALL_TIMEOUT_S,
        chain_timeout_s: float = rpc.CHAIN_TIMEOUT_S,
        supported_refresh_s: float = SUPPORTED_REFRESH_S,
    ) -> None:
        check_target(target, "aggregator")
        self.target = target
        secret = rpc.read_token(token)
        self._metadata = rpc.bearer(secret)
        self._secret = secret.encode()
        self._insecure = insecure
        self._certificates = (root_certificates, certificate_chain, private_key)
        self._timeout_s = timeout_s
        self._chain_timeout_s = chain_timeout_s
        self._supported_refresh_s = supported_refresh_s
        self._connected: _Connection | None = None
        self._supported: Supported | None = None
        self._supported_until = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Aggregator({self.target!r})"

    async def close(self) -> None:
        """Close the connection; calls that are under way fail. Using this object again opens a new one."""
        connection, self._connected = self._connected, None
        self._supported = None
        # What belongs to another event loop has ended with it.
        if connection is None or connection.loop is not asyncio.get_running_loop():
            return
        if connection.refreshing is not None:
            connection.refreshing.cancel()
        await connection.channel.close()

    async def supported(self) -> Supported:
        """What the aggregator can verify and settle; asked for once, then again in the background now and then."""
        connection = self._connection()
        if self._supported is not None and connection.loop.time() < self._supported_until:
            return self._supported
        refreshing = connection.refreshing
        if refreshing is None:
            refreshing = connection.refreshing = asyncio.create_task(self._refresh(connection))
            refreshing.add_done_callback(_note_failure)
        if self._supported is not None:
            return self._supported
        return await asyncio.shield(refreshing)

    async def verify(
        self,
        terms: PaymentTerms,
        payment: DeferredCharge | ExactAuthorization | OtherPayment,
        attempt: Attempt | None = None,
    ) -> Verified:
        """Check a payment and reserve its amount (`deferred`), or hold it for an attempt (others). Raises RefusedError.

        A `deferred` one is not to be verified again blindly: the answer that is lost holds the reservation's handle.
        """
        request = facilitator_pb2.VerifyRequest(terms=facilitator.write_terms(terms))
        if isinstance(payment, DeferredCharge):
            request.deferred.CopyFrom(facilitator.write_deferred(payment))
        else:
            _put_payment(request, payment, attempt)
        return facilitator.read_verified(await self._call(self._connection().facilitator.Verify, request))

    async def settle(
        self, terms: PaymentTerms, payment: bytes | ExactAuthorization | OtherPayment, attempt: Attempt | None = None
    ) -> Settled:
        """Take the payment: capture `terms.amount` of the reservation with this handle, or send the exact transfer and
        wait for it. Raises RefusedError. May be repeated: the same settlement gets the same answer, for an exact one if
        it is for the same attempt. Without an attempt serve no answer that is `replayed`: it may be another's.
        """
        request = facilitator_pb2.SettleRequest(terms=facilitator.write_terms(terms))
        if isinstance(payment, bytes):
            request.handle = payment
            timeout_s = self._timeout_s
        else:
            _put_payment(request, payment, attempt)
            timeout_s = self._chain_timeout_s
        return facilitator.read_settled(await self._call(self._connection().facilitator.Settle, request, timeout_s))

    async def release(
        self, terms: PaymentTerms, payment: bytes | ExactAuthorization | OtherPayment, attempt: Attempt | None = None
    ) -> Settled:
        """Give a reservation back; final. Or what an attempt holds of an exact payment: if it was sent already, the
        answer is `replayed`, the transfer goes on, and what it pays for is another attempt's to deliver, for the same
        request. Raises RefusedError, for instance where it was captured already.
        """
        request = facilitator_pb2.SettleRequest(terms=facilitator.write_terms(terms), release=True)
        if isinstance(payment, bytes):
            request.handle = payment
        else:
            _put_payment(request, payment, attempt)
        return facilitator.read_settled(await self._call(self._connection().facilitator.Settle, request))

    async def publish(self, manifest: bytes) -> PublishedResources:
        """Have these resources listed at /discovery/resources instead of those before: JSON with `items`, as of a
        manifest; with none of them, nothing is listed any more. Of origins that the operator bound to the token.
        """
        request = facilitator_pb2.PublishResourcesRequest(manifest=manifest)
        response = await self._call(self._connection().facilitator.PublishResources, request)
        return PublishedResources(response.listed, tuple(response.dropped))

    def derived_key(self, purpose: bytes) -> bytes:
        """32 bytes that processes with the same token have in common, and that tell nothing of it."""
        return hmac.digest(self._secret, b"tallystick " + purpose, "sha256")

    async def charge(self, charge: Charge) -> Charged:
        """Take one payment at once. Raises RefusedError. May be repeated: a payment id is charged once."""
        request = charge_pb2.ChargeRequest(charge=charge_codec.write_charge(charge))
        response = await self._call(self._connection().charges.Charge, request)
        result = charge_codec.read_charge_result(response.result)
        if isinstance(result, RefusedError):
            raise result
        return result

    def stream_charges(self) -> ChargeStream:
        """Many charges over one stream, in batches: `async with aggregator.stream_charges() as stream`."""

        async def limits() -> tuple[int, int]:
            supported = await self.supported()
            return supported.limits.charges_per_batch_max, supported.limits.unanswered_batches_max

        return ChargeStream(
            lambda: self._connection().charges.StreamCharges(metadata=self._metadata),
            limits,
            timeout_s=self._timeout_s,
        )

    async def list_settlements(self, *, limit: int = 100, before_id: int = 0) -> list[Settlement]:
        """The settlements that paid this seller's receivers, newest first; `before_id` pages on. Needs scope `read`."""
        request = settlement_pb2.ListSettlementsRequest(limit=limit, before_id=before_id)
        response = await self._call(self._connection().settlements.ListSettlements, request)
        return [settlement.read_settlement(message) for message in response.settlements]

    async def settle_now(self) -> SettledNow:
        """Have all that is owed to this seller's receivers claimed, and wait for it. Needs scope `settle`.

        What could not be claimed is in the answer's `left_out`. Raises RefusedError.
        """
        request = settlement_pb2.SettleNowRequest()
        response = await self._call(self._connection().settlements.SettleNow, request, self._chain_timeout_s)
        check_refusal(response)
        return SettledNow(
            map(settlement.read_settlement, response.settlements), map(settlement.read_left_out, response.left_out)
        )

    async def _call(
        self,
        method: rpc.Method[rpc.RequestT, rpc.ResponseT],
        request: rpc.RequestT,
        timeout_s: float | None = None,
    ) -> rpc.ResponseT:
        return await rpc.call(method, request, timeout_s=timeout_s or self._timeout_s, metadata=self._metadata)

    def _connection(self) -> _Connection:
        loop = asyncio.get_running_loop()
        if self._connected is None or self._connected.loop is not loop:
            roots, chain, key = self._certificates
            channel = rpc.open_channel(
                self.target,
                insecure=self._insecure,
                root_certificates=roots,
                certificate_chain=chain,
                private_key=key,
            )
            self._connected = _Connection(
                loop,
                channel,
                facilitator_pb2_grpc.FacilitatorServiceStub(channel),
                charge_pb2_grpc.ChargeServiceStub(channel),
                settlement_pb2_grpc.SettlementServiceStub(channel),
            )
        return self._connected

    async def _refresh(self, connection: _Connection) -> Supported:
        self._supported_until = connection.loop.time() + SUPPORTED_RETRY_S
        try:
            response = await self._call(connection.facilitator.Supported, facilitator_pb2.SupportedRequest())
        finally:
            connection.refreshing = None
        self._supported = supported = facilitator.read_supported(response)
        self._supported_until = connection.loop.time() + self._supported_refresh_s
        return supported


def _put_payment(
    request: facilitator.Request, payment: ExactAuthorization | OtherPayment, attempt: Attempt | None
) -> None:
    """Put a payment into a request, and the attempt that it is for."""
    if isinstance(payment, OtherPayment):
        request.payload = payment.payload
    else:
        request.exact.CopyFrom(facilitator.write_exact(payment))
    if attempt is not None:
        request.attempt.CopyFrom(facilitator.write_attempt(attempt))


def _note_failure(task: asyncio.Task[Supported]) -> None:
    # Who waits for the task sees its error too; in the background nobody does.
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.warning("asking the aggregator what it supports failed: %s", error)
