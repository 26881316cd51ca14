"""Sending a request with its payment until an answer decides, always with the same payment.

- The connection is lost: sent again, a few times. A payment is charged once at most; a seller that has served it
  repeats its answer or says 409.
- 409 or 503 with Retry-After: the payment is under way, or cannot be handled now. Sent again when the answer says; a
  few times for `deferred`, and for `exact` as long as the seller may take for the transfer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import httpx

from tallystick_client.payer.http.purchases import READ_MARGIN_S, Purchase, with_payment
from tallystick_client.payer.http.receipts import says_released, says_under_way

RESEND_PAUSES_S: Final = (0.2, 1.0, 2.0)
"""Before a payment is sent again."""
RETRY_AFTER_S_MAX: Final = 5.0

_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
)


class NotTakenError(Exception):
    """The request failed and its payment is not taken. `cause` is httpx's error.

    `was_sent`: the seller says that it gave the payment back; else it did not leave.
    """

    def __init__(self, cause: httpx.TransportError, *, was_sent: bool) -> None:
        self.cause = cause
        self.was_sent = was_sent


class Sender:
    """Sends payments through a transport."""

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._sleep = sleep
        self._monotonic = monotonic

    async def ask(self, purchase: Purchase) -> httpx.Response:
        """The answer without a payment."""
        return await self._inner.handle_async_request(with_payment(purchase.request, None))

    async def send(
        self, purchase: Purchase, header: str, *, patience_s: float = 0, was_sent_before: bool = False
    ) -> httpx.Response:
        """The answer to a request with this payment.

        `patience_s`: for how long it may be under way, for `exact`; each answer is waited for as long. Raises
        NotTakenError, and httpx's error where nobody knows what became of the payment.
        """
        give_up_at = self._monotonic() + patience_s
        pauses_s = list(RESEND_PAUSES_S) if purchase.body.is_replayable else []
        read_s_min = patience_s + READ_MARGIN_S if patience_s else 0
        was_sent, lost = was_sent_before, None
        while True:
            try:
                request = with_payment(purchase.request, header, read_s_min)
                response = await self._inner.handle_async_request(request)
            except httpx.TransportError as error:
                if isinstance(error, _NEVER_SENT):
                    if not was_sent:
                        raise NotTakenError(error, was_sent=False) from error
                else:
                    was_sent, lost = True, error
                if not pauses_s:
                    raise
                pause_s = pauses_s.pop(0)
            else:
                was_sent = True
                if lost is not None and says_released(response):
                    await response.aclose()
                    raise NotTakenError(lost, was_sent=True)
                if not says_under_way(response) or not purchase.body.is_replayable:
                    return response
                pause_s = _retry_after_s(response)
                if patience_s:
                    if self._monotonic() + pause_s > give_up_at:
                        return response
                elif pauses_s:
                    pause_s = max(pauses_s.pop(0), pause_s)
                else:
                    return response
                await response.aclose()
            await self._sleep(pause_s)


def _retry_after_s(response: httpx.Response) -> float:
    """When to ask again: what the answer says, from the first pause on; a date counts as that."""
    value = response.headers["retry-after"]
    asked_s = float(value) if value.isascii() and value.isdigit() else 0.0
    return min(max(asked_s, RESEND_PAUSES_S[0]), RETRY_AFTER_S_MAX)
