"""One sale: a request that came with a payment, from its verification to its last byte.

    kept answer? -> Verify (reserves) -> handler -> 2xx: Settle (captures) -> first byte
                                                 -> else, or client gone: Settle (releases)

The money is decided before the first byte goes out. What can happen in between, and who bears it:

- The aggregator is away at Verify: 503. It may hold a reservation, which expires; nothing was charged.
- It is away when the payment is to be captured: tried again for a while, then 503. Whether it was charged is not
  known. A whole answer is kept: the same payment, sent again, captures again (which takes nothing twice) and gets it.
  Where nothing is kept, the reservation is given back as soon as possible.
- The payment was charged before: the kept answer again, else 409. The handler never runs for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final

import grpc

from tallystick.errors import MalformedError, Refused
from tallystick.reasons import Reason
from tallystick.x402 import PAYMENT_RESPONSE_HEADER, ExactAuthorization, PaymentTerms
from tallystick_client.rpc import AggregatorUnavailable, CallRejected
from tallystick_client.seller import answers
from tallystick_client.seller.aggregator import Aggregator
from tallystick_client.seller.asgi import (
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
from tallystick_client.seller.kept import Answer, KeptAnswers, Recording
from tallystick_client.seller.messages import Settled, Verified
from tallystick_client.seller.paid import SCOPE_KEY, PaidRequest
from tallystick_client.seller.presented import Presented

RELEASE_WAIT_S: Final = 2.0
"""How long a response waits for its reservation to be given back; the reservation expires by itself."""
_PAUSES_S: Final = (0.1, 0.2, 0.5, 1.0)
"""Between attempts to settle; the last one repeats."""

_log = logging.getLogger("tallystick.seller")

Refuse = Callable[[MalformedError | Refused, str | None], Awaitable[None]]


class OutcomeUnknown(Exception):
    """A payment may or may not have been taken."""


@dataclass(slots=True)
class Till:
    """What the sales of one paywall share."""

    aggregator: Aggregator
    kept: KeptAnswers
    settle_patience_s: float
    under_way: set[tuple[object, ...]] = field(default_factory=set[tuple[object, ...]])
    """The money of requests that are being served here."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait until all that was started is done."""
        while self._tasks:
            await asyncio.wait(self._tasks)


