"""What an answer says about the payment that came with its request.

A seller is believed as little as possible. What it says it charged is at most the payment's amount. What it says it did
not charge pays for its own next page, and comes back to the budgets only after the aggregator was asked
(`wallet.local_grants`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tallystick.amounts import parse_amount
from tallystick.errors import MalformedError
from tallystick.reasons import Reason
from tallystick.x402 import PAYMENT_REQUIRED_HEADER, PAYMENT_RESPONSE_HEADER, SettleResponse, decode_header
from tallystick_client.payer.errors import WalletError
from tallystick_client.payer.policy.offers import HEADER_BYTES_MAX, read_offers

_PAYMENT_REQUIRED = 402
_CONFLICT = 409
_UNAVAILABLE = 503
_ASK_LATER = frozenset({408, 425, 429})


class Answer(NamedTuple):
    """What a response begins with. `headers` finds names in any spelling, as HTTP libraries' own mappings do.

    `body`: of a 402 without PAYMENT-REQUIRED, where it was read (`is_told_in_body`).
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


def is_told_in_body(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a 402 may be of x402 version 1, which has its terms in the body: JSON, and short enough to be read.

    A compressed one is left to the caller: a few bytes can be made to unpack to gigabytes.
    """
    if "content-encoding" in headers:
        return False
    if status != _PAYMENT_REQUIRED or PAYMENT_REQUIRED_HEADER in headers:
        return False
    length = headers.get("content-length", "")
    is_short = length.isascii() and length.isdigit() and int(length[:9]) <= HEADER_BYTES_MAX
    return is_short and "json" in headers.get("content-type", "")


def told_error(headers: Mapping[str, str]) -> str:
    """What an answer's PAYMENT-REQUIRED header says of the payment that was not taken, its reason's code first.

    Empty where there is none, or none that can be read.
    """
    try:
        return read_offers(headers[PAYMENT_REQUIRED_HEADER]).error if PAYMENT_REQUIRED_HEADER in headers else ""
    except (MalformedError, WalletError):
        return ""


def refused_offers(answer: Answer, scheme: str) -> tuple[str, list[dict[str, Any]]]:
    """What a 402 says: its `error`, and the `extra` of each of its offers of this scheme that can be read.

    Nothing of both where there is no such header, or none that can be read.
    """
    if PAYMENT_REQUIRED_HEADER not in answer.headers:
        return "", []
    try:
        asked = read_offers(answer.headers[PAYMENT_REQUIRED_HEADER])
    except (MalformedError, WalletError):
        return "", []
    offers = [offer for offer in asked.accepts if not isinstance(offer, MalformedError) and offer.scheme == scheme]
    return asked.error, [offer.extra for offer in offers]


def reason_in(error: str) -> Reason:
    """The reason at the beginning of a 402's `error`; UNSPECIFIED where there is none that we know."""
    return Reason.from_code(error.partition(":")[0].strip())


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
        return None if _is_undecided(receipt) else 0
    try:
        charged = parse_amount((receipt.extra or {}).get("chargedAmount", receipt.amount), "chargedAmount")
    except MalformedError:
        return None
    return min(charged, amount)


def is_refused(answer: Answer) -> bool:
    """Whether it is a 402."""
    return answer.status == _PAYMENT_REQUIRED


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
    receipt = read_receipt(answer)
    if receipt is not None:
        return _is_undecided(receipt)
    return answer.status >= 500 or answer.status in _ASK_LATER or says_under_way(answer)


def _is_undecided(receipt: SettleResponse) -> bool:
    """Whether a receipt says no success for a reason that does not say that nothing was taken.

    The official SDK's servers answer so, with whatever text, also where their facilitator did not answer.
    """
    if receipt.success or not receipt.error_reason:
        return False
    reason = Reason.from_code(receipt.error_reason)
    return reason is Reason.UNSPECIFIED or reason.retry
