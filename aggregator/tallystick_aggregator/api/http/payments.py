"""POST /verify and POST /settle: decode, ask the facilitator, encode. Plain ASGI, as they are what is asked most.

A client that goes away cancels nothing: what it asked for goes on, and the same payment again learns the outcome.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol

from starlette.types import Receive, Scope, Send

from tallystick.errors import MalformedError
from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick.x402 import PaymentTerms, read_terms
from tallystick.x402.facilitator import SettleRequest, VerifyRequest
from tallystick_aggregator.api.http import responses
from tallystick_aggregator.api.http.limits import HttpLimits, Seats
from tallystick_aggregator.api.http.reason_codes import (
    INVALID_PAYLOAD,
    INVALID_REQUIREMENTS,
    INVALID_VERSION,
    standard_code,
)
from tallystick_aggregator.api.http.requests import (
    NO_STRANGERS,
    Asked,
    ClientGoneError,
    OldVersionError,
    read_body,
    read_request,
    token_of,
)
from tallystick_aggregator.api.http.responses import ProblemError, Reply, problem_of, problem_reply
from tallystick_aggregator.auth.credentials import Principal, UnauthenticatedError
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.port import NOBODY, PAYLOAD, Caller, EncodedPayment

ASK_AGAIN_S: Final = 0.5
"""Between two looks at a settlement that is on its way."""
STOPPING: Final = "the facilitator is stopping; send the same request again to learn its outcome"
STOPPED_S: Final = 5
"""When to ask again: a restart takes about as long."""
OLD_VERSION: Final = (
    "got x402Version 1, allowed 2: this facilitator speaks x402 version 2 only. Use a version 2 client and server SDK;"
    " networks are then CAIP-2 names such as eip155:8453, and the amount is in `amount`"
)


class Verb(Protocol):
    """What is done with a payment, and how its outcome is told."""

    @property
    def name(self) -> str:
        """The path without its slash."""
        ...

    @property
    def request(self) -> type[VerifyRequest] | type[SettleRequest]:
        """What is posted."""
        ...

    async def answer(
        self, principal: Principal | None, terms: PaymentTerms, payment: EncodedPayment, caller: Caller
    ) -> bytes:
        """Do it, and return x402's answer."""
        ...

    def refused(self, code: str, message: str, network: str = "") -> bytes:
        """Return x402's answer to what was not even tried."""
        ...


class Verifying:
    """POST /verify."""

    name = "verify"
    request = VerifyRequest

    def __init__(self, facilitator: Facilitator) -> None:
        self._facilitator = facilitator

    async def answer(
        self, principal: Principal | None, terms: PaymentTerms, payment: EncodedPayment, caller: Caller
    ) -> bytes:
        """Check the payment."""
        answer, payer = await self._facilitator.verify(principal, terms, payment, caller)
        if isinstance(answer, Verified) and answer.replayed:
            # x402's answer has no word for it, so its server would serve another page for the same payment.
            answer = refuse(Why.PAYMENT_SERVED)
        if not isinstance(answer, Refusal):
            return responses.verified(answer)
        code = self._facilitator.reason_code(terms.scheme, answer) or standard_code(answer.reason, self.name)
        return responses.not_verified(code, answer.message, payer, responses.refusal_extra(answer))

    def refused(self, code: str, message: str, network: str = "") -> bytes:
        """See Verb."""
        del network
        return responses.not_verified(code, message)


