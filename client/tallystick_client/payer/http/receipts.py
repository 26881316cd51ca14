"""What an answer says about the payment that came with its request, and what the wallet makes of it.

A seller is believed as little as possible. What it says it charged is at most the payment's amount. What it says it did
not charge pays for its own next page, and comes back to the budgets only after the aggregator was asked (`lines`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tallystick.amounts import parse_amount
from tallystick.errors import MalformedError
from tallystick.reasons import Reason
from tallystick.x402 import PAYMENT_RESPONSE_HEADER, SettleResponse, decode_header
from tallystick_client.payer.policy.offers import Offer, reason_in, told_error
from tallystick_client.payer.wallet.grants import Payment

_PAYMENT_REQUIRED = 402
_CONFLICT = 409
_UNAVAILABLE = 503
_ASK_LATER = frozenset({408, 425, 429})


class Answer(NamedTuple):
    """What a response begins with. `headers` finds names in any spelling, as HTTP libraries' own mappings do."""

    status: int
    headers: Mapping[str, str]


class HasExtensions(Protocol):
    """A response of httpx2 or httpx."""

    @property
    def extensions(self) -> Mapping[str, Any]:
        """What transports note on a response."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a request cost; given by `payment_of(response)`. Amounts in atomic units of the offer's token.

    `charged` is None where no answer says it. `transaction` is empty but for `exact`.
    """

    scheme: str
    offer: Offer
    amount: int
    charged: int | None
    payment_id: str = ""
    transaction: str = ""


def payment_of(response: HasExtensions) -> Receipt | None:
    """What the request of this response cost; None where no payment was sent with it."""
    receipt = response.extensions.get("payment")
    return receipt if isinstance(receipt, Receipt) else None


def read_receipt(answer: Answer) -> SettleResponse | None:
    """The answer's PAYMENT-RESPONSE, None where it has none that can be read."""
    header = answer.headers.get(PAYMENT_RESPONSE_HEADER)
    try:
        return None if header is None else decode_header(header, SettleResponse, PAYMENT_RESPONSE_HEADER)
    except MalformedError:
        return None


def told_charge(answer: Answer, amount: int) -> int | None:
    """What an answer says a payment of `amount` was charged, in atomic units; None where it does not say."""
    receipt = read_receipt(answer)
    if receipt is None:
        return 0 if answer.status == _PAYMENT_REQUIRED else None
    if not receipt.success:
        return 0
    try:
        charged = parse_amount((receipt.extra or {}).get("chargedAmount", receipt.amount), "chargedAmount")
    except MalformedError:
        return None
    return min(charged, amount)


def end_payment(payment: Payment, answer: Answer) -> int | None:
    """Enter in the grant what the answer says about the payment; returns it, None where it does not say."""
    charged = told_charge(answer, payment.amount)
    if charged is None:
        payment.lose()
    else:
        payment.settle(charged)
    return charged


def says_free(answer: Answer, charged: int | None) -> bool:
    """Whether the target took no payment: its answer says so, or is a page that says nothing.

    A failure says nothing about the price, and a 402 says the contrary.
    """
    if answer.status >= 500 or answer.status == _PAYMENT_REQUIRED:
        return False
    if charged is None:
        return 200 <= answer.status < 300
    receipt = read_receipt(answer)
    return charged == 0 and receipt is not None and receipt.success


def says_released(answer: Answer) -> bool:
    """Whether a 402 says that this payment was given back."""
    is_402 = answer.status == _PAYMENT_REQUIRED
    return is_402 and reason_in(told_error(answer.headers)) is Reason.RESERVATION_RELEASED


def says_under_way(answer: Answer) -> bool:
    """Whether the same payment is to be sent again soon: 409 or 503 with Retry-After, and nothing decided."""
    is_later = answer.status in {_CONFLICT, _UNAVAILABLE} and "retry-after" in answer.headers
    return is_later and read_receipt(answer) is None


def is_unfinished(answer: Answer) -> bool:
    """Whether the answer leaves open what became of the payment, and the page may still be had for it."""
    if read_receipt(answer) is not None:
        return False
    return answer.status >= 500 or answer.status in _ASK_LATER or says_under_way(answer)
