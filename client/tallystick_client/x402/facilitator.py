"""An aggregator as the SDK's facilitator client, over gRPC: for every scheme that the aggregator speaks.

    server = x402ResourceServer(FacilitatorClient("127.0.0.1:7402", token="env:TALLYSTICK_TOKEN"))

What Verify reserved or held is remembered here until it is settled, by the money that it is: a settlement whose answer
was lost may be repeated, and takes nothing twice. A payment that has paid before is valid and says `replayed` in
`extra`: it pays for the answer that was given then, and no handler is to run for it (`DeferredServerScheme` sees to
it). Refusals are answers, with a reason's code; a call that failed as a call raises FacilitatorResponseError.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from x402 import schemas
from x402.http.facilitator_client_base import FacilitatorResponseError

from tallystick.errors import MalformedError, RefusedError
from tallystick.facilitator import Attempt, Kind, Settled, Supported
from tallystick.hexadecimal import checksum, parse_bytes
from tallystick.reasons import Reason
from tallystick.tokens import Token
from tallystick.x402 import PaymentTerms, SettleResponse, decode_header, read_terms
from tallystick_client.errors import AggregatorError, AggregatorUnavailableError
from tallystick_client.payer.recent import Recent
from tallystick_client.seller.client.aggregator import Aggregator
from tallystick_client.seller.paywall.offers import error_text
from tallystick_client.seller.paywall.responses import receipt_of, receipt_of_nothing
from tallystick_client.seller.paywall.schemes import scheme_of
from tallystick_client.seller.paywall.schemes.port import Held, IncomingPayment, Offer
from tallystick_client.x402.messages import payment_of, requirements_of, theirs

HELD_MAX: Final = 65_536
"""Payments whose reservation or attempt is remembered."""
PAUSES_S: Final = (0.1, 0.3, 1.0)
"""Before a settlement whose outcome is not known is repeated."""
REPLAYED: Final = "replayed"
"""In the `extra` of a VerifyResponse: the payment was taken before."""

_UNDECIDED: Final = frozenset(
    {Reason.STORE_UNAVAILABLE, Reason.OVERLOADED, Reason.CHAIN_UNAVAILABLE, Reason.CHAIN_STALE}
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Holding:
    """What Verify left: the handle of a reservation, or the payment and the attempt that it is held for."""

    held: Held
    attempt: Attempt | None


class FacilitatorClient:
    """The SDK's `FacilitatorClient`, for `x402ResourceServer`. Use it in one event loop.

    The arguments are those of `tallystick_client.Aggregator`. `pauses_s`: see PAUSES_S.
    """

    def __init__(
        self,
        target: str,
        *,
        token: str,
        pauses_s: Sequence[float] = PAUSES_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        **connection: Any,
    ) -> None:
        self._open: Callable[[], Aggregator] = lambda: Aggregator(target, token=token, **connection)
        self._aggregator = self._open()
        self._pauses_s = pauses_s
        self._sleep = sleep
        self._holdings: Recent[tuple[object, ...], _Holding] = Recent(HELD_MAX)

    async def verify(self, payload: Any, requirements: Any) -> schemas.VerifyResponse:
        """Check a payment and reserve its amount, or hold it for this handling of its request."""
        try:
            payment = _read(payload, requirements)
            replayed = await self._hold(payment)
        except (MalformedError, RefusedError) as error:
            return schemas.VerifyResponse(
                is_valid=False, invalid_reason=_code(error), invalid_message=error_text(error)
            )
        except AggregatorError as error:
            raise _failed(error) from error
        extra = {REPLAYED: True} if replayed else None
        return schemas.VerifyResponse(is_valid=True, payer=_payer(payment), extra=extra)

    async def settle(self, payload: Any, requirements: Any) -> schemas.SettleResponse:
        """Take the amount of the requirements. Zero gives a reservation back.

        A payment that this client has not verified is verified first. `payment_pending` or `settlement_pending` in
        `error_reason`: the outcome is not known yet, the same call again takes nothing twice.
        """
        try:
            payment = _read(payload, requirements)
            holding = self._holdings.get(payment.money_key) or await self._held(payment)
            receipt = await self._settled(payment, holding)
        except (MalformedError, RefusedError) as error:
            return _unsettled(requirements, _code(error), error_text(error))
        except AggregatorUnavailableError as error:
            return _unsettled(requirements, Reason.PAYMENT_PENDING.code, str(_failed(error)))
        except AggregatorError as error:
            raise _failed(error) from error
        return theirs(receipt, schemas.SettleResponse)

    def get_supported(self) -> schemas.SupportedResponse:
        """What the aggregator can verify and settle; asked on a connection of its own, which needs no event loop."""
        try:
            with start_blocking_portal() as portal:
                supported = portal.call(self._ask_supported)
        except AggregatorError as error:
            raise _failed(error) from error
        return schemas.SupportedResponse(kinds=[_kind(kind) for kind in supported.kinds])

    async def close(self) -> None:
        """Close the connection."""
        await self._aggregator.close()

    async def _ask_supported(self) -> Supported:
        async with self._open() as aggregator:
            return await aggregator.supported()

    async def _hold(self, payment: IncomingPayment) -> bool:
        """Verify a payment and remember what that left; whether it was taken before. Raises RefusedError."""
        attempt = None if payment.is_reserved else Attempt(os.urandom(16), payment.attempt_hash())
        verified = await self._aggregator.verify(payment.offer.terms, payment.payment, attempt)
        if not verified.replayed:
            self._holdings.put(payment.money_key, _Holding(verified.handle or payment.held, attempt))
        return verified.replayed

    async def _held(self, payment: IncomingPayment) -> _Holding:
        await self._hold(payment)
        holding = self._holdings.get(payment.money_key)
        if holding is None:
            raise RefusedError(Reason.RESERVATION_UNKNOWN, Reason.RESERVATION_UNKNOWN.advice)
        return holding

    async def _settled(self, payment: IncomingPayment, holding: _Holding) -> SettleResponse:
        """The receipt of a settlement, which is repeated while its outcome is not known."""
        for pause_s in (*self._pauses_s, None):
            try:
                return await self._settle_once(payment, holding)
            except (AggregatorUnavailableError, RefusedError) as error:
                undecided = isinstance(error, AggregatorUnavailableError) or error.reason in _UNDECIDED
                if pause_s is None or not undecided:
                    raise
                await self._sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    async def _settle_once(self, payment: IncomingPayment, holding: _Holding) -> SettleResponse:
        terms = payment.offer.terms
        if payment.is_reserved and not terms.amount:
            await self._aggregator.release(terms, holding.held, holding.attempt)
            return decode_header(receipt_of_nothing(str(terms.network)), SettleResponse, "receipt")
        settled: Settled = await self._aggregator.settle(terms, holding.held, holding.attempt)
        taken = replace(payment, payer=settled.payer or payment.payer)
        return decode_header(receipt_of(taken, settled), SettleResponse, "receipt")


class FacilitatorClientSync:
    """The SDK's `FacilitatorClientSync`, for `x402ResourceServerSync`: Flask, for example. Threads may share it.

    Its calls run on a thread of their own, until it is closed. The arguments are those of `FacilitatorClient`.
    """

    def __init__(self, target: str, *, token: str, **connection: Any) -> None:
        self._client = FacilitatorClient(target, token=token, **connection)
        self._exits = ExitStack()
        self._portal: BlockingPortal = self._exits.enter_context(start_blocking_portal())

    def verify(self, payload: Any, requirements: Any) -> schemas.VerifyResponse:
        """As `FacilitatorClient.verify`."""
        return self._run(lambda: self._client.verify(payload, requirements))

    def settle(self, payload: Any, requirements: Any) -> schemas.SettleResponse:
        """As `FacilitatorClient.settle`."""
        return self._run(lambda: self._client.settle(payload, requirements))

    def get_supported(self) -> schemas.SupportedResponse:
        """As `FacilitatorClient.get_supported`."""
        return self._client.get_supported()

    def close(self) -> None:
        """Close the connection and end the thread."""
        try:
            self._run(self._client.close)
        finally:
            self._exits.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        result: T = self._portal.call(call)
        return result


def _read(payload: Any, requirements: Any) -> IncomingPayment:
    """A payment as the paywall reads it. Raises MalformedError."""
    if not isinstance(payload, schemas.PaymentPayload) or not isinstance(requirements, schemas.PaymentRequirements):
        raise MalformedError("x402Version", getattr(payload, "x402_version", None), "2")
    message, wanted = payment_of(payload), requirements_of(requirements)
    terms: PaymentTerms = read_terms(wanted, "paymentRequirements")
    scheme = scheme_of(terms.scheme)
    # Neither side of the SDK says what a token is called or how many decimals it has, and nothing here asks.
    token = Token(terms.asset, "", 0, "", "")
    bind = scheme.read(message, Offer(scheme, terms, wanted, token))
    if not scheme.is_reserved:
        return bind(b"")
    return bind(parse_bytes(message.payload.get("requestHash"), 32, "payload.requestHash"))


def _kind(kind: Kind) -> schemas.SupportedKind:
    extra = dict(kind.extra)
    if kind.escrow:
        terms = scheme_of(kind.scheme).offer_extra(kind, kind.assets[0])
        terms.pop("minDeposit", None)
        extra |= terms
        extra["assets"] = [
            {
                "asset": checksum(asset.address),
                "symbol": asset.symbol,
                "decimals": asset.decimals,
                "name": asset.name,
                "version": asset.version,
                "minDeposit": str(asset.min_deposit),
            }
            for asset in kind.assets
        ]
    return schemas.SupportedKind(x402_version=2, scheme=kind.scheme, network=kind.network, extra=extra or None)


def _code(error: MalformedError | RefusedError) -> str:
    if isinstance(error, MalformedError):
        return Reason.PAYLOAD_INVALID.code
    return "settlement_pending" if error.reason is Reason.TRANSACTION_PENDING else error.reason.code


def _payer(payment: IncomingPayment) -> str | None:
    return checksum(payment.payer) if payment.payer else None


def _unsettled(requirements: Any, reason: str, message: str) -> schemas.SettleResponse:
    return schemas.SettleResponse(
        success=False, error_reason=reason, error_message=message, transaction="", network=requirements.network
    )


def _failed(error: AggregatorError) -> FacilitatorResponseError:
    # What buyers may read: where the aggregator is, and how it failed, is the seller's own business.
    is_passing = isinstance(error, AggregatorUnavailableError)
    return FacilitatorResponseError(
        "the facilitator did not answer" if is_passing else "the facilitator rejected the seller's call"
    )
