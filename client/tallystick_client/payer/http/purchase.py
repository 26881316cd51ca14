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
- The connection is lost: **the same payment** is sent again, a few times. It is charged once at most; a seller that has
  served it repeats its answer or says 409.
- 409 or 503 with Retry-After: the payment is under way, or cannot be handled now. It is sent again when the answer
  says; a few times, or as long as the seller may take, where the payment says so (a transfer takes its time).
- No answer says what became of a payment: it counts as spent until reconciled, and the caller's next try of the same
  request sends the same payment again (`unfinished`).
- A body that is streamed up can be sent once. If its price is not known yet, the 402 is answered by
  BodyNotReplayableError: the price is remembered, and the caller's next attempt is paid for ahead.
- Redirects: the payment is added to a copy of the request, so none ever travels to another origin.
- HEAD and OPTIONS are never paid for, and plain http only at this machine's own address, unless the program says so.
- All of it has one deadline: after it nothing is sent again, however patient the payment would be.
- A 402 of x402 version 1 is told apart, by its body too where the adapter hands that in.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from tallystick.errors import TallystickError
from tallystick.payment_ids import format_payment_id
from tallystick.quantities import PaymentId
from tallystick.x402 import PAYMENT_REQUIRED_HEADER, read_pay_ahead
from tallystick_client.payer.errors import (
    BodyNotReplayableError,
    BookUnavailableError,
    ChannelDisputedError,
    InsecureOriginError,
    WalletError,
)
from tallystick_client.payer.http.manifests import MANIFEST_S_MAX, Manifests
from tallystick_client.payer.http.price_cache import FREE_METHODS, Prices, is_free_everywhere
from tallystick_client.payer.http.receipts import Receipt
from tallystick_client.payer.http.sending import NotTakenError, Sending
from tallystick_client.payer.http.steps import (
    AskWallet,
    CloseResponse,
    ConnectionLostError,
    Done,
    FetchManifest,
    Flow,
    PayableRequest,
    SendRequest,
    Step,
    Wait,
    ask_wallet,
    is_read_first,
    payable_request,
)
from tallystick_client.payer.http.unfinished import UnfinishedPayments
from tallystick_client.payer.policy.answers import (
    Answer,
    is_refused,
    reason_in,
    says_free,
)
from tallystick_client.payer.policy.offers import Asked, Echo, Offer, check_version, choose, preference, read_offers
from tallystick_client.payer.wallet.schemes.port import Order, Outcome, OutgoingPayment, Payer, Scheme
from tallystick_client.rpc import AggregatorUnavailableError

