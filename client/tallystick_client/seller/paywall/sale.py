"""One sale: a request that came with a payment, from its verification to its last byte.

    kept answer? -> Verify (reserves) -> application -> 2xx: Settle (captures) -> first byte
                                                     -> else, or client gone: Settle (releases)

A payment that buys nothing, as a request for a refund, is settled without the application. Where another request is
under way on the payer's channel, this one waits for a while: then its answer may be kept, or the channel be free.

The money is decided before the first byte goes out. What can happen in between, and who bears it:

- The aggregator is away at Verify: 503. It may hold a reservation, which expires; nothing was charged.
- It is away when the payment is to be captured: tried again for a while, then 503. Whether it was charged is not
  known. A whole answer is kept: the same payment, sent again, captures again (which takes nothing twice) and gets it.
  Where nothing is kept, the reservation is given back as soon as possible.
- The payment was charged before: the kept answer again, else 409. The application never runs for it.

A payment that is not reserved, as of `exact`, is an attempt's. Each handling of its request is an attempt of its own,
and the aggregator lets one attempt have the payment, among all processes and sellers. Its transfer may take longer than
its client waits: while the client is there, it is waited for as long as the offer says; then 409 `payment_pending`. A
payment that names itself is given back, and whichever process is asked next answers; of one that does not, nobody knows
who asks again (see `PaywallState`).
"""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tallystick.errors import MalformedError, RefusedError
from tallystick.facilitator import Attempt, Verified
from tallystick.reasons import Reason
from tallystick_client.errors import AggregatorUnavailableError, CallRejectedError
from tallystick_client.seller.paywall import responses
from tallystick_client.seller.paywall.headers import make_private
from tallystick_client.seller.paywall.paid import SCOPE_KEY, PaidRequest
from tallystick_client.seller.paywall.response_cache import Answer, Recording, is_logged_in, keepable
from tallystick_client.seller.paywall.schemes.port import Held, IncomingPayment
from tallystick_client.seller.paywall.settling import PAUSES_S, OutcomeUnknownError, settle
from tallystick_client.seller.paywall.state import PaywallState
from tallystick_client.seller.paywall.steps import (
    AppResponse,
    AskAggregator,
    AwaitWork,
    Background,
    CallApp,
    CheckClient,
    ContinueApp,
    Deliver,
    Flow,
    Headers,
    Part,
    RequestHead,
    SendResponse,
    StopApp,
    Wait,
    Work,
)

_OK: Final = 200

_log = logging.getLogger("tallystick.seller")

Refuse = Callable[[MalformedError | RefusedError, str | None], SendResponse]


