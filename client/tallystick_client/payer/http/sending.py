"""Sending a request with its payment until an answer decides, always with the same payment.

- The connection is lost: sent again, a few times. A payment is charged once at most; a seller that has served it
  repeats its answer or says 409.
- 409 or 503 with Retry-After: the payment is under way, or cannot be handled now. Sent again when the answer says; a
  few times, or as long as the seller may take, where the payment says so (a transfer takes its time).
"""

from collections.abc import Callable
from math import inf
from typing import Final

from tallystick_client.payer.http.steps import CloseResponse, ConnectionLostError, Flow, SendRequest, Wait
from tallystick_client.payer.policy.answers import Answer, says_released, says_under_way

RESEND_PAUSES_S: Final = (0.2, 1.0, 2.0)
"""Before a payment is sent again."""
RETRY_AFTER_S_MAX: Final = 5.0
READ_MARGIN_S: Final = 10.0
"""How much longer than a seller may take for a transfer its answer is waited for."""


class NotTakenError(Exception):
    """The request failed and its payment is not taken. `cause` is the HTTP library's error.

    `was_sent`: the seller says that it gave the payment back; else it did not leave.
    """

    def __init__(self, cause: Exception, *, was_sent: bool) -> None:
        self.cause = cause
        self.was_sent = was_sent


def ask() -> Flow[Answer]:
    """The answer without a payment."""
    try:
        answer: Answer = yield SendRequest(None)
    except ConnectionLostError as lost:
        raise lost.cause from None
    return answer


def send(
    header: str,
    monotonic: Callable[[], float],
    *,
    is_replayable: bool,
    patience_s: float = 0,
    was_sent_before: bool = False,
    end_at: float = inf,
) -> Flow[Answer]:
    """The answer to a request with this payment.

    `patience_s`: for how long it may be under way, 0 for a few times; each answer is waited for as long. `end_at`: when
    the caller's time is up, by `monotonic`: nothing is sent again after it, nor is an answer waited for longer. Raises
    NotTakenError, and the HTTP library's error where nobody knows what became of the payment.
    """
    give_up_at = min(monotonic() + patience_s, end_at)
    pauses_s = list(RESEND_PAUSES_S) if is_replayable else []
    was_sent = was_sent_before
    lost: Exception | None = None
    while True:
        try:
            left_s = max(0.0, end_at - monotonic())
            answer: Answer = yield SendRequest(header, min(patience_s + READ_MARGIN_S, left_s) if patience_s else 0)
        except ConnectionLostError as failure:
            if failure.was_sent:
                was_sent, lost = True, failure.cause
            elif not was_sent:
                raise NotTakenError(failure.cause, was_sent=False) from None
            if not pauses_s or monotonic() + pauses_s[0] > end_at:
                raise failure.cause from None
            pause_s = pauses_s.pop(0)
        else:
            was_sent = True
            if lost is not None and says_released(answer):
                yield CloseResponse()
                raise NotTakenError(lost, was_sent=True)
            if not says_under_way(answer) or not is_replayable:
                return answer
            pause_s = _retry_after_s(answer)
            if patience_s:
                if monotonic() + pause_s > give_up_at:
                    return answer
            elif pauses_s and monotonic() + max(pauses_s[0], pause_s) <= end_at:
                pause_s = max(pauses_s.pop(0), pause_s)
            else:
                return answer
            yield CloseResponse()
        yield Wait(pause_s)


def _retry_after_s(answer: Answer) -> float:
    """When to ask again: what the answer says, from the first pause on; a date counts as that."""
    value = answer.headers["retry-after"]
    asked_s = float(value) if value.isascii() and value.isdigit() else 0.0
    return min(max(asked_s, RESEND_PAUSES_S[0]), RETRY_AFTER_S_MAX)
