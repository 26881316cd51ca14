"""Payments whose outcome is open, for the next try of the same request: it sends the same payment, not a second one.

Kept in the transport's memory until it is used, or can no longer be taken, or had to go for a newer one. What it may
cost is in the book all the time; nothing here is money.
"""

import time
from collections.abc import Callable
from typing import Final

from tallystick_client.payer.http.steps import PayableRequest
from tallystick_client.payer.recent import Recent
from tallystick_client.payer.wallet.schemes.port import OutgoingPayment

UNFINISHED_MAX: Final = 1_024
"""Requests whose payments are kept."""
SAME_MAX: Final = 16
"""Payments of one request that are kept: the same request may be made several times at once."""


class UnfinishedPayments:
    """By the request that they pay for."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: Recent[tuple[str, str, bytes, bytes], tuple[OutgoingPayment, ...]] = Recent(UNFINISHED_MAX)

    def keep(self, request: PayableRequest, payment: OutgoingPayment) -> None:
        """Keep a payment for the next try. A body that is streamed up cannot be told from another: nothing is kept."""
        if request.is_replayable:
            kept = self._kept.get(request.key) or ()
            self._kept.put(request.key, (*kept, payment)[-SAME_MAX:])

    def take(self, request: PayableRequest) -> OutgoingPayment | None:
        """The oldest payment to send again, which is nobody else's from now on."""
        if not len(self._kept):
            return None
        now_s = self._clock()
        usable = [payment for payment in self._kept.remove(request.key) or () if now_s < payment.kept_until]
        self._put(request, usable[1:])
        return usable[0] if usable else None

    def forget(self, request: PayableRequest, payment: OutgoingPayment) -> None:
        """Keep this one no longer."""
        self._put(request, [kept for kept in self._kept.remove(request.key) or () if kept is not payment])

    def _put(self, request: PayableRequest, payments: list[OutgoingPayment]) -> None:
        if payments:
            self._kept.put(request.key, tuple(payments))

    def __len__(self) -> int:
        return len(self._kept)
