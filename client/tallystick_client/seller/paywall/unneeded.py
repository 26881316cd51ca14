"""Payments that came with requests that cost nothing: the answer says that nothing was charged.

Payers send payments ahead, and may be wrong about what costs something. Without a word about it, such a payment would
count as spent until its payer has compared its book with the aggregator's.
"""

from collections.abc import Sequence
from typing import Final

from tallystick.errors import MalformedError
from tallystick.x402 import PAYMENT_RESPONSE_HEADER
from tallystick_client.seller.paywall import responses
from tallystick_client.seller.paywall.asgi import START, App, Message, Receive, Scope, Send
from tallystick_client.seller.paywall.incoming_payment import Accepted, read_accepted
from tallystick_client.seller.paywall.paid import SCOPE_KEY

_MARK: Final = "tallystick.unneeded"
_PAYMENT_REQUIRED: Final = 402
"""Says by itself that no payment was taken."""
_RECEIPT: Final = PAYMENT_RESPONSE_HEADER.lower().encode()


class _Mark:
    """In the scope of a request whose payment one paywall did not need; another one behind it may."""

    def __init__(self, outer: "_Mark | None") -> None:
        self.outer = outer
        self.is_needed = False


class Came:
    """What came with a request in PAYMENT-SIGNATURE headers: nothing, a payment, or what is none."""

    def __init__(self, headers: Sequence[bytes], scope: Scope) -> None:
        self.is_there = bool(headers)
        self._accepted: Accepted | MalformedError | None = None
        self._scope = scope
        if headers:
            try:
                self._accepted = read_accepted(headers)
            except MalformedError as error:
                self._accepted = error

    @property
    def error(self) -> MalformedError | None:
        """What is wrong with it; None where nothing is, and where nothing came."""
        return self._accepted if isinstance(self._accepted, MalformedError) else None

    @property
    def accepted(self) -> Accepted:
        """The payment. Raises MalformedError where it is none."""
        if isinstance(self._accepted, Accepted):
            return self._accepted
        raise self._accepted or MalformedError("payment", None, "one")

    def receipt_of_nothing(self, pay_to: bytes) -> str | None:
        """The receipt that says that nothing was charged.

        None where no payment came, or one for another receiver: somebody behind this paywall may take it; and where a
        paywall in front of this one takes it.
        """
        payment = self._accepted
        if not isinstance(payment, Accepted) or payment.terms.pay_to != pay_to or SCOPE_KEY in self._scope:
            return None
        return responses.receipt_of_nothing(str(payment.terms.network))


def note_needed(scope: Scope) -> None:
    """Tell the paywalls in front of this one that the request's payment is looked at here."""
    mark: _Mark | None = scope.get(_MARK)
    while mark is not None:
        mark.is_needed = True
        mark = mark.outer


async def serve(app: App, scope: Scope, receive: Receive, send: Send, receipt: str) -> None:
    """Serve a request that costs nothing; its answer carries the receipt, unless somebody else gave one."""
    mark = _Mark(scope.get(_MARK))
    scope[_MARK] = mark
    is_started = False

    async def send_with_receipt(message: Message) -> None:
        nonlocal is_started
        if message["type"] == START:
            is_started = True
            headers = list(message.get("headers", ()))
            is_told = message["status"] == _PAYMENT_REQUIRED or any(name.lower() == _RECEIPT for name, _ in headers)
            if not (mark.is_needed or is_told):
                message = {**message, "headers": [*headers, (_RECEIPT, receipt.encode("ascii"))]}
        await send(message)

    try:
        await app(scope, receive, send_with_receipt)
    except Exception:
        if not is_started and not mark.is_needed:
            await responses.say_failed(send, receipt)
        raise
