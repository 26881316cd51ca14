"""How a request is paid for, without any I/O: every rule of the transports, for any HTTP library (as h11 does it).

    purchases = Purchases(wallet)                              # one for many requests: it remembers prices
    purchase = purchases.purchase(payable_request("GET", "https", "example.org", b"/articles/1", {}, b""))
    step = purchase.start()
    while not isinstance(step, Done):                          # carry the step out, then tell how it ended:
        ...                                                    # step = purchase.received(response.status, headers)

`steps` says what each step asks for, and which of `received`, `lost`, `resume` and `failed` ends it. `close` it in any
case: a purchase that was left in the middle keeps its payment for the next try. `adapter` is a whole example. One
`Purchases` and all of its purchases belong to one thread, the one of the wallet.

How a request is paid, and what is done about each answer:

- Its first answer is 402: the wallet chooses an offer, the request is sent again with a payment. From then on payments
  are sent ahead for this target, and inside a pattern that the seller published (`price_cache`). A remembered price
  that the wallet refuses is not paid: the request is asked unpaid again, and may turn out to be free or cheaper.
- 402 to a payment at other terms (a changed price): answered once, within the budgets. 402 for a reason that the wallet
  can mend (a spend key that the aggregator does not take any more, books that differ): mended, and tried once more;
  after a replaced spend key a few times, because a served wallet revokes keys while its workers pay under them. Every
  further payment goes to **the same receiver under the same payment id**, so that all together are charged once at most
  even if a refusal was a lie. Every other 402 is given to the caller, one that names another receiver too.
- The connection is lost, or the answer is 409 or 503 with Retry-After: **the same payment** is sent again (`sending`).
- No answer says what became of a payment: it counts as spent until reconciled, and the caller's next try of the same
  request sends the same payment again (`unfinished`).
- A body that is streamed up can be sent once. If its price is not known yet, the 402 is answered by
BodyNotReplayableError:
  the price is remembered, and the caller's next attempt is paid for ahead.
- Redirects: the payment is added to a copy of the request, so none ever travels to another origin.
"""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from tallystick.errors import TallystickError
from tallystick.payment_ids import format_payment_id, new_payment_id
from tallystick.quantities import PaymentId
from tallystick.x402 import PAYMENT_REQUIRED_HEADER, SCHEME_DEFERRED, SCHEME_EXACT, PaymentRequired, read_pay_ahead
from tallystick_client.payer.errors import BodyNotReplayableError, BookUnavailableError, WalletError
from tallystick_client.payer.http.price_cache import Prices
from tallystick_client.payer.http.receipts import (
    Answer,
    Receipt,
    end_payment,
    is_unfinished,
    read_receipt,
    says_free,
    says_released,
    told_charge,
)
from tallystick_client.payer.http.requests import is_read_first, payable_request
from tallystick_client.payer.http.sending import NotTakenError, ask, send
from tallystick_client.payer.http.steps import (
    AskWallet,
    CloseResponse,
    ConnectionLostError,
    Done,
    Flow,
    PayableRequest,
    SendRequest,
    Step,
    Wait,
    ask_wallet,
)
from tallystick_client.payer.http.unfinished import SentPayment, UnfinishedPayments, deferred_payment, transfer
from tallystick_client.payer.policy.offers import Offer, read_offers, reason_in
from tallystick_client.payer.port import Payer
from tallystick_client.payer.wallet.grants import Payment
from tallystick_client.payer.wallet.recovery import REGISTER_AGAIN
from tallystick_client.rpc import AggregatorUnavailableError

__all__ = [
    "AskWallet",
    "CloseResponse",
    "Done",
    "PayableRequest",
    "Purchase",
    "Purchases",
    "Receipt",
    "SendRequest",
    "Step",
    "Wait",
    "is_read_first",
    "payable_request",
]

PAID_AGAIN_MAX: Final = 5
"""How often a request is paid again while its payments are refused for their spend keys."""
_PAYMENT_REQUIRED: Final = 402


