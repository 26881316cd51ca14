"""An httpx transport that answers 402s by itself, and pays ahead where it knows the price.

    async with httpx.AsyncClient(transport=PayingTransport(wallet)) as http:
        page = await http.get("https://example.org/articles/1")

How a request is paid, and what is done about each answer:

- Its first answer is 402: the wallet chooses an offer, the request is sent again with a payment. From then on payments
  for this origin are sent ahead.
- 402 to a payment at other terms (a changed price, or a wrong guess): answered once, within the budgets. 402 for a
  reason that the wallet can mend (a spend key that ran out, books that differ): mended, and tried once more. The second
  payment has **the same payment id**, so that both together are charged once at most even if the refusal was a lie.
  Every other 402 is given to the caller.
- The connection is lost after a payment was sent: the same payment is sent again, a few times. It is charged once at
  most; a seller that has served it repeats its answer or says 409, which is given to the caller.
- No answer says what became of a payment (an error without PAYMENT-RESPONSE): it counts as spent until reconciled.
- A body that is streamed up can be sent once. If its price is not known yet, the 402 is answered by BodyNotReplayable:
  the price is remembered, and the caller's next attempt is paid for ahead.
- Redirects: the payment is added to a copy of the request, so none ever travels to another origin.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import httpx

from tallystick.amounts import parse_amount
from tallystick.errors import MalformedError, TallystickError
from tallystick.payment_ids import format_payment_id
from tallystick.quantities import PaymentId
from tallystick.reasons import Reason
from tallystick.requests import normal_target, request_hash
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PAYMENT_SIGNATURE_HEADER,
    SCHEME_DEFERRED,
    SCHEME_EXACT,
    PaymentPayload,
    SettleResponse,
    decode_header,
    deferred_payload,
    encode_header,
    exact_payload,
    payment_identifier_extension,
)
from tallystick_client.payer.bodies import Body, prepare
from tallystick_client.payer.errors import BodyNotReplayable
from tallystick_client.payer.grants import Payment
from tallystick_client.payer.offers import Offer, read_offers, reason_in, told_error
from tallystick_client.payer.port import Payer
from tallystick_client.payer.terms import Terms

RESEND_PAUSES_S: Final = (0.2, 1.0, 2.0)
"""Before a payment whose connection was lost is sent again."""
RETRY_AFTER_S_MAX: Final = 5.0

_PAYMENT_REQUIRED: Final = 402
_CONFLICT: Final = 409

_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a request cost; in `response.extensions["payment"]`. Amounts in atomic units of the offer's token.

    `charged` is None where no answer says it. `transaction` is empty but for `exact`.
    """

    scheme: str
    offer: Offer
    amount: int
    charged: int | None
    payment_id: str = ""
    transaction: str = ""


@dataclass(frozen=True, slots=True)
class _Purchase:
    """A request that may be paid for."""

    request: httpx.Request
    body: Body
    origin: str
    host: str
    target: bytes
    request_hash: bytes


class _NotTakenError(Exception):
    """The request failed and its payment is not taken: it did not leave, or the seller gave it back. `cause` is httpx's
    error.
    """

    def __init__(self, cause: httpx.TransportError) -> None:
        self.cause = cause