class Sale:
    """One request that came with a payment. `refuse` answers it with 402, the reason and, if any, a receipt."""

    def __init__(self, till: Till, presented: Presented, incoming: Incoming, send: Send, refuse: Refuse) -> None:
        self._till = till
        self._presented = presented
        self._incoming = incoming
        self._send = send
        self._refuse = refuse
        self._terms = presented.offer.terms
        self._handle = b""
        self._holds_key = False
        self._paid: PaidRequest | None = None
        self._is_kept = False
        self._streamed: tuple[Answer, Recording] | None = None

    async def run(self, app: App, scope: Scope) -> None:
        """Answer the request, with the application's response if it is paid for."""
        kept = self._till.kept.get(self._presented.answer_key)
        if kept is not None:
            await self._answer_again(kept)
            return
        # No reservation keeps a second request from being served for an exact payment: this does, from here on. For
        # `deferred` the reservation does, and only who got it holds the key: anybody may present a foreign payment id.
        key = self._presented.money_key
        is_exact = isinstance(self._presented.payment, ExactAuthorization)
        if is_exact and not self._take(key):
            await answers.say_replayed(self._send, under_way=True)
            return
        try:
            verified = await self._verify()
            if verified is None:
                return
            if verified.replayed or not (is_exact or verified.handle):
                is_under_way = not is_exact and (key in self._till.under_way or not verified.replayed)
                await answers.say_replayed(self._send, under_way=is_under_way)
                return
            self._handle = verified.handle
            self._take(key)
            self._paid = scope[SCOPE_KEY] = PaidRequest(self._presented)
            await self._serve(app, scope)
        finally:
            if self._holds_key:
                self._till.under_way.discard(key)

    def _take(self, key: tuple[object, ...]) -> bool:
        """Note that this money is in use here; False where it is already."""
        if key in self._till.under_way:
            return False
        self._till.under_way.add(key)
        self._holds_key = True
        return True

    async def _verify(self) -> Verified | None:
        """The verified payment; None after the request was answered otherwise."""
        try:
            return await self._till.aggregator.verify(self._terms, self._presented.payment)
        except Refused as refused:
            if refused.reason in answers.PASSING_REASONS:
                await answers.say_unavailable(self._send, refused.message)
            else:
                await self._refuse(refused, None)
        except CallRejected as error:
            if error.status is grpc.StatusCode.INVALID_ARGUMENT:
                await self._refuse(Refused(Reason.PAYLOAD_INVALID, str(error)), None)
            else:
                await self._trouble(error)
        except (AggregatorUnavailable, MalformedError) as error:
            await self._trouble(error)
        return None

    async def _serve(self, app: App, scope: Scope) -> None:
        outgoing = Outgoing(self._deliver, self._decide)
        try:
            await app(scope, self._incoming.receive, outgoing.send)
        except BaseException as error:
            if outgoing.is_held and isinstance(error, Exception):
                # The server's own answer would not say what became of the payment.
                await answers.say_failed(self._send, await self._release())
            elif outgoing.is_held:
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
        receipt = await self._capture(self._propose(terms, start["status"], headers, first))
        return None if receipt is None else _with_receipt(start, headers, receipt)

    def _propose(self, terms: PaymentTerms, status: int, headers: Headers, first: Message) -> Answer:
        """The answer that is to be paid for; kept already if it is whole, because taking the money may fail."""
        payment = self._presented.payment
        answer = Answer(
            status, headers, b"", terms, payment if isinstance(payment, ExactAuthorization) else self._handle
        )
        if first["type"] == BODY and not first.get("more_body", False):
            answer.body = first.get("body", b"")
            self._is_kept = self._till.kept.keep(self._presented.answer_key, answer)
        else:
            self._streamed = (answer, Recording(self._till.kept.answer_bytes_max))
        return answer

    async def _capture(self, answer: Answer, *, again: bool = False) -> str | None:
        """Take the money for an answer: the receipt, or None after something else was answered."""
        try:
            settled, attempts = await self._settle(answer)
        except Refused as refused:
            # What is still held would only wait for its expiry; given back, "not charged" is final.
            self._release_later()
            self._forget()
            await self._refuse(refused, answers.receipt_of_refusal(self._presented, refused))
            return None
        except OutcomeUnknown as error:
            if not self._is_kept:
                self._release_later()
            await self._trouble(error)
            return None
        if settled.replayed and attempts == 1 and not again and isinstance(answer.payment, ExactAuthorization):
            # Another process served this payment while the handler ran here.
            self._forget()
            await answers.say_replayed(self._send, under_way=False)
            return None
        answer.receipt = answers.receipt_of(self._presented, settled)
        return answer.receipt

    async def _settle(self, answer: Answer) -> tuple[Settled, int]:
        """What was settled, and at which attempt. Raises Refused or OutcomeUnknown."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._till.settle_patience_s
        attempts = 0
        while True:
            attempts += 1
            try:
                return await self._till.aggregator.settle(answer.terms, answer.payment), attempts
            except Refused as refused:
                if refused.reason not in answers.PASSING_REASONS:
                    raise
                error: Exception = refused
            except AggregatorUnavailable as unavailable:
                error = unavailable
            except (CallRejected, MalformedError) as rejected:
                raise OutcomeUnknown(str(rejected)) from rejected
            pause_s = _PAUSES_S[min(attempts, len(_PAUSES_S)) - 1]
            if loop.time() + pause_s > give_up_at:
                raise OutcomeUnknown(str(error)) from error
            await asyncio.sleep(pause_s)

    async def _answer_again(self, answer: Answer) -> None:
        """Send a kept answer, after its payment was taken at last if that is still to be done."""
        self._is_kept = True
        self._handle = answer.payment if isinstance(answer.payment, bytes) else b""
        receipt = answer.receipt or await self._capture(answer, again=True)
        if receipt is None:
            return
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
        if body is not None:
            answer.body = body
            self._till.kept.keep(self._presented.answer_key, answer)

    def _forget(self) -> None:
        self._till.kept.forget(self._presented.answer_key)

    async def _release(self) -> str | None:
        """Give the reservation back; the receipt that says so, None where that is not known."""
        if isinstance(self._presented.payment, ExactAuthorization):
            return None
        try:
            async with asyncio.timeout(RELEASE_WAIT_S):
                await self._till.aggregator.release(self._terms, self._handle)
        except (AggregatorUnavailable, CallRejected, MalformedError, Refused, TimeoutError) as error:
            _log.warning("a reservation could not be given back, it will expire: %s", error)
            return None
        return answers.receipt_of_release(self._presented)

    def _release_later(self) -> None:
        async def release() -> None:
            await self._release()

        self._till.start(release())

    async def _trouble(self, error: Exception) -> None:
        _log.warning("a payment could not be handled: %s", error)
        await answers.say_unavailable(self._send, "The payment could not be handled now; send the same one again.")


def _with_receipt(start: Message, headers: Headers, receipt: str | None) -> Message:
    if receipt is None:
        return {**start, "headers": headers}
    return {**start, "headers": [*headers, (PAYMENT_RESPONSE_HEADER.lower().encode(), receipt.encode("ascii"))]}
