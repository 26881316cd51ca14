"""One payment, sent with its request again and again until an answer decides, or the time is over.

- The connection is lost: the same payment is sent again, a few times.
- The answer says that the payment is under way, or cannot be handled now (409 or 503 with Retry-After): it is sent
  again when the answer says; a few times, or as long as the payment may take.
- A body that can be sent only once is sent once.
"""

from collections.abc import Callable
from typing import Final

from tallystick_client.payer.http.steps import (
    CloseResponse,
    ConnectionLostError,
    Flow,
    PayableRequest,
    SendRequest,
    Wait,
)
from tallystick_client.payer.policy.answers import Answer, says_released, says_under_way
from tallystick_client.payer.wallet.schemes.port import OutgoingPayment

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


class Sending:
    """How payments are sent with one request. Nothing is sent again after `end_at`, on the `monotonic` clock."""

    def __init__(
        self, request: PayableRequest, end_at: float, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._is_replayable = request.is_replayable
        self._end_at = end_at
        self._clock = clock
        self._monotonic = monotonic

    def send(self, payment: OutgoingPayment, *, was_sent: bool) -> Flow[Answer]:
        """The answer that decides. `was_sent`: it was sent before.

        Raises NotTakenError, and the HTTP library's error where nobody knows what became of the payment.
        """
        patience_s = payment.patience_s(self._clock())
        give_up_at = min(self._monotonic() + patience_s, self._end_at)
        pauses_s = list(RESEND_PAUSES_S) if self._is_replayable else []
        lost: Exception | None = None
        while True:
            try:
                left_s = max(0.0, self._end_at - self._monotonic())
                read_s = min(patience_s + READ_MARGIN_S, left_s) if patience_s else 0
                answer: Answer = yield SendRequest(payment.header, read_s)
            except ConnectionLostError as failure:
                if failure.was_sent:
                    was_sent, lost = True, failure.cause
                elif not was_sent:
                    raise NotTakenError(failure.cause, was_sent=False) from None
                if not pauses_s or self._monotonic() + pauses_s[0] > self._end_at:
                    raise failure.cause from None
                pause_s = pauses_s.pop(0)
            else:
                was_sent = True
                if lost is not None and says_released(answer):
                    yield CloseResponse()
                    raise NotTakenError(lost, was_sent=True)
                if not says_under_way(answer) or not self._is_replayable:
                    return answer
                pause_s = _retry_after_s(answer)
                if patience_s:
                    if self._monotonic() + pause_s > give_up_at:
                        return answer
                elif pauses_s and self._monotonic() + max(pauses_s[0], pause_s) <= self._end_at:
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
