"""A wallet's payments through the SDK's client: which are under way, and which are to be sent again. No I/O of its own.

The SDK asks a scheme for a payment after the 402 and tells it what came of the payment if the answer says so; that no
answer came it tells nobody. So a payment without an answer counts as lost once its task goes on to another request (a
thread: once it pays for another), or has ended: each waits for one answer at a time. The next payment for the same
request is then the lost one, sent again: it is charged once.

Everything here runs in the wallet's event loop.
"""

import time
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from x402 import schemas

from tallystick.errors import MalformedError
from tallystick.quantities import PaymentId
from tallystick.reasons import Reason
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PAYMENT_SIGNATURE_HEADER,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    SettleResponse,
    decode_header,
    encode_header,
)
from tallystick_client.payer.errors import InsecureOriginError, OfferNotAllowedError
from tallystick_client.payer.http.price_cache import FREE_METHODS
from tallystick_client.payer.http.steps import PayableRequest
from tallystick_client.payer.http.unfinished import UnfinishedPayments
from tallystick_client.payer.policy.answers import Answer, is_refused, reason_in, told_error
from tallystick_client.payer.policy.offers import choose
from tallystick_client.payer.wallet.schemes.port import Order, OutgoingPayment, Payer
from tallystick_client.x402.binding import resource_request
from tallystick_client.x402.messages import ours

_OK: Final = 200
_PAYMENT_REQUIRED: Final = 402
_FAILED: Final = 500

shown: ContextVar[PayableRequest | None] = ContextVar("tallystick_request", default=None)
"""The request that is under way here, where an HTTP client shows it."""


@dataclass(slots=True, eq=False)
class _UnderWay:
    request: PayableRequest
    payment: OutgoingPayment
    was_sent_before: bool
    is_kept: bool
    """Whether a lost payment is sent again: a tool's arguments are not known here, its next call may be another."""


class WalletPayments:
    """The payments of one scheme out of one wallet. `require_https`: pay over plain http on this machine only."""

    def __init__(
        self, wallet: Payer, scheme: str, clock: Callable[[], float] = time.time, *, require_https: bool = True
    ) -> None:
        self._wallet = wallet
        self._scheme = wallet.schemes[scheme]
        self._clock = clock
        self._require_https = require_https
        self._unfinished = UnfinishedPayments(clock)
        self._under_way: dict[Hashable, _UnderWay] = {}
        self._again: dict[Hashable, tuple[PayableRequest, PaymentId]] = {}

    async def pay(
        self,
        owner: Hashable,
        required: schemas.PaymentRequired,
        selected: schemas.PaymentRequirements,
        request: PayableRequest | None,
    ) -> dict[str, Any]:
        """The scheme's part of a payment for what was selected of a 402, as the SDK takes it.

        `owner`: who waits for the answer, a task or a thread. Raises MalformedError, and what paying raises (`Scheme`).
        """
        again = self._again.pop(owner, None)
        self.lost(owner)
        if request is None:
            request = resource_request(required.resource.url if required.resource is not None else "")
        self._check(request)
        payment = self._unfinished.take(request)
        was_sent_before = payment is not None
        if payment is None:
            offer = choose(PaymentRequired(accepts=[ours(selected, PaymentRequirements, "accepts")]), self._wallet)
            id_ = again[1] if again is not None and again[0].key == request.key else None
            order = Order(request.host, request.request_hash, self._clock, id_)
            payment = await self._scheme.pay(self._wallet, offer, order)
        self._under_way[owner] = _UnderWay(request, payment, was_sent_before, is_kept=not _is_tool(request))
        message = decode_header(payment.header, PaymentPayload, PAYMENT_SIGNATURE_HEADER)
        return {**message.payload, "__extensions": message.extensions or {}}

    async def answered(self, owner: Hashable, answer: Answer) -> bool:
        """Enter an answer to the owner's payment; whether another payment is worth a try."""
        found = self._under_way.pop(owner, None)
        if found is None:
            return False
        payment, request = found.payment, found.request
        reason = reason_in(told_error(answer.headers))
        if is_refused(answer) and reason is Reason.PAYMENT_PENDING:
            # The SDK's servers have no other status for a payment that is under way.
            payment.lost()
            self._keep(found)
            return False
        if payment.answered(answer).is_open:
            self._keep(found)
            return False
        if not is_refused(answer):
            return False
        if found.was_sent_before:
            return payment.is_void(answer, self._clock())
        if not await payment.recover(self._wallet, reason, request.host):
            return False
        self._again[owner] = request, payment.payment_id
        return True

    def lost(self, owner: Hashable) -> None:
        """No answer came to the owner's payment, if it has one: the next try of its request sends it again."""
        self._again.pop(owner, None)
        found = self._under_way.pop(owner, None)
        if found is not None:
            found.payment.lost()
            self._keep(found)

    def owners(self) -> list[Hashable]:
        """Who has a payment under way, or was told to make another."""
        return [*self._under_way, *self._again]

    def _check(self, request: PayableRequest) -> None:
        """Raise as our own transports do where nothing is to be paid at all."""
        if request.method in FREE_METHODS:
            raise OfferNotAllowedError([f"{request.method} carries no page to pay for"])
        if not _is_tool(request) and self._require_https and not request.is_private:
            raise InsecureOriginError(request.origin)

    def _keep(self, found: _UnderWay) -> None:
        if found.is_kept:
            self._unfinished.keep(found.request, found.payment)

    def default_asset(self, asset: str, network: str) -> dict[str, Any] | None:
        """A token of the wallet's allow-list in the form of the SDK's known ones: it may be spent, within limits."""
        for operator in self._wallet.operators:
            for token in operator.tokens:
                if str(operator.network) == network and "0x" + token.address.hex() == asset.lower():
                    return {
                        "asset": asset,
                        "name": token.name,
                        "version": token.version,
                        "decimals": token.decimals,
                        "symbol": token.symbol,
                    }
        return None


def _is_tool(request: PayableRequest) -> bool:
    return request.origin.startswith("mcp:")


def told_answer(context: schemas.PaymentResponseContext) -> Answer:
    """What the SDK read from an answer, as an answer."""
    if context.settle_response is not None:
        return _with_receipt(context.settle_response)
    required = context.payment_required
    if not isinstance(required, schemas.PaymentRequired):
        raise MalformedError("x402Version", getattr(required, "x402_version", None), "2")
    header = encode_header(ours(required, PaymentRequired, PAYMENT_REQUIRED_HEADER))
    return Answer(_PAYMENT_REQUIRED, {PAYMENT_REQUIRED_HEADER: header})


def tool_answer(receipt: schemas.SettleResponse | None) -> Answer:
    """What an MCP tool's result says of its payment, as an answer; one that says nothing leaves it open."""
    if receipt is None:
        return Answer(_FAILED, {})
    return _with_receipt(receipt)


def _with_receipt(receipt: schemas.SettleResponse) -> Answer:
    header = encode_header(ours(receipt, SettleResponse, PAYMENT_RESPONSE_HEADER))
    return Answer(_OK if receipt.success else _PAYMENT_REQUIRED, {PAYMENT_RESPONSE_HEADER: header})