class Sale:
    """One request that came with a payment. `refuse` makes its 402, with the reason and, if any, a receipt."""

    def __init__(self, state: PaywallState, payment: IncomingPayment, head: RequestHead, refuse: Refuse) -> None:
        self._state = state
        self._payment = payment
        self._head = head
        self._refuse = refuse
        self._terms = payment.offer.terms
        self._is_reserved = payment.is_reserved
        self._held: Held = payment.held
        self._attempt: Attempt | None = None
        self._answer_key = payment.answer_key
        self._holds_key = False
        self._paid: PaidRequest | None = None
        self._is_kept = False
        self._is_followed = False
        self._streamed: tuple[Answer, Recording] | None = None

    def run(self) -> Flow[None]:
        """Answer the request, with the application's response if it is paid for."""
        kept = self._kept()
        if kept is not None and kept.receipt is not None:
            yield _repeated(kept, kept.receipt)
            return
        # No reservation keeps a second request from being served for an exact payment, where the aggregator knows no
        # attempts: this does, from here on. For `deferred` the reservation does, and only who got it holds the key:
        # anybody may present a foreign payment id.
        if not self._is_reserved and not self._take_key():
            yield responses.pending()
            return
        try:
            if kept is not None:
                yield from self._answer_again(kept)
            elif (yield from self._verify()):
                if is_logged_in(self._head.headers):
                    self._answer_key = None
                self._take_key()
                if self._payment.instead is not None:
                    yield from self._settle_only(self._payment.instead)
                    return
                self._paid = self._head.scope[SCOPE_KEY] = PaidRequest(self._payment)
                yield from self._serve()
        finally:
            if self._holds_key:
                self._state.under_way.discard(self._payment.money_key)

    def _take_key(self) -> bool:
        """Note that this money is in use here; False where it is already."""
        key = self._payment.money_key
        if key in self._state.under_way:
            return False
        self._state.under_way.add(key)
        self._holds_key = True
        return True

    def _verify(self) -> Flow[bool]:
        """Whether the payment is good for this request; False after the request was answered otherwise."""
        if not self._is_reserved:
            self._attempt = Attempt(os.urandom(16), self._payment.attempt_hash())
        try:
            verified = yield from self._verified()
        except RefusedError as refused:
            yield self._refused(refused)
            return False
        except CallRejectedError as error:
            is_malformed = error.status.name == "INVALID_ARGUMENT"
            nothing = responses.receipt_of_nothing(str(self._terms.network))
            yield responses.malformed_payment(error, nothing) if is_malformed else _trouble(error)
            return False
        except (AggregatorUnavailableError, MalformedError) as error:
            if not self._is_reserved:
                yield self._release_later()  # it may be held; nobody else would get it until that ends
            yield _trouble(error)
            return False
        if verified is None:
            return False
        self._payment = replace(self._payment, payer=self._payment.payer or verified.payer)
        if self._is_reserved:
            held = self._payment.offer.scheme.held(self._payment, verified)
            if held is None:
                is_under_way = self._payment.money_key in self._state.under_way or not verified.replayed
                yield responses.replayed(under_way=is_under_way)
                return False
            self._held = held
        elif verified.replayed:
            yield responses.used()
            return False
        else:
            self._held = verified.handle or self._held
        return True

    def _verified(self) -> Flow[Verified | None]:
        """What Verify answers, once no other request is under way on the payer's channel, or patience ends.

        None where the request was answered meanwhile, or its client has left. Raises what Verify raises.
        """
        give_up_at, pauses_s = self._state.clock() + self._state.busy_patience_s, iter(PAUSES_S)
        while True:
            try:
                verified: Verified = yield AskAggregator("verify", (self._terms, self._payment.payment, self._attempt))
            except RefusedError as refused:
                pause_s = next(pauses_s, PAUSES_S[-1])
                if refused.reason is not Reason.CHANNEL_BUSY or self._state.clock() + pause_s > give_up_at:
                    raise
            else:
                return verified
            yield Wait(pause_s)
            kept = self._kept()
            if kept is not None and kept.receipt is not None:
                # The other one was the same request: its client has lost the answer, and asks again.
                yield _repeated(kept, kept.receipt)
                return None
            if (yield CheckClient()):
                return None

    def _kept(self) -> Answer | None:
        return None if self._answer_key is None else self._state.kept.get(self._answer_key)

    def _refused(self, refused: RefusedError, receipt: str | None = None) -> SendResponse:
        """What the aggregator refused: 503 or 409 where the payment may be sent again or is spent, else 402."""
        if refused.reason is Reason.PAYMENT_PENDING:
            return responses.pending()
        if refused.reason is Reason.PAYMENT_USED:
            return responses.used()
        if refused.reason in responses.PASSING_REASONS:
            return responses.unavailable(refused.message)
        return self._refuse(refused, receipt)

    def _settle_only(self, body: bytes) -> Flow[None]:
        """Settle a payment that buys nothing, and answer with this body."""
        headers: Headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        answer = Answer(_OK, make_private(headers), body, self._terms, self._held)
        receipt = yield from self._capture(self._propose(answer, Part(body, is_last=True)))
        if receipt is not None:
            yield _repeated(answer, receipt)

    # The application.

    def _serve(self) -> Flow[None]:
        try:
            response: AppResponse | None = yield CallApp(self._paid)
            if response is None:
                yield self._release_later()
                return
            headers = yield from self._decide(response)
        except Exception:
            # The server's own answer would not say what became of the payment.
            yield responses.failed((yield from self._release()))
            raise
        except GeneratorExit:
            raise
        except BaseException:
            if not self._is_followed:
                yield self._release_later()
            raise
        if headers is not None:
            yield from self._deliver(headers)
            return
        try:
            yield StopApp()
        except Exception as error:  # noqa: BLE001 - whatever it is, the request was answered
            _log.debug("the application stopped, its response was not delivered: %s", error)

    def _decide(self, response: AppResponse) -> Flow[Headers | None]:
        """Take or give back the money before the first byte: the headers, or None where something else was answered."""
        assert self._paid is not None
        if (yield CheckClient()):
            yield self._release_later()
            return None
        if not 200 <= response.status < 300:
            return responses.with_receipt(response.headers, (yield from self._release()))
        headers = make_private(response.headers)
        if self._paid.captured == 0 and not self._payment.offer.scheme.takes_less:
            return responses.with_receipt(headers, (yield from self._release()))
        terms = replace(self._terms, amount=self._paid.captured)
        answer = Answer(response.status, headers, b"", terms, self._held)
        receipt = yield from self._capture(self._propose(answer, response.first))
        return None if receipt is None else responses.with_receipt(headers, receipt)

    def _propose(self, answer: Answer, first: Part) -> Answer:
        """The answer that is to be paid for; kept already if it is whole, because taking the money may fail."""
        answer.attempt = self._attempt
        answer.payer = self._payment.payer
        headers = keepable(answer.headers)
        if self._answer_key is None or headers is None:
            return answer
        answer.headers = headers
        if first.is_last and first.body is not None:
            answer.body = first.body
            self._is_kept = self._state.kept.keep(self._answer_key, answer)
        else:
            self._streamed = (answer, Recording(self._state.kept.answer_bytes_max))
        return answer

    def _deliver(self, headers: Headers) -> Flow[None]:
        """Send what is paid for, and keep what is streamed."""
        part: Part | None = yield Deliver(headers)
        while part is not None:
            if self._streamed is not None and self._answer_key is not None:
                answer, recording = self._streamed
                body = recording.take(part)
                if body is not None:
                    answer.body = body
                    self._state.kept.keep(self._answer_key, answer)
            part = yield ContinueApp()

    # Taking the money.

    def _capture(self, answer: Answer, *, is_again: bool = False) -> Flow[str | None]:
        """Take the money for an answer: the receipt, or None after something else was answered."""
        try:
            return (yield from self._settled_or_answered(answer, is_again=is_again))
        except (Exception, GeneratorExit):
            raise
        except BaseException:
            # The server has ended the request, some do when the client leaves. The transfer goes on.
            if not self._is_reserved:
                yield self._follow(answer)
            raise

    def _settled_or_answered(self, answer: Answer, *, is_again: bool) -> Flow[str | None]:
        try:
            settled = yield from settle(self._state, self._payment, answer, is_again=is_again)
        except RefusedError as refused:
            if refused.reason is not Reason.PAYMENT_USED:
                # What is still held would only wait for its expiry; given back, "not charged" is final.
                yield self._release_later()
            self._forget()
            yield self._refused(refused, responses.receipt_of_refusal(str(self._terms.network), refused))
            return None
        except OutcomeUnknownError as error:
            yield from self._put_off(answer, error)
            return None
        if self._is_reserved:
            answer.receipt = responses.receipt_of(self._payment, settled)
            return answer.receipt
        if settled.replayed:
            # An aggregator that knows no attempts: somebody else may have served this payment.
            self._forget()
            yield responses.used()
            return None
        if (yield CheckClient()):
            if self._payment.identifier is None:
                self._state.note_unserved(self._payment, settled, self._request)
            else:
                yield self._follow(answer)
            return None
        answer.receipt = responses.receipt_of(self._payment, settled)
        return answer.receipt

    @property
    def _request(self) -> str:
        return f"{self._head.method} {self._head.path}"

    def _follow(self, answer: Answer) -> Background:
        self._is_followed = True
        return self._state.follow(self._payment, answer, self._request)

    def _put_off(self, answer: Answer, error: OutcomeUnknownError) -> Flow[None]:
        """Tell the client to ask again, and see that the money is not lost meanwhile."""
        if not self._is_reserved:
            yield self._follow(answer)
        elif not self._is_kept:
            yield self._release_later()
        is_landing = self._payment.moves_money or not self._is_reserved
        if is_landing and error.reason in {Reason.TRANSACTION_PENDING, Reason.PAYMENT_PENDING}:
            yield responses.pending()
        else:
            yield _trouble(error)

    # Answers that are sent again.

    def _answer_again(self, answer: Answer) -> Flow[None]:
        """Send a kept answer after its payment was taken at last."""
        work = self._state.following.get(id(answer))
        if work is not None:
            # One that is taken again while it is still being given back could be another process's in the next moment.
            yield AwaitWork(work, self._state.release_wait_s)
            if not work.is_done:
                yield responses.pending()
                return
        self._is_kept = True
        self._held = answer.payment
        # If it was given back, this takes it again, unless another process has taken it over.
        self._attempt = answer.attempt
        self._payment = replace(self._payment, payer=answer.payer)
        receipt = yield from self._capture(answer, is_again=True)
        if receipt is not None:
            yield _repeated(answer, receipt)

    def _forget(self) -> None:
        if self._answer_key is not None:
            self._state.kept.forget(self._answer_key)

    # Giving the money back.

    def _release(self) -> Flow[str | None]:
        """Give back what is held; the receipt that says so for a reservation, None where that is not known."""
        try:
            yield AskAggregator("release", (self._terms, self._held, self._attempt), self._state.release_wait_s)
        except (AggregatorUnavailableError, CallRejectedError, MalformedError, RefusedError, TimeoutError) as error:
            _log.warning("a payment could not be given back, what is held of it will expire: %s", error)
            return None
        return responses.receipt_of_nothing(str(self._terms.network)) if self._is_reserved else None

    def _release_later(self) -> Background:
        def release() -> Flow[None]:
            yield from self._release()

        return Background(Work(release()))


def _trouble(error: Exception) -> SendResponse:
    _log.warning("a payment could not be handled: %s", error)
    return responses.unavailable("The payment could not be handled now; send the same one again.")


def _repeated(answer: Answer, receipt: str) -> SendResponse:
    return SendResponse(answer.status, responses.with_receipt(answer.headers, receipt), answer.body)