__all__ = [
    "Answer",
    "AskWallet",
    "CloseResponse",
    "Done",
    "FetchManifest",
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

DEADLINE_S: Final = 120.0
"""More than sellers usually wait for a transfer, and less than a person does."""
PAID_AGAIN_MAX: Final = 5
"""How often a request is paid again while its payments are refused for their spend keys."""

_log = logging.getLogger("tallystick.payer")


class Purchases:
    """What is remembered between the requests that a wallet pays for: prices, and payments whose outcome is open.

    `clock`: seconds since the epoch; `monotonic`: seconds that nobody sets. `deadline_s`: how long one request and all
    that is sent for it may take. `require_https`: pay over plain http at this machine's own address only.
    `read_manifests`: learn prices from what sites publish (`manifests`), each within `manifest_s_max` seconds.
    """

    def __init__(
        self,
        wallet: Payer,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        deadline_s: float = DEADLINE_S,
        require_https: bool = True,
        read_manifests: bool = False,
        manifest_s_max: float = MANIFEST_S_MAX,
    ) -> None:
        self.wallet = wallet
        self.deadline_s = deadline_s
        self.require_https = require_https
        self.clock = clock
        self.monotonic = monotonic
        self.prices = Prices()
        self.manifests = Manifests(wallet, self.prices, monotonic, manifest_s_max) if read_manifests else None
        self.unfinished = UnfinishedPayments(clock)

    def purchase(self, request: PayableRequest, deadline_s: float | None = None) -> "Purchase":
        """The purchase of one request, which has not begun. `deadline_s`: its own, instead of everybody's."""
        return Purchase(self, request, self.deadline_s if deadline_s is None else deadline_s)


class Purchase:
    """One request, and all that is sent for it.

    Each method returns the next step. Each raises the HTTP library's error where the request has failed;
    OfferNotAllowedError, InsecureOriginError and MalformedError on a 402 that may not be answered,
    BodyNotReplayableError on one to a body that is gone; BudgetExceededError, DepositNotAllowedError,
    BalanceTooLowError, RefusedError or AggregatorUnavailableError where the payment cannot be made. It is over then.
    """

    def __init__(self, shared: Purchases, request: PayableRequest, deadline_s: float) -> None:
        self._wallet = shared.wallet
        self._clock = shared.clock
        self._prices = shared.prices
        self._manifests = shared.manifests
        self._unfinished = shared.unfinished
        self._request = request
        end_at = shared.monotonic() + deadline_s
        self._sending = Sending(request, end_at, shared.clock, shared.monotonic)
        self._is_private = request.is_private or not shared.require_https
        self._receipt: Receipt | None = None
        self._flow = self._buy()
        self._is_closed = False

    def start(self) -> Step:
        """Begin."""
        return self._advance(partial(next, self._flow))

    def received(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> Step:
        """The request was sent, and this response has come. `headers` finds names in any spelling.

        `body`: wanted where `is_told_in_body` says so, to tell version 1 of x402; the caller gets it all the same.
        """
        return self._advance(partial(self._flow.send, Answer(status, headers, body)))

    def lost(self, error: Exception, *, was_sent: bool) -> Step:
        """No response came, for this error of the HTTP library. `was_sent`: False, if the request surely did not
        leave.
        """
        return self._advance(partial(self._flow.throw, ConnectionLostError(error, was_sent=was_sent)))

    def resume(self, result: Any = None) -> Step:
        """The step was carried out; `result` is the wallet's, if it was asked."""
        if self._is_closed and isinstance(result, OutgoingPayment) and result.not_taken(was_sent=False):
            # It was made while its caller gave up, and is the next try's to send.
            self._unfinished.keep(self._request, result)
        return self._advance(partial(self._flow.send, result))

    def failed(self, error: BaseException) -> Step:
        """The call to the wallet raised this."""
        return self._advance(partial(self._flow.throw, error))

    def close(self) -> None:
        """Leave it, wherever it is; a payment that may have been sent counts as spent, and is kept for the next try."""
        self._is_closed = True
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
        payment = yield from self._pay_ahead()
        if payment is None:
            self._receipt = None
            offer = yield from self._ask()
            if offer is None:
                return
            payment = yield from self._pay(offer)
        answer = yield from self._present(payment)
        if is_refused(answer):
            yield from self._pay_again(payment, answer)

    # What to pay.

    def _pay(self, offer: Offer, payment_id: PaymentId | None = None) -> Flow[OutgoingPayment]:
        request = self._request
        url = request.origin + request.target.decode("latin-1")
        order = Order(request.host, request.request_hash, self._clock, payment_id, url)
        return ask_wallet(partial(self._scheme(offer).pay, self._wallet, offer, order))

    def _scheme(self, offer: Offer) -> Scheme:
        return self._wallet.schemes[offer.terms.scheme]

    def _pay_ahead(self) -> Flow[OutgoingPayment | None]:
        """A payment at the remembered price; None where there is no such price, or the wallet refuses it."""
        request = self._request
        may_pay = request.is_payable and self._is_private and not is_free_everywhere(request.method, request.target)
        if may_pay and self._manifests is not None and (fetch := self._manifests.due(request)) is not None:
            self._manifests.fetched(request.origin, (yield fetch))
        offer = self._prices.offer_for(request.origin, request.method, request.target) if may_pay else None
        if offer is None:
            return None
        try:
            return (yield from self._pay(offer))
        except BookUnavailableError:
            raise
        except WalletError:
            self._ask_next()
            if not request.is_replayable:
                raise
            return None

    def _ask(self) -> Flow[Offer | None]:
        """The offer that answers the 402 to the request without a payment; None where there is nothing to pay."""
        try:
            answer: Answer = yield SendRequest(None)
        except ConnectionLostError as lost:
            raise lost.cause from None
        header = answer.headers.get(PAYMENT_REQUIRED_HEADER)
        if not is_refused(answer) or self._request.method in FREE_METHODS:
            if says_free(answer, None):
                self._ask_next()
            return None
        if header is None:
            check_version(answer.body)
            return None
        yield CloseResponse()
        if not self._is_private:
            raise InsecureOriginError(self._request.origin)
        required = read_offers(header)
        offer = choose(required, self._wallet)
        if why := preference(offer, self._wallet.schemes):
            _log.info("%s is paid by %s", self._request.host, why)
        self._learn(offer, required)
        offer = replace(offer, echo=Echo(required.resource, required.extensions))
        request = self._request
        if not request.is_replayable:
            raise BodyNotReplayableError(
                f"{request.origin}{request.target.decode('latin-1')} asks for payment and its body "
                "can be sent only once; "
                + ("send it again: the price is known now" if request.is_payable else "send it in pieces")
            )
        return offer

    def _asked_again(self, refused: OutgoingPayment, answer: Answer, *, times: int) -> Flow[Offer | None]:
        """The offer for another payment after a 402 to one; None where the 402 is the caller's to see.

        `times`: how often it was paid again already. Raises AggregatorUnavailableError where the wallet or its
        aggregator is away: then nobody has refused for good; and ChannelDisputedError.
        """
        header, offer = answer.headers.get(PAYMENT_REQUIRED_HEADER), refused.offer
        is_safe = self._request.is_replayable and self._scheme(offer).charges_once and not refused.is_spent
        if header is None or not is_safe:
            return None
        try:
            required = read_offers(header)
            better = choose(required, self._wallet)
            if not better.goes_where(offer):
                # The refused payment may have been charged all the same: another one of this request would be a second.
                self._prices.forget(self._request.origin)
                return None
            reason, host = reason_in(required.error or ""), self._request.host
            if times and (better.terms != offer.terms or not refused.recovers_again(reason)):
                return None
            recover = partial(refused.recover, self._wallet, reason, host)
            if better.terms == offer.terms and not (yield from ask_wallet(recover)):
                return None
        except (AggregatorUnavailableError, ChannelDisputedError):
            yield CloseResponse()
            raise
        except TallystickError:
            # The first 402 was in order; that this one is not, or cannot be mended, the caller sees by the 402 itself.
            return None
        self._learn(better, required)
        yield CloseResponse()
        return replace(better, echo=Echo(required.resource, required.extensions))

    def _learn(self, offer: Offer, required: Asked) -> None:
        if self._scheme(offer).is_paid_ahead:
            request, pay_ahead = self._request, read_pay_ahead(required.extensions)
            self._prices.learn(request.origin, request.method, request.target, offer, pay_ahead)

    def _ask_next(self) -> None:
        self._prices.ask_next(self._request.origin, self._request.method, self._request.target)

    # Paying.

    def _present(self, payment: OutgoingPayment, *, again: bool = False) -> Flow[Answer]:
        """The answer to the request with this payment. `again`: it was sent in an earlier try."""
        try:
            answer = yield from self._sending.send(payment, was_sent=again)
        except NotTakenError as error:
            if payment.not_taken(was_sent=error.was_sent):
                self._unfinished.keep(self._request, payment)
            raise error.cause from None
        except BaseException:
            payment.lost()
            self._unfinished.keep(self._request, payment)
            raise
        outcome = payment.answered(answer)
        if outcome.is_open:
            self._unfinished.keep(self._request, payment)
        self._note(payment, answer, outcome)
        return answer

    def _pay_again(self, refused: OutgoingPayment, answer: Answer) -> Flow[None]:
        """Pay again with the same id, unless the caller is to see the 402 that refused the payment before."""
        for times in range(PAID_AGAIN_MAX):
            better = yield from self._asked_again(refused, answer, times=times)
            if better is None:
                return
            refused = yield from self._pay(better, refused.payment_id)
            answer = yield from self._present(refused)
            if not is_refused(answer):
                return

    def _resume(self, unfinished: OutgoingPayment) -> Flow[bool]:
        """Send the payment of an earlier try; False where it can no longer be taken, and another is to be made."""
        answer = yield from self._present(unfinished, again=True)
        if unfinished.is_void(answer, self._clock()):
            self._unfinished.forget(self._request, unfinished)
            yield CloseResponse()
            return False
        if is_refused(answer):
            yield from self._pay_again(unfinished, answer)
        return True

    def _note(self, payment: OutgoingPayment, answer: Answer, outcome: Outcome) -> None:
        """Say what the request cost, and remember what is free."""
        request, offer, charged = self._request, payment.offer, outcome.charged
        if says_free(answer, charged):
            self._ask_next()
        elif charged:
            self._prices.was_taken(request.origin, request.method, request.target, offer)
        id_ = format_payment_id(payment.payment_id)
        self._receipt = Receipt(offer.terms.scheme, offer, payment.amount, charged, id_, outcome.transaction)
