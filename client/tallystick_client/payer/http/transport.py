"""An httpx transport that answers 402s by itself, and pays ahead where it knows the price.

    async with httpx.AsyncClient(transport=PayingTransport(wallet)) as http:
        page = await http.get("https://example.org/articles/1")

How a request is paid, and what is done about each answer:

- Its first answer is 402: the wallet chooses an offer, the request is sent again with a payment. From then on payments
  are sent ahead for this target, and inside a pattern that the seller published (`prices`). A remembered price that the
  wallet refuses is not paid: the request is asked unpaid again, and may turn out to be free or cheaper.
- 402 to a payment at other terms (a changed price): answered once, within the budgets. 402 for a reason that the wallet
  can mend (a spend key that the aggregator does not know any more, books that differ): mended, and tried once more. The
  second payment goes to **the same receiver under the same payment id**, so that both together are charged once at most
  even if the refusal was a lie. Every other 402 is given to the caller, one that names another receiver too.
- The connection is lost, or the answer is 409 or 503 with Retry-After: **the same payment** is sent again (`sending`).
- No answer says what became of a payment: it counts as spent until reconciled, and the caller's next try of the same
  request sends the same payment again (`unfinished`).
- A body that is streamed up can be sent once. If its price is not known yet, the 402 is answered by BodyNotReplayable:
  the price is remembered, and the caller's next attempt is paid for ahead.
- Redirects: the payment is added to a copy of the request, so none ever travels to another origin.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

import httpx

from tallystick.errors import TallystickError
from tallystick.payment_ids import format_payment_id, new_payment_id
from tallystick.quantities import PaymentId
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    SCHEME_DEFERRED,
    SCHEME_EXACT,
    PaymentRequired,
    read_pay_ahead,
)
from tallystick_client.payer.errors import BodyNotReplayable, BookUnavailable, WalletError
from tallystick_client.payer.http.price_cache import Prices
from tallystick_client.payer.http.purchases import Purchase, read_purchase
from tallystick_client.payer.http.receipts import (
    Receipt,
    end_payment,
    is_unfinished,
    read_receipt,
    says_free,
    says_released,
    told_charge,
)
from tallystick_client.payer.http.sending import NotTakenError, Sender
from tallystick_client.payer.http.unfinished import SentPayment, UnfinishedPayments, deferred_payment, transfer
from tallystick_client.payer.policy.offers import Offer, read_offers, reason_in
from tallystick_client.payer.port import Payer
from tallystick_client.payer.wallet.grants import Payment

__all__ = ["PayingTransport", "Receipt"]

_PAYMENT_REQUIRED: Final = 402


class PayingTransport(httpx.AsyncBaseTransport):
    """Pays for requests from a wallet. Closing it closes the inner transport, not the wallet."""

    def __init__(
        self,
        wallet: Payer,
        inner: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wallet = wallet
        self._inner = inner or httpx.AsyncHTTPTransport()
        self._clock = clock
        self._sender = Sender(self._inner, sleep, monotonic)
        self._prices = Prices()
        self._unfinished = UnfinishedPayments(clock)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, paid for if need be.

        Raises what the inner transport raises; OfferNotAllowed and MalformedError on a 402 that may not be answered;
        BudgetExceeded, DepositNotAllowed, BalanceTooLow, Refused or AggregatorUnavailable where the payment cannot be
        made.
        """
        purchase = await read_purchase(request)
        unfinished = self._unfinished.take(purchase)
        if unfinished is not None:
            response = await self._resume(purchase, unfinished)
            if response is not None:
                return response
        offer, payment = await self._pay_ahead(purchase)
        if offer is None or payment is None:
            response = await self._sender.ask(purchase)
            offer = await self._asked(purchase, response)
            if offer is None:
                return response
            if not offer.is_deferred:
                return await self._buy_exact(purchase, offer)
            payment = await self._wallet.pay(offer, purchase.host, purchase.request_hash)
        response = await self._present(purchase, offer, payment)
        if response.status_code == _PAYMENT_REQUIRED:
            proof = payment.proof
            key_id = proof.spend.key_id if proof.spend is not None else b""
            return await self._pay_again(purchase, offer, PaymentId(proof.payment_id), key_id, response)
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

    # What to pay.

    async def _pay_ahead(self, purchase: Purchase) -> tuple[Offer | None, Payment | None]:
        """A payment at the remembered price; None where there is no such price, or the wallet refuses it."""
        method, target = purchase.method, purchase.target
        offer = self._prices.offer_for(purchase.origin, method, target) if purchase.body.is_payable else None
        if offer is None:
            return None, None
        try:
            return offer, await self._wallet.pay(offer, purchase.host, purchase.request_hash)
        except BookUnavailable:
            raise
        except WalletError:
            self._prices.ask_next(purchase.origin, method, target)
            if not purchase.body.is_replayable:
                raise
            return None, None

    async def _asked(self, purchase: Purchase, response: httpx.Response) -> Offer | None:
        """The offer that answers a request's first 402; None where there is nothing to pay."""
        header = response.headers.get(PAYMENT_REQUIRED_HEADER)
        if response.status_code != _PAYMENT_REQUIRED or header is None:
            if says_free(response, None):
                self._prices.ask_next(purchase.origin, purchase.method, purchase.target)
            return None
        await response.aclose()
        required = read_offers(header)
        offer = self._wallet.choose(required)
        self._learn(purchase, offer, required)
        if not purchase.body.is_replayable:
            raise BodyNotReplayable(
                f"{purchase.request.url} asks for payment and its body can be sent only once; "
                + ("send it again: the price is known now" if purchase.body.is_payable else "send it in pieces")
            )
        return offer

    async def _asked_again(
        self, purchase: Purchase, offer: Offer, key_id: bytes, response: httpx.Response
    ) -> Offer | None:
        """The offer for a second payment after a 402 to the first; None where the 402 is the caller's to see."""
        header = response.headers.get(PAYMENT_REQUIRED_HEADER)
        if header is None or not purchase.body.is_replayable:
            return None
        try:
            required = read_offers(header)
            better = self._wallet.choose(required)
            if not better.goes_where(offer):
                # The refused payment may have been charged all the same: another one of this request would be a second.
                self._prices.forget(purchase.origin)
                return None
            reason = reason_in(required.error or "")
            if better.terms == offer.terms and not await self._wallet.recover_from(
                offer, reason, purchase.host, key_id
            ):
                return None
        except TallystickError:
            # The first 402 was in order; that this one is not, or cannot be mended, the caller sees by the 402 itself.
            return None
        self._learn(purchase, better, required)
        await response.aclose()
        return better

    def _learn(self, purchase: Purchase, offer: Offer, required: PaymentRequired) -> None:
        pay_ahead = read_pay_ahead(required.extensions)
        self._prices.learn(purchase.origin, purchase.method, purchase.target, offer, pay_ahead)

    # Paying.

    async def _present(self, purchase: Purchase, offer: Offer, payment: Payment) -> httpx.Response:
        """The answer to a request with a payment from the deposit, which has ended then."""
        sent = deferred_payment(offer, payment, self._clock())
        try:
            response = await self._sender.send(purchase, sent.header)
        except NotTakenError as error:
            if error.was_sent:
                payment.deny()
            else:
                payment.release()
            raise error.cause from None
        except BaseException:
            payment.lose()
            self._unfinished.keep(purchase, sent)
            raise
        charged = end_payment(payment, response)
        if is_unfinished(response):
            self._unfinished.keep(purchase, sent)
        self._note(purchase, sent, response, charged)
        return response

    async def _pay_again(
        self, purchase: Purchase, offer: Offer, payment_id: PaymentId, key_id: bytes, response: httpx.Response
    ) -> httpx.Response:
        """The answer to a second payment with the same id, or the 402 that refused the first."""
        better = await self._asked_again(purchase, offer, key_id, response)
        if better is None:
            return response
        payment = await self._wallet.pay(better, purchase.host, purchase.request_hash, payment_id)
        return await self._present(purchase, better, payment)

    async def _buy_exact(self, purchase: Purchase, offer: Offer) -> httpx.Response:
        """The answer to a request with a transfer of its own."""
        authorization = await self._wallet.pay_exact(offer, purchase.host)
        # Not of the process's counter: who knows it gets the page, and the transfer itself is public.
        payment_id = new_payment_id(int(self._clock() * 1_000), os.urandom(10))
        return await self._present_exact(purchase, transfer(offer, authorization, payment_id))

    async def _present_exact(self, purchase: Purchase, sent: SentPayment, *, again: bool = False) -> httpx.Response:
        time_left_s = sent.valid_before - self._clock()
        patience_s = max(1.0, min(time_left_s, sent.offer.accepted.max_timeout_seconds))
        try:
            response = await self._sender.send(purchase, sent.header, patience_s=patience_s, was_sent_before=again)
        except NotTakenError as error:
            # It did not leave: the next try may use it.
            self._unfinished.keep(purchase, sent)
            raise error.cause from None
        except BaseException:
            self._unfinished.keep(purchase, sent)
            raise
        receipt = read_receipt(response)
        is_paid = receipt is not None and receipt.success and bool(receipt.transaction)
        if is_paid:
            self._wallet.note_exact(sent.nonce)
        elif is_unfinished(response) or response.status_code == _PAYMENT_REQUIRED:
            # Refused, and valid still: whoever holds it can have it landed, so the next try sends no second one.
            self._unfinished.keep(purchase, sent)
        has_told = receipt is not None and receipt.success
        charged = told_charge(response, sent.amount) if has_told and not is_paid else None
        self._note(purchase, sent, response, sent.amount if is_paid else charged)
        return response

    async def _resume(self, purchase: Purchase, unfinished: SentPayment) -> httpx.Response | None:
        """The answer to the payment of an earlier try; None where it can no longer be taken, and another is to be made.

        It counts as spent since that try, whatever is answered now; reconciling tells.
        """
        if unfinished.valid_before:
            response = await self._present_exact(purchase, unfinished, again=True)
            if response.status_code != _PAYMENT_REQUIRED or self._clock() < unfinished.valid_before:
                return response
            self._unfinished.forget(purchase, unfinished)
            await response.aclose()
            return None
        try:
            response = await self._sender.send(purchase, unfinished.header, was_sent_before=True)
        except NotTakenError as error:
            raise error.cause from None
        except BaseException:
            self._unfinished.keep(purchase, unfinished)
            raise
        if says_released(response):
            await response.aclose()
            return None
        if is_unfinished(response):
            self._unfinished.keep(purchase, unfinished)
        self._note(purchase, unfinished, response, told_charge(response, unfinished.amount))
        if response.status_code == _PAYMENT_REQUIRED:
            offer, payment_id = unfinished.offer, unfinished.payment_id
            return await self._pay_again(purchase, offer, payment_id, unfinished.key_id, response)
        return response

    def _note(self, purchase: Purchase, sent: SentPayment, response: httpx.Response, charged: int | None) -> None:
        """Tell the caller what the request cost, and remember what is free."""
        if says_free(response, charged):
            self._prices.ask_next(purchase.origin, purchase.method, purchase.target)
        elif charged:
            self._prices.was_taken(purchase.origin, purchase.method, purchase.target, sent.offer)
        receipt = read_receipt(response)
        response.extensions["payment"] = Receipt(
            SCHEME_EXACT if sent.valid_before else SCHEME_DEFERRED,
            sent.offer,
            sent.amount,
            charged,
            format_payment_id(sent.payment_id),
            receipt.transaction if receipt is not None and sent.valid_before else "",
        )