class Purchases:
    """What is remembered between the requests that a wallet pays for: prices, and payments whose outcome is open.

    `clock`: seconds since the epoch; `monotonic`: seconds that nobody sets.
    """

    def __init__(
        self,
        wallet: Payer,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wallet = wallet
        self.clock = clock
        self.monotonic = monotonic
        self.prices = Prices()
        self.unfinished = UnfinishedPayments(clock)

    def purchase(self, request: PayableRequest) -> "Purchase":
        """The purchase of one request, which has not begun."""
        return Purchase(self, request)


class Purchase:
    """One request, and all that is sent for it.

    Each method returns the next step. Each raises the HTTP library's error where the request has failed;
    OfferNotAllowedError and MalformedError on a 402 that may not be answered, BodyNotReplayableError on one to a body
    that is
    gone; BudgetExceededError, DepositNotAllowedError, BalanceTooLowError, RefusedError or AggregatorUnavailableError
    where the payment cannot be made. It is over then.
    """

    def __init__(self, shared: Purchases, request: PayableRequest) -> None:
        self._wallet = shared.wallet
        self._clock = shared.clock
        self._monotonic = shared.monotonic
        self._prices = shared.prices
        self._unfinished = shared.unfinished
        self._request = request
        self._receipt: Receipt | None = None
        self._flow = self._buy()

    def start(self) -> Step:
        """Begin."""
        return self._advance(partial(next, self._flow))

    def received(self, status: int, headers: Mapping[str, str]) -> Step:
        """The request was sent, and this response has come. `headers` finds names in any spelling."""
        return self._advance(partial(self._flow.send, Answer(status, headers)))

    def lost(self, error: Exception, *, was_sent: bool) -> Step:
        """No response came, for this error of the HTTP library. `was_sent`: False, if the request surely did not
        leave.
        """
        return self._advance(partial(self._flow.throw, ConnectionLostError(error, was_sent=was_sent)))

    def resume(self, result: Any = None) -> Step:
        """The step was carried out; `result` is the wallet's, if it was asked."""
        return self._advance(partial(self._flow.send, result))

    def failed(self, error: BaseException) -> Step:
        """The call to the wallet raised this."""
        return self._advance(partial(self._flow.throw, error))

    def close(self) -> None:
        """Leave it, wherever it is; a payment that may have been sent counts as spent, and is kept for the next try."""
        self._flow.close()

    def _advance(self, resume: Callable[[], Step]) -> Step:
        try:
            return resume()
        except StopIteration:
            return Done(self._receipt)

    def _buy(self) -> Flow[None]:
        unfinished = self._unfinished.take(self._request)
        if unfinished is not None and (yield from self._resume(unfinished)):
            return
        offer, payment = yield from self._pay_ahead()
        if offer is None or payment is None:
            self._receipt = None
            offer = yield from self._asked((yield from ask()))
            if offer is None:
                return
            if not offer.is_deferred:
                yield from self._buy_exact(offer)
                return
            payment = yield from self._pay(offer)
        answer = yield from self._present(offer, payment)
        if answer.status == _PAYMENT_REQUIRED:
            yield from self._pay_again(offer, PaymentId(payment.proof.payment_id), _key_id(payment), answer)

    # What to pay.

    def _pay(self, offer: Offer, payment_id: PaymentId | None = None) -> Flow[Payment]:
        request = self._request
        return ask_wallet(lambda: self._wallet.pay(offer, request.host, request.request_hash, payment_id))

    def _pay_ahead(self) -> Flow[tuple[Offer | None, Payment | None]]:
        """A payment at the remembered price; None where there is no such price, or the wallet refuses it."""
        request = self._request
        offer = self._prices.offer_for(request.origin, request.method, request.target) if request.is_payable else None
        if offer is None:
            return None, None
        try:
            return offer, (yield from self._pay(offer))
        except BookUnavailableError:
            raise
        except WalletError:
            self._ask_next()
            if not request.is_replayable:
                raise
            return None, None

    def _asked(self, answer: Answer) -> Flow[Offer | None]:
        """The offer that answers a request's first 402; None where there is nothing to pay."""
        header = answer.headers.get(PAYMENT_REQUIRED_HEADER)
        if answer.status != _PAYMENT_REQUIRED or header is None:
            if says_free(answer, None):
                self._ask_next()
            return None
        yield CloseResponse()
        required = read_offers(header)
        offer = self._wallet.choose(required)
        self._learn(offer, required)
        request = self._request
        if not request.is_replayable:
            raise BodyNotReplayableError(
                f"{request.origin}{request.target.decode('latin-1')} asks for payment and its body "
                "can be sent only once; "
                + ("send it again: the price is known now" if request.is_payable else "send it in pieces")
            )
        return offer

    def _asked_again(self, offer: Offer, key_id: bytes, answer: Answer, *, times: int) -> Flow[Offer | None]:
        """The offer for another payment after a 402 to one; None where the 402 is the caller's to see.

        `times`: how often it was paid again already. Raises AggregatorUnavailableError where the wallet or its
        aggregator is away: then nobody has refused for good.
        """
        header = answer.headers.get(PAYMENT_REQUIRED_HEADER)
        if header is None or not self._request.is_replayable:
            return None
        try:
            required = read_offers(header)
            better = self._wallet.choose(required)
            if not better.goes_where(offer):
                # The refused payment may have been charged all the same: another one of this request would be a second.
                self._prices.forget(self._request.origin)
                return None
            reason, host = reason_in(required.error or ""), self._request.host
            if times and (better.terms != offer.terms or reason not in REGISTER_AGAIN):
                return None
            if better.terms == offer.terms:
                recover = partial(self._wallet.recover_from, offer, reason, host, key_id)
                if not (yield from ask_wallet(recover)):
                    return None
        except AggregatorUnavailableError:
            raise
        except TallystickError:
            # The first 402 was in order; that this one is not, or cannot be mended, the caller sees by the 402 itself.
            return None
        self._learn(better, required)
        yield CloseResponse()
        return better

    def _learn(self, offer: Offer, required: PaymentRequired) -> None:
        request = self._request
        pay_ahead = read_pay_ahead(required.extensions)
        self._prices.learn(request.origin, request.method, request.target, offer, pay_ahead)

    def _ask_next(self) -> None:
        self._prices.ask_next(self._request.origin, self._request.method, self._request.target)

    # Paying.

    def _send(self, sent: SentPayment, patience_s: float = 0, *, again: bool = False) -> Flow[Answer]:
        is_replayable = self._request.is_replayable
        return send(
            sent.header, self._monotonic, is_replayable=is_replayable, patience_s=patience_s, was_sent_before=again
        )

    def _keep(self, sent: SentPayment) -> None:
        self._unfinished.keep(self._request, sent)

    def _present(self, offer: Offer, payment: Payment) -> Flow[Answer]:
        """The answer to the request with a payment from the deposit, which has ended then."""
        sent = deferred_payment(offer, payment, self._clock())
        try:
            answer = yield from self._send(sent)
        except NotTakenError as error:
            if error.was_sent:
                payment.deny()
            else:
                payment.release()
            raise error.cause from None
        except BaseException:
            payment.lose()
            self._keep(sent)
            raise
        charged = end_payment(payment, answer)
        if is_unfinished(answer):
            self._keep(sent)
        self._note(sent, answer, charged)
        return answer

    def _pay_again(self, offer: Offer, payment_id: PaymentId, key_id: bytes, answer: Answer) -> Flow[None]:
        """Pay again with the same id, unless the caller is to see the 402 that refused the payment before."""
        for times in range(PAID_AGAIN_MAX):
            better = yield from self._asked_again(offer, key_id, answer, times=times)
            if better is None:
                return
            payment = yield from self._pay(better, payment_id)
            answer = yield from self._present(better, payment)
            if answer.status != _PAYMENT_REQUIRED:
                return
            offer, key_id = better, _key_id(payment)

    def _buy_exact(self, offer: Offer) -> Flow[None]:
        """Pay with a transfer of its own."""
        authorization = yield from ask_wallet(partial(self._wallet.pay_exact, offer, self._request.host))
        # Not of the process's counter: who knows it gets the page, and the transfer itself is public.
        payment_id = new_payment_id(int(self._clock() * 1_000), os.urandom(10))
        yield from self._present_exact(transfer(offer, authorization, payment_id))

    def _present_exact(self, sent: SentPayment, *, again: bool = False) -> Flow[Answer]:
        time_left_s = sent.valid_before - self._clock()
        patience_s = max(1.0, min(time_left_s, sent.offer.accepted.max_timeout_seconds))
        try:
            answer = yield from self._send(sent, patience_s, again=again)
        except NotTakenError as error:
            # It did not leave: the next try may use it.
            self._keep(sent)
            raise error.cause from None
        except BaseException:
            self._keep(sent)
            raise
        receipt = read_receipt(answer)
        is_paid = receipt is not None and receipt.success and bool(receipt.transaction)
        if is_paid:
            self._wallet.note_exact(sent.nonce)
        elif is_unfinished(answer) or answer.status == _PAYMENT_REQUIRED:
            # Refused, and valid still: whoever holds it can have it landed, so the next try sends no second one.
            self._keep(sent)
        has_told = receipt is not None and receipt.success
        charged = told_charge(answer, sent.amount) if has_told and not is_paid else None
        self._note(sent, answer, sent.amount if is_paid else charged)
        return answer

    def _resume(self, unfinished: SentPayment) -> Flow[bool]:
        """Send the payment of an earlier try; False where it can no longer be taken, and another is to be made.

        It counts as spent since that try, whatever is answered now; reconciling tells.
        """
        if unfinished.valid_before:
            answer = yield from self._present_exact(unfinished, again=True)
            if answer.status != _PAYMENT_REQUIRED or self._clock() < unfinished.valid_before:
                return True
            self._unfinished.forget(self._request, unfinished)
            yield CloseResponse()
            return False
        try:
            answer = yield from self._send(unfinished, again=True)
        except NotTakenError as error:
            raise error.cause from None
        except BaseException:
            self._keep(unfinished)
            raise
        if says_released(answer):
            yield CloseResponse()
            return False
        if is_unfinished(answer):
            self._keep(unfinished)
        self._note(unfinished, answer, told_charge(answer, unfinished.amount))
        if answer.status == _PAYMENT_REQUIRED:
            yield from self._pay_again(unfinished.offer, unfinished.payment_id, unfinished.key_id, answer)
        return True

    def _note(self, sent: SentPayment, answer: Answer, charged: int | None) -> None:
        """Say what the request cost, and remember what is free."""
        request = self._request
        if says_free(answer, charged):
            self._ask_next()
        elif charged:
            self._prices.was_taken(request.origin, request.method, request.target, sent.offer)
        receipt = read_receipt(answer)
        self._receipt = Receipt(
            SCHEME_EXACT if sent.valid_before else SCHEME_DEFERRED,
            sent.offer,
            sent.amount,
            charged,
            format_payment_id(sent.payment_id),
            receipt.transaction if receipt is not None and sent.valid_before else "",
        )


def _key_id(payment: Payment) -> bytes:
    """The spend key that proves a payment; empty for a voucher's."""
    spend = payment.proof.spend
    return spend.key_id if spend is not None else b""
