"""One sale: a request that came with a payment, from its verification to its last byte.

    kept answer? -> Verify (reserves) -> handler -> 2xx: Settle (captures) -> first byte
                                                 -> else, or client gone: Settle (releases)

The money is decided before the first byte goes out. What can happen in between, and who bears it:

- The aggregator is away at Verify: 503. It may hold a reservation, which expires; nothing was charged.
- It is away when the payment is to be captured: tried again for a while, then 503. Whether it was charged is not
  known. A whole answer is kept: the same payment, sent again, captures again (which takes nothing twice) and gets it.
  Where nothing is kept, the reservation is given back as soon as possible.
- The payment was charged before: the kept answer again, else 409. The handler never runs for it.

An exact payment has no reservation. Each handling of its request is an attempt of its own, and the aggregator lets one
attempt have the payment, among all processes and sellers. Its transfer may take longer than its client waits: while the
client is there, it is waited for as long as the offer says; then 409 `payment_pending`. A payment that names itself is
given back, and whichever process is asked next answers; of one that does not, nobody knows who asks again (see
`PaywallState`).
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import grpc

from tallystick.charges import DeferredCharge
from tallystick.errors import MalformedError, RefusedError
from tallystick.facilitator import Attempt, Settled, Verified
from tallystick.reasons import Reason
from tallystick.x402 import PAYMENT_RESPONSE_HEADER
from tallystick_client.rpc import AggregatorUnavailableError, CallRejectedError
from tallystick_client.seller.paywall import responses
from tallystick_client.seller.paywall.asgi import (
    BODY,
    START,
    App,
    Headers,
    Incoming,
    Message,
    Outgoing,
    Scope,
    Send,
    make_private,
)
from tallystick_client.seller.paywall.incoming_payment import IncomingPayment
from tallystick_client.seller.paywall.paid import SCOPE_KEY, PaidRequest
from tallystick_client.seller.paywall.response_cache import Answer, Held, Recording, is_logged_in, keepable
from tallystick_client.seller.paywall.state import PaywallState

__all__ = ["PaywallState", "Sale"]

_PAUSES_S: Final = (0.1, 0.2, 0.5, 1.0)
"""Between attempts to settle; the last one repeats."""

_log = logging.getLogger("tallystick.seller")

Refuse = Callable[[MalformedError | RefusedError, str | None], Awaitable[None]]


class OutcomeUnknownError(Exception):
    """A payment may or may not have been taken; `reason` is the aggregator's, where it said so itself."""

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class Sale:
    """One request that came with a payment. `refuse` answers it with 402, the reason and, if any, a receipt."""

    def __init__(
        self, state: PaywallState, presented: IncomingPayment, incoming: Incoming, send: Send, refuse: Refuse
    ) -> None:
        self._state = state
        self._presented = presented
        self._incoming = incoming
        self._send = send
        self._refuse = refuse
        self._terms = presented.offer.terms
        payment = presented.payment
        self._is_exact = not isinstance(payment, DeferredCharge)
        """So is every payment that its payer signed for one amount: another scheme's is handled alike."""
        self._payment: Held = b"" if isinstance(payment, DeferredCharge) else payment
        """What is settled: the reservation's handle, or the payment itself."""
        self._attempt: Attempt | None = None
        self._answer_key = presented.answer_key
        self._holds_key = False
        self._paid: PaidRequest | None = None
        self._is_kept = False
        self._is_followed = False
        self._streamed: tuple[Answer, Recording] | None = None
        self._request = ""

    async def run(self, app: App, scope: Scope) -> None:
        """Answer the request, with the application's response if it is paid for."""
        self._request = f"{scope['method']} {scope['path']}"
        kept = None if self._answer_key is None else self._state.kept.get(self._answer_key)
        if kept is not None and kept.receipt is not None:
            await self._send_answer(kept, kept.receipt)
            return
        # No reservation keeps a second request from being served for an exact payment, where the aggregator knows no
        # attempts: this does, from here on. For `deferred` the reservation does, and only who got it holds the key:
        # anybody may present a foreign payment id.
        key = self._presented.money_key
        if self._is_exact and not self._take(key):
            await responses.say_pending(self._send)
            return
        try:
            if kept is not None:
                await self._answer_again(kept)
            elif await self._verify():
                if is_logged_in(scope["headers"]):
                    self._answer_key = None
                self._take(key)
                self._paid = scope[SCOPE_KEY] = PaidRequest(self._presented)
                await self._serve(app, scope)
        finally:
            if self._holds_key:
                self._state.under_way.discard(key)

    def _take(self, key: tuple[object, ...]) -> bool:
        """Note that this money is in use here; False where it is already."""
        if key in self._state.under_way:
            return False
        self._state.under_way.add(key)
        self._holds_key = True
        return True

    async def _verify(self) -> bool:
        """Whether the payment is good for this request; False after the request was answered otherwise."""
        if self._is_exact:
            self._attempt = Attempt(os.urandom(16), self._presented.attempt_hash())
        try:
            verified = await self._state.aggregator.verify(self._terms, self._presented.payment, self._attempt)
        except RefusedError as refused:
            await self._say_refused(refused)
            return False
        except CallRejectedError as error:
            if error.status is grpc.StatusCode.INVALID_ARGUMENT:
                await self._refuse(RefusedError(Reason.PAYLOAD_INVALID, str(error)), None)
            else:
                await self._trouble(error)
            return False
        except (AggregatorUnavailableError, MalformedError) as error:
            if self._is_exact:
                self._release_later()  # it may be held; nobody else would get it until that ends
            await self._trouble(error)
            return False
        return await self._is_mine(verified)

    async def _is_mine(self, verified: Verified) -> bool:
        self._presented = replace(self._presented, payer_told=verified.payer)
        if self._is_exact:
            self._payment = verified.handle or self._payment
            if verified.replayed:
                await responses.say_used(self._send)
        else:
            self._payment = verified.handle
            if verified.replayed or not verified.handle:
                is_under_way = self._presented.money_key in self._state.under_way or not verified.replayed
                await responses.say_replayed(self._send, under_way=is_under_way)
                return False
        return not verified.replayed

    async def _say_refused(self, refused: RefusedError, receipt: str | None = None) -> None:
        """Answer what the aggregator refused: 503 or 409 where the payment may be sent again or is spent, else 402."""
        if refused.reason is Reason.PAYMENT_PENDING:
            await responses.say_pending(self._send)
        elif refused.reason is Reason.PAYMENT_USED:
            await responses.say_used(self._send)
        elif refused.reason in responses.PASSING_REASONS:
            await responses.say_unavailable(self._send, refused.message)
        else:
            await self._refuse(refused, receipt)

    async def _serve(self, app: App, scope: Scope) -> None:
        outgoing = Outgoing(self._deliver, self._decide)
        try:
            await app(scope, self._incoming.receive, outgoing.send)
        except BaseException as error:
            if outgoing.is_held and isinstance(error, Exception):
                # The server's own answer would not say what became of the payment.
                await responses.say_failed(self._send, await self._release())
            elif outgoing.is_held and not self._is_followed:
                self._release_later()
            if outgoing.is_refused and isinstance(error, Exception):
                _log.debug("the application stopped, its response was not delivered: %s", error)
                return
            raise
        if outgoing.is_held:
            self._release_later()

    async def _decide(self, start: Message, first: Message) -> Message | None:
        """Take or give back the money before the first byte; None where something else was answered."""
        assert self._paid is not None
        if await self._incoming.is_client_gone():
            self._release_later()
            return None
        if not 200 <= start["status"] < 300:
            return _with_receipt(start, list(start.get("headers", ())), await self._release())
        headers = make_private(list(start.get("headers", ())))
        if self._paid.captured == 0:
            return _with_receipt(start, headers, await self._release())
        terms = replace(self._terms, amount=self._paid.captured)
        receipt = await self._capture(self._propose(Answer(start["status"], headers, b"", terms, self._payment), first))
        return None if receipt is None else _with_receipt(start, headers, receipt)

    def _propose(self, answer: Answer, first: Message) -> Answer:
        """The answer that is to be paid for; kept already if it is whole, because taking the money may fail."""
        answer.attempt = self._attempt
        answer.payer = self._presented.payer
        headers = keepable(answer.headers)
        if self._answer_key is None or headers is None:
            return answer
        answer.headers = headers
        if first["type"] == BODY and not first.get("more_body", False):
            answer.body = first.get("body", b"")
            self._is_kept = self._state.kept.keep(self._answer_key, answer)
        else:
            self._streamed = (answer, Recording(self._state.kept.answer_bytes_max))
        return answer

    # Taking the money.

    async def _capture(self, answer: Answer) -> str | None:
        """Take the money for an answer: the receipt, or None after something else was answered."""
        try:
            return await self._settled_or_answered(answer)
        except asyncio.CancelledError:
            # The server has ended the request, some do when the client leaves. The transfer goes on.
            if self._is_exact:
                self._follow(answer)
            raise

    async def _settled_or_answered(self, answer: Answer) -> str | None:
        try:
            settled = await self._settle(answer)
        except RefusedError as refused:
            if refused.reason is not Reason.PAYMENT_USED:
                # What is still held would only wait for its expiry; given back, "not charged" is final.
                self._release_later()
            self._forget()
            await self._say_refused(refused, responses.receipt_of_refusal(self._presented, refused))
            return None
        except OutcomeUnknownError as error:
            await self._put_off(answer, error)
            return None
        if self._is_exact and settled.replayed:
            # An aggregator that knows no attempts: somebody else may have served this payment.
            self._forget()
            await responses.say_used(self._send)
            return None
        if self._is_exact and await self._incoming.is_client_gone():
            if self._presented.identifier is None:
                self._state.note_unserved(self._presented, settled, self._request)
            else:
                self._follow(answer)
            return None
        answer.receipt = responses.receipt_of(self._presented, settled)
        return answer.receipt

    def _follow(self, answer: Answer) -> None:
        self._is_followed = True
        self._state.follow(self._presented, answer, self._request)

    async def _put_off(self, answer: Answer, error: OutcomeUnknownError) -> None:
        """Tell the client to ask again, and see that the money is not lost meanwhile."""
        if self._is_exact:
            self._follow(answer)
        elif not self._is_kept:
            self._release_later()
        if self._is_exact and error.reason in {Reason.TRANSACTION_PENDING, Reason.PAYMENT_PENDING}:
            await responses.say_pending(self._send)
        else:
            await self._trouble(error)

    async def _settle(self, answer: Answer) -> Settled:
        """What was settled. Raises RefusedError or OutcomeUnknownError."""
        patience_s = self._state.settle_patience_s
        if self._is_exact:
            patience_s = max(patience_s, self._presented.offer.requirements.max_timeout_seconds)
        give_up_at = self._state.clock() + patience_s
        attempts = 0
        while True:
            reason = None
            try:
                return await self._state.aggregator.settle(answer.terms, answer.payment, answer.attempt)
            except RefusedError as refused:
                undecided = responses.UNDECIDED_REASONS if self._is_exact else responses.PASSING_REASONS
                if refused.reason not in undecided:
                    raise
                error: Exception = refused
                reason = refused.reason
            except AggregatorUnavailableError as unavailable:
                error = unavailable
            except (CallRejectedError, MalformedError) as rejected:
                raise OutcomeUnknownError(str(rejected)) from rejected
            pause_s = _PAUSES_S[min(attempts, len(_PAUSES_S) - 1)]
            attempts += 1
            late = self._state.clock() + pause_s > give_up_at
            if late or (self._is_exact and await self._incoming.is_client_gone()):
                raise OutcomeUnknownError(str(error), reason) from error
            await self._state.pause(pause_s)

    # Answers that are sent again.

    async def _answer_again(self, answer: Answer) -> None:
        """Send a kept answer after its payment was taken at last."""
        if self._is_exact and not await self._state.is_let_go(answer):
            await responses.say_pending(self._send)
            return
        self._is_kept = True
        self._payment = answer.payment
        # If it was given back, this takes it again, unless another process has taken it over.
        self._attempt = answer.attempt
        self._presented = replace(self._presented, payer_told=answer.payer)
        receipt = await self._capture(answer)
        if receipt is not None:
            await self._send_answer(answer, receipt)

    async def _send_answer(self, answer: Answer, receipt: str) -> None:
        start = {"type": START, "status": answer.status}
        await self._send(_with_receipt(start, answer.headers, receipt))
        await self._send({"type": BODY, "body": answer.body, "more_body": False})

    async def _deliver(self, message: Message) -> None:
        """Send what is paid for, and keep what is streamed."""
        await self._send(message)
        if self._streamed is None or message["type"] == START:
            return
        answer, recording = self._streamed
        body = recording.take(message)
        if body is not None and self._answer_key is not None:
            answer.body = body
            self._state.kept.keep(self._answer_key, answer)

    def _forget(self) -> None:
        if self._answer_key is not None:
            self._state.kept.forget(self._answer_key)

    # Giving the money back.

    async def _release(self) -> str | None:
        """Give back what is held; the receipt that says so for a reservation, None where that is not known."""
        try:
            async with asyncio.timeout(self._state.release_wait_s):
                await self._state.aggregator.release(self._terms, self._payment, self._attempt)
        except (AggregatorUnavailableError, CallRejectedError, MalformedError, RefusedError, TimeoutError) as error:
            _log.warning("a payment could not be given back, what is held of it will expire: %s", error)
            return None
        return None if self._is_exact else responses.receipt_of_release(self._presented)

    def _release_later(self) -> None:
        async def release() -> None:
            await self._release()

        self._state.start(release())

    async def _trouble(self, error: Exception) -> None:
        _log.warning("a payment could not be handled: %s", error)
        await responses.say_unavailable(self._send, "The payment could not be handled now; send the same one again.")


def _with_receipt(start: Message, headers: Headers, receipt: str | None) -> Message:
    if receipt is None:
        return {**start, "headers": headers}
    return {**start, "headers": [*headers, (PAYMENT_RESPONSE_HEADER.lower().encode(), receipt.encode("ascii"))]}
