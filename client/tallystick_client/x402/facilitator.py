"""An aggregator as the SDK's facilitator client, over gRPC: for every scheme that the aggregator speaks.

    server = x402ResourceServer(FacilitatorClient("127.0.0.1:7402", token="env:TALLYSTICK_TOKEN"))

A settlement whose answer was lost may be repeated, and takes nothing twice. Refusals are answers, with a reason's code,
as over HTTP; a call that failed as a call raises FacilitatorResponseError.
"""

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from x402 import schemas
from x402.http.facilitator_client_base import FacilitatorResponseError

from tallystick.charges import DeferredCharge
from tallystick.errors import MalformedError, RefusedError
from tallystick.facilitator import Attempt, Kind, Settled, Supported, Verified
from tallystick.hexadecimal import checksum, parse_bytes
from tallystick.reasons import Reason
from tallystick.tokens import Token
from tallystick.x402 import ExactAuthorization, PaymentTerms, SettleResponse, decode_header, encode_json, read_terms
from tallystick_client.errors import AggregatorError, AggregatorUnavailableError
from tallystick_client.payer.recent import Recent
from tallystick_client.seller.client.aggregator import Aggregator
from tallystick_client.seller.client.messages import OtherPayment
from tallystick_client.seller.paywall.offers import error_text
from tallystick_client.seller.paywall.responses import receipt_of, receipt_of_nothing
from tallystick_client.seller.paywall.schemes import scheme_of
from tallystick_client.seller.paywall.schemes.other import OtherScheme
from tallystick_client.seller.paywall.schemes.port import IncomingPayment, Offer
from tallystick_client.x402.messages import payment_of, requirements_of, theirs

ATTEMPTS_MAX: Final = 65_536
"""Payments whose attempt is remembered until they are settled."""
PAUSES_S: Final = (0.1, 0.3, 1.0)
"""Before a settlement whose outcome is not known is repeated."""