class Settling:
    """POST /settle. It stays open until the outcome is known, or the seller waits no longer."""

    name = "settle"
    request = SettleRequest

    def __init__(
        self,
        facilitator: Facilitator,
        settle_s_max: float,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`settle_s_max` bounds what the terms' `maxTimeoutSeconds` asks for; `pause` lets seconds pass."""
        self._facilitator = facilitator
        self._settle_s_max = settle_s_max
        self._pause = pause

    async def answer(
        self, principal: Principal | None, terms: PaymentTerms, payment: EncodedPayment, caller: Caller
    ) -> bytes:
        """Settle the payment."""
        answer = await self._outcome(principal, terms, payment, caller)
        network = str(terms.network)
        if not isinstance(answer, Refusal):
            return responses.settled(answer, network)
        code = self._facilitator.reason_code(terms.scheme, answer) or standard_code(answer.reason, self.name)
        extra = responses.refusal_extra(answer)
        return responses.not_settled(code, answer.message, network, answer.transaction, extra)

    def refused(self, code: str, message: str, network: str = "") -> bytes:
        """See Verb."""
        return responses.not_settled(code, message, network)

    async def _outcome(
        self, principal: Principal | None, terms: PaymentTerms, payment: EncodedPayment, caller: Caller
    ) -> Settled | Refusal:
        """Settle; while its transaction is on the way, settle again, which only asks what became of it."""
        clock = asyncio.get_running_loop().time
        until = clock() + min(terms.max_timeout_s, self._settle_s_max)
        if terms.max_timeout_s > self._settle_s_max:
            terms = replace(terms, max_timeout_s=max(1, int(self._settle_s_max)))
        while True:
            answer = await self._facilitator.settle(principal, terms, payment, caller, release=False)
            is_on_its_way = isinstance(answer, Refusal) and answer.reason is Reason.TRANSACTION_PENDING
            if not is_on_its_way or clock() >= until:
                return answer
            await self._pause(ASK_AGAIN_S)


class PaymentRoute:
    """One of the two paths."""

    def __init__(self, facilitator: Facilitator, verb: Verb, limits: HttpLimits, seats: Seats) -> None:
        self._facilitator = facilitator
        self._verb = verb
        self._limits = limits
        self._seats = seats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            reply = await self._answer(scope, receive)
        except ClientGoneError:
            return
        except asyncio.CancelledError:
            # The server stops and waits no longer. What was sent is on disk, so the same request finds it afterwards.
            reply = self._problem(ProblemError(503, "stopping", STOPPING, retry_after_s=STOPPED_S))
        except Exception as error:  # noqa: BLE001 - the outermost edge
            reply = self._problem(problem_of(error, self._verb.name))
        await reply.send_to(send)

    def _problem(self, problem: ProblemError) -> Reply:
        return problem_reply(problem, self._verb.refused(_code_of(problem, self._verb.name), problem.message))

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        principal = self._principal(scope)
        with self._seats.seat() if principal is None else self._seats.seat(principal.name):
            body = await read_body(scope, receive, self._limits)
            try:
                asked = read_request(body, self._verb.request, self._limits)
            except OldVersionError as old:
                return Reply(200, self._verb.refused(INVALID_VERSION, OLD_VERSION, old.network))
            return Reply(200, await self._ask(principal, asked), responses.extension_outcomes(asked.payload.extensions))

    def _principal(self, scope: Scope) -> Principal | None:
        """Return who calls, None for a stranger where strangers may do anything; raises DeniedError."""
        token = token_of(scope["headers"])
        if token is not None:
            return self._facilitator.charger(token)
        if not self._facilitator.is_open:
            raise UnauthenticatedError(NO_STRANGERS)
        return None

    async def _ask(self, principal: Principal | None, asked: Asked) -> bytes:
        network = asked.requirements.network
        try:
            terms = read_terms(asked.requirements, "paymentRequirements")
        except MalformedError as error:
            return self._verb.refused(INVALID_REQUIREMENTS, str(error), network)
        if principal is None and not self._facilitator.takes_strangers(terms.scheme):
            raise UnauthenticatedError(NO_STRANGERS)
        caller = NOBODY if principal is None else Caller(principal.name)
        try:
            return await self._verb.answer(principal, terms, EncodedPayment(PAYLOAD, asked.payload), caller)
        except MalformedError as error:
            return self._verb.refused(INVALID_PAYLOAD, str(error), network)


def _code_of(problem: ProblemError, verb: str) -> str:
    """The standard code of an error, for SDKs that look for one."""
    return INVALID_PAYLOAD if problem.status == 400 else f"unexpected_{verb}_error"