class PayingTransport(httpx.AsyncBaseTransport):
    """Pays for requests from a wallet. Closing it closes the inner transport, not the wallet."""

    def __init__(
        self,
        wallet: Payer,
        inner: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._wallet = wallet
        self._inner = inner or httpx.AsyncHTTPTransport()
        self._terms = Terms()
        self._sleep = sleep

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, paid for if need be.

        Raises what the inner transport raises; OfferNotAllowed and MalformedError on a 402 that may not be answered;
        BudgetExceeded, DepositNotAllowed, Refused or AggregatorUnavailable where the payment cannot be made.
        """
        purchase = await _read(request)
        method, target = request.method, purchase.target
        offer = self._terms.offer_for(purchase.origin, method, target) if purchase.body.is_payable else None
        if offer is None:
            response = await self._inner.handle_async_request(_with_payment(request, None))
            offer = await self._asked(purchase, response)
            if offer is None:
                return response
        if not offer.is_deferred:
            return await self._pay_exact(purchase, offer)
        response, payment_id = await self._pay_deferred(purchase, offer, None)
        if response.status_code == _PAYMENT_REQUIRED:
            better = await self._asked_again(purchase, offer, response)
            if better is not None:
                response, _ = await self._pay_deferred(purchase, better, payment_id)
        return response

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        """Enter the inner transport."""
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Leave the inner transport."""
        await self._inner.__aexit__(exc_type, exc_value, traceback)

    # What a 402 says.

    async def _asked(self, purchase: _Purchase, response: httpx.Response) -> Offer | None:
        """The offer that answers a request's first 402; None where there is nothing to pay."""
        header = response.headers.get(PAYMENT_REQUIRED_HEADER)
        if response.status_code != _PAYMENT_REQUIRED or header is None:
            return None
        await response.aclose()
        offer = self._wallet.choose(read_offers(header))
        self._terms.learn(purchase.origin, purchase.request.method, purchase.target, offer)
        if not purchase.body.is_replayable:
            raise BodyNotReplayable(
                f"{purchase.request.url} asks for payment and its body can be sent only once; "
                + ("send it again: the price is known now" if purchase.body.is_payable else "send it in pieces")
            )
        return offer

    async def _asked_again(self, purchase: _Purchase, offer: Offer, response: httpx.Response) -> Offer | None:
        """The offer for a second payment after a 402 to the first; None where the 402 is the caller's to see."""
        header = response.headers.get(PAYMENT_REQUIRED_HEADER)
        if header is None or not purchase.body.is_replayable:
            return None
        try:
            required = read_offers(header)
            better = self._wallet.choose(required)
            if not better.is_deferred:
                return None
            if better.terms == offer.terms and not await self._wallet.remedy(offer, reason_in(required.error or "")):
                return None
        except TallystickError:
            # The first 402 was in order; that this one is not, or cannot be mended, the caller sees by the 402 itself.
            return None
        self._terms.learn(purchase.origin, purchase.request.method, purchase.target, better)
        await response.aclose()
        return better

    # Paying.

    async def _pay_deferred(
        self, purchase: _Purchase, offer: Offer, payment_id: PaymentId | None
    ) -> tuple[httpx.Response, PaymentId]:
        payment = await self._wallet.pay(offer, purchase.host, purchase.request_hash, payment_id)
        try:
            header = _deferred_header(offer, payment)
            response = await self._send(purchase, header)
        except _NotTakenError as error:
            payment.release()
            raise error.cause from None
        except BaseException:
            payment.lose()
            raise
        charged = _end(payment, response)
        if charged is None and response.is_success:
            self._terms.learn_free(purchase.origin, purchase.request.method, purchase.target)
        sent_id = payment.proof.payment_id
        response.extensions["payment"] = Receipt(
            SCHEME_DEFERRED, offer, payment.amount, charged, format_payment_id(sent_id)
        )
        return response, PaymentId(sent_id)

    async def _pay_exact(self, purchase: _Purchase, offer: Offer) -> httpx.Response:
        authorization = await self._wallet.pay_exact(offer, purchase.host)
        header = encode_header(PaymentPayload(payload=exact_payload(authorization), accepted=offer.accepted))
        try:
            response = await self._send(purchase, header)
        except _NotTakenError as error:
            raise error.cause from None
        receipt = _receipt(response)
        paid = receipt is not None and receipt.success and receipt.amount != "0"
        response.extensions["payment"] = Receipt(
            SCHEME_EXACT,
            offer,
            authorization.value,
            authorization.value if paid else None,
            transaction=receipt.transaction if receipt is not None else "",
        )
        return response

    async def _send(self, purchase: _Purchase, header: str) -> httpx.Response:
        """The answer to a request with this payment, sent again where the connection was lost on the way.

        Raises _NotTakenError where the payment cannot have reached anybody, or was given back: the seller saw the
        connection of its first copy end before the page was there.
        """
        was_sent: httpx.TransportError | None = None
        pauses_s = list(RESEND_PAUSES_S) if purchase.body.is_replayable else []
        while True:
            try:
                response = await self._inner.handle_async_request(_with_payment(purchase.request, header))
            except _NEVER_SENT as error:
                if was_sent is None:
                    raise _NotTakenError(error) from error
                if not pauses_s:
                    raise
                pause_s = pauses_s.pop(0)
            except httpx.TransportError as error:
                was_sent = error
                if not pauses_s:
                    raise
                pause_s = pauses_s.pop(0)
            else:
                if was_sent is not None and _was_released(response):
                    await response.aclose()
                    raise _NotTakenError(was_sent)
                # The first copy of this payment is being served: its answer may be had in a moment.
                under_way = was_sent is not None and response.status_code == _CONFLICT
                if not under_way or "retry-after" not in response.headers or not pauses_s:
                    return response
                pause_s = max(pauses_s.pop(0), _retry_after_s(response))
                await response.aclose()
            await self._sleep(pause_s)


async def _read(request: httpx.Request) -> _Purchase:
    body = await prepare(request)
    url = request.url
    # What goes on the request line; httpcore lets the caller replace it.
    target = normal_target(request.extensions.get("target", url.raw_path))
    host = url.netloc.decode("ascii")
    return _Purchase(
        request, body, f"{url.scheme}://{host}", host, target, request_hash(request.method, target, body.digest)
    )


def _with_payment(request: httpx.Request, header: str | None) -> httpx.Request:
    """A copy of the request with this payment and no other: the caller's own request never carries one."""
    headers = request.headers.copy()
    headers.pop(PAYMENT_SIGNATURE_HEADER, None)
    if header is not None:
        headers[PAYMENT_SIGNATURE_HEADER] = header
    return httpx.Request(
        request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
    )


def _deferred_header(offer: Offer, payment: Payment) -> str:
    return encode_header(
        PaymentPayload(
            payload=deferred_payload(payment.proof),
            accepted=offer.accepted,
            extensions=payment_identifier_extension(payment.proof.payment_id),
        )
    )


def _end(payment: Payment, response: httpx.Response) -> int | None:
    """Enter in the grant what the answer says about the payment; what it cost, None where that is not known.

    The seller is believed in this only: what it may lie about is bounded by the payment's own amount, and shows when
    the book is compared with the aggregator's.
    """
    receipt = _receipt(response)
    if receipt is None:
        if response.status_code == _PAYMENT_REQUIRED:
            payment.release()
            return 0
        payment.lose()
        return None
    if not receipt.success:
        payment.release()
        return 0
    try:
        charged = parse_amount((receipt.extra or {}).get("chargedAmount", receipt.amount), "chargedAmount")
    except MalformedError:
        payment.lose()
        return None
    payment.settle(charged)
    return min(charged, payment.amount)


def _receipt(response: httpx.Response) -> SettleResponse | None:
    header = response.headers.get(PAYMENT_RESPONSE_HEADER)
    try:
        return None if header is None else decode_header(header, SettleResponse, PAYMENT_RESPONSE_HEADER)
    except MalformedError:
        return None


def _was_released(response: httpx.Response) -> bool:
    """Whether a 402 says that this payment was given back."""
    is_402 = response.status_code == _PAYMENT_REQUIRED
    return is_402 and reason_in(told_error(response.headers)) is Reason.RESERVATION_RELEASED


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers["retry-after"]
    return min(float(value), RETRY_AFTER_S_MAX) if value.isascii() and value.isdigit() else 0.0