_UNDECIDED: Final = frozenset(
    {Reason.STORE_UNAVAILABLE, Reason.OVERLOADED, Reason.CHAIN_UNAVAILABLE, Reason.CHAIN_STALE}
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Forwarded:
    """A payment, as its receipt needs it and as the aggregator is given it."""

    payment: IncomingPayment
    sent: DeferredCharge | ExactAuthorization | OtherPayment

    @property
    def terms(self) -> PaymentTerms:
        return self.payment.offer.terms


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
        self._attempts: Recent[tuple[object, ...], Attempt] = Recent(ATTEMPTS_MAX)

    async def verify(self, payload: Any, requirements: Any) -> schemas.VerifyResponse:
        """Check a payment and reserve its amount, or hold it for this handling of its request."""
        try:
            forwarded = _read(payload, requirements)
            verified = await self._hold(forwarded)
        except (MalformedError, RefusedError) as error:
            return schemas.VerifyResponse(
                is_valid=False,
                invalid_reason=_code(error, requirements),
                invalid_message=error_text(error),
                extra=_extra_of(error),
            )
        except AggregatorError as error:
            raise _failed(error) from error
        payer = verified.payer or forwarded.payment.payer
        return schemas.VerifyResponse(
            is_valid=True, payer=checksum(payer) if payer else None, extra=dict(verified.extra) or None
        )

    async def settle(self, payload: Any, requirements: Any) -> schemas.SettleResponse:
        """Take the amount of the requirements. Zero gives a reservation back.

        `payment_pending` or `settlement_pending` in
        `error_reason`: the outcome is not known yet, the same call again takes nothing twice.
        """
        try:
            receipt = await self._settled(_read(payload, requirements))
        except (MalformedError, RefusedError) as error:
            return _unsettled(requirements, _code(error, requirements), error_text(error), _extra_of(error))
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

    async def _hold(self, forwarded: _Forwarded) -> Verified:
        """Verify a payment. Raises RefusedError."""
        payment = forwarded.payment
        attempt = None if payment.is_reserved else Attempt(os.urandom(16), payment.attempt_hash())
        verified = await self._aggregator.verify(forwarded.terms, forwarded.sent, attempt)
        if attempt is not None:
            self._attempts.put(payment.money_key, attempt)
        return verified

    async def _settled(self, forwarded: _Forwarded) -> SettleResponse:
        """The receipt of a settlement, which is repeated while its outcome is not known."""
        is_again = False
        for pause_s in (*self._pauses_s, None):
            try:
                return await self._settle_once(forwarded)
            except (AggregatorUnavailableError, RefusedError) as error:
                payment, amount = forwarded.payment, forwarded.terms.amount
                if is_again and isinstance(error, RefusedError):
                    found = payment.offer.scheme.found_settled(payment, amount, error)
                    if found is not None:
                        return _receipt(payment, found)
                is_again = True
                undecided = isinstance(error, AggregatorUnavailableError) or error.reason in _UNDECIDED
                if pause_s is None or not undecided:
                    raise
                await self._sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    async def _settle_once(self, forwarded: _Forwarded) -> SettleResponse:
        payment, terms, sent = forwarded.payment, forwarded.terms, forwarded.sent
        assert not isinstance(sent, DeferredCharge), "reservations are sent as they came"
        if payment.is_reserved and not terms.amount and not payment.offer.scheme.is_passed_on:
            await self._aggregator.release(terms, sent)
            return decode_header(receipt_of_nothing(str(terms.network)), SettleResponse, "receipt")
        settled = await self._aggregator.settle(terms, sent, self._attempts.get(payment.money_key))
        return _receipt(payment, settled)


class FacilitatorClientSync:
    """The SDK's `FacilitatorClientSync`, for `x402ResourceServerSync`: Flask, for example. Threads may share it.

    Its calls run on a thread of their own, until it is closed, or the program ends. The arguments are those of
    `FacilitatorClient`.
    """

    def __init__(self, target: str, *, token: str, **connection: Any) -> None:
        self._client = FacilitatorClient(target, token=token, **connection)
        exits = ExitStack()
        self._portal: BlockingPortal = exits.enter_context(start_blocking_portal())
        exits.callback(self._portal.call, self._client.close)
        # Nobody closes what a module of Flask's made. Once the interpreter has stopped the portal's thread, its own end
        # would wait for that thread for ever; this comes before.
        self._end = weakref.finalize(self, exits.close)

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
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        result: T = self._portal.call(call)
        return result


def _read(payload: Any, requirements: Any) -> _Forwarded:
    """A payment as the paywall reads it. Raises MalformedError."""
    if not isinstance(payload, schemas.PaymentPayload) or not isinstance(requirements, schemas.PaymentRequirements):
        raise MalformedError("x402Version", getattr(payload, "x402_version", None), "2")
    message, wanted = payment_of(payload), requirements_of(requirements)
    terms = read_terms(wanted, "paymentRequirements")
    scheme = scheme_of(terms.scheme)
    # Neither side of the SDK says what a token is called or how many decimals it has, and nothing here asks.
    offer = Offer(scheme, terms, wanted, Token(terms.asset, "", 0, "", ""))
    if scheme.is_passed_on:
        return _Forwarded(OtherScheme(scheme.name).read(message, offer)(b""), OtherPayment(encode_json(message)))
    bind = scheme.read(message, offer)
    if not scheme.is_reserved:
        payment = bind(b"")
        return _Forwarded(payment, payment.payment)
    # The hash that it names was compared with the request, if anybody could; the proof covers it.
    payment = bind(parse_bytes(message.payload.get("requestHash"), 32, "payload.requestHash"))
    return _Forwarded(payment, OtherPayment(encode_json(message)))


def _receipt(payment: IncomingPayment, settled: Settled) -> SettleResponse:
    taken = replace(payment, payer=settled.payer or payment.payer)
    return decode_header(receipt_of(taken, settled), SettleResponse, "receipt")


def _kind(kind: Kind) -> schemas.SupportedKind:
    extra = dict(kind.extra)
    scheme = scheme_of(kind.scheme)
    if kind.escrow and not scheme.is_passed_on:
        terms = scheme.offer_extra(kind, kind.assets[0])
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


def _code(error: MalformedError | RefusedError, requirements: Any) -> str:
    if isinstance(error, MalformedError):
        return Reason.PAYLOAD_INVALID.code
    if error.code and scheme_of(str(getattr(requirements, "scheme", ""))).error_is_code:
        return error.code
    return "settlement_pending" if error.reason is Reason.TRANSACTION_PENDING else error.reason.code


def _extra_of(error: MalformedError | RefusedError) -> dict[str, Any] | None:
    return dict(error.extra) or None if isinstance(error, RefusedError) else None


def _unsettled(
    requirements: Any, reason: str, message: str, extra: dict[str, Any] | None = None
) -> schemas.SettleResponse:
    return schemas.SettleResponse(
        success=False,
        error_reason=reason,
        error_message=message,
        transaction="",
        network=requirements.network,
        extra=extra,
    )


def _failed(error: AggregatorError) -> FacilitatorResponseError:
    # What buyers may read: where the aggregator is, and how it failed, is the seller's own business.
    is_passing = isinstance(error, AggregatorUnavailableError)
    return FacilitatorResponseError(
        "the facilitator did not answer" if is_passing else "the facilitator rejected the seller's call"
    )
