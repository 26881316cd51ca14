"""One line of payers for each seller and host, and the grant that serves it.

A payment is made at once where the grant has headroom. Where it has not, its request waits in line while the grant is
extended, once for all who wait: N requests in flight at the same moment need one extension, and none fails for lack of
headroom. An unknown host starts with one request; each extension doubles what is asked for, up to `max_headroom`
requests beyond those that wait.

How a grant is extended is somebody else's business: of `lines` in the wallet's own process, of `remote` in a worker's.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import NamedTuple

from tallystick.errors import TallystickError
from tallystick.quantities import PaymentId
from tallystick_client.payer.errors import BookUnavailableError, BudgetExceededError, DepositNotAllowedError
from tallystick_client.payer.wallet.grants import Grant, Payment


class _Waiting(NamedTuple):
    amount: int
    request_hash: bytes
    payment_id: PaymentId | None
    payment: asyncio.Future[Payment]


class GrantQueue(ABC):
    """Who waits for payments to one seller. `grant` is what they are paid from."""

    def __init__(self, max_headroom: int) -> None:
        self.grant: Grant | None = None
        self._max_headroom = max_headroom
        self._requests = 1
        self._waiting: deque[_Waiting] = deque()
        self._serving: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits and no payment is under way."""
        return self._serving is None and (self.grant is None or not self.grant.in_flight)

    async def pay(self, amount: int, request_hash: bytes, payment_id: PaymentId | None) -> Payment:
        """A payment of at most `amount` atomic units; see Grant.pay. Raises what extending the grant raises."""
        # Who came first is served first.
        if self.grant is not None and not self._waiting and self.grant.can_pay(amount):
            return self.grant.pay(amount, request_hash, payment_id)
        future: asyncio.Future[Payment] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(amount, request_hash, payment_id, future))
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        try:
            return await future
        except asyncio.CancelledError:
            # Made in the same moment as the caller went away: it never left.
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()
            raise

    def stop(self) -> None:
        """Serve nobody any more; whoever waits is told."""
        if self._serving is not None:
            self._serving.cancel()

    @abstractmethod
    async def extend(self, need: int, want: int) -> None:
        """Give the grant between `need` and `want` more, or put a new grant in its place.

        Raises TallystickError; BudgetExceededError and DepositNotAllowedError fail only those who ask for `need` or
        more. To return without a change is allowed: it is called again.
        """

    async def _serve(self) -> None:
        try:
            while self._waiting:
                first = self._waiting[0]
                if first.payment.done():
                    self._waiting.popleft()
                elif self.grant is not None and self.grant.can_pay(first.amount):
                    self._waiting.popleft()
                    first.payment.set_result(self.grant.pay(first.amount, first.request_hash, first.payment_id))
                else:
                    await self._extend(first.amount)
        except BaseException as error:
            # Cancelled, or a fault: whoever would wait for ever is told.
            closed = BookUnavailableError("the wallet was closed while a payment waited for headroom")
            self._fail(error if isinstance(error, Exception) else closed, at_least=0)
            if not isinstance(error, Exception):
                raise
        finally:
            self._serving = None

    async def _extend(self, need: int) -> None:
        in_line = sum(waiting.amount for waiting in self._waiting if not waiting.payment.done())
        try:
            await self.extend(need, max(in_line, self._requests * need))
        except (BudgetExceededError, DepositNotAllowedError) as error:
            # Who asks for less may still be served.
            self._fail(error, at_least=need)
        except (TallystickError, OverflowError) as error:
            self._fail(error, at_least=0)
        else:
            self._requests = min(2 * self._requests, self._max_headroom)

    def _fail(self, error: Exception, *, at_least: int) -> None:
        staying: deque[_Waiting] = deque()
        for waiting in self._waiting:
            if waiting.amount < at_least:
                staying.append(waiting)
            elif not waiting.payment.done():
                waiting.payment.set_exception(error)
        self._waiting = staying
