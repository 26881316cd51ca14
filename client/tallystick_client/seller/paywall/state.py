"""What the sales of one paywall share: the aggregator, the kept answers, and the work that nobody waits for."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from tallystick.errors import MalformedError, RefusedError
from tallystick.facilitator import Settled
from tallystick.hexadecimal import checksum, to_hex
from tallystick_client.rpc import AggregatorUnavailableError, CallRejectedError
from tallystick_client.seller.client.aggregator import Aggregator
from tallystick_client.seller.paywall import responses
from tallystick_client.seller.paywall.incoming_payment import IncomingPayment
from tallystick_client.seller.paywall.response_cache import Answer, ResponseCache
from tallystick_client.seller.paywall.unserved import UNSERVED_MAX, Unserved

RELEASE_WAIT_S: Final = 2.0
"""How long a response waits for its reservation to be given back; the reservation expires by itself."""
FOLLOW_S: Final = 900.0
"""How long it is asked what became of a transfer whose client has gone: longer than authorizations are valid."""
_FOLLOW_PAUSES_S: Final = (0.2, 1.0, 5.0)
"""Between two such questions; the last one repeats."""

_log = logging.getLogger("tallystick.seller")


@dataclass(slots=True)
class PaywallState:
    """What the sales of one paywall share."""

    aggregator: Aggregator
    kept: ResponseCache
    settle_patience_s: float
    release_wait_s: float = RELEASE_WAIT_S
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    under_way: set[tuple[object, ...]] = field(default_factory=set[tuple[object, ...]])
    """The money of requests that are being served here."""
    unserved: deque[Unserved] = field(default_factory=lambda: deque[Unserved](maxlen=UNSERVED_MAX))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    _following: dict[int, asyncio.Task[None]] = field(default_factory=dict[int, asyncio.Task[None]])
    """By the answer that is not delivered."""

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def follow(self, presented: IncomingPayment, answer: Answer, request: str) -> None:
        """Give back an exact payment whose client has gone or was told to ask again, so that nothing of it is lost.

        What was not sent is then free for any request. What was sent belongs to who shows its payment id, at whichever
        process; where it has none, it goes on the list of the unserved once it has landed.
        """
        task = self._following[id(answer)] = asyncio.create_task(self._follow(presented, answer, request))
        task.add_done_callback(lambda _: self._following.pop(id(answer)))

    async def is_let_go(self, answer: Answer) -> bool:
        """Whether nothing gives this answer's payment back any more; waits for that up to `release_wait_s`.

        One that is taken again while it is still being given back could be another process's in the next moment.
        """
        task = self._following.get(id(answer))
        if task is not None:
            await asyncio.wait([task], timeout=self.release_wait_s)
        return task is None or task.done()

    async def finish(self) -> None:
        """Wait until all that was started is done; what is only followed is let go of after `release_wait_s`."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._following:
            _, late = await asyncio.wait(self._following.values(), timeout=self.release_wait_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def note_unserved(self, presented: IncomingPayment, settled: Settled, request: str) -> None:
        """Put a payment that was taken for nothing on the seller's list."""
        terms = presented.offer.terms
        entry = Unserved(
            at=time.time(),
            request=request,
            payer=checksum(presented.payer),
            amount=settled.amount,
            asset=checksum(terms.asset),
            network=str(terms.network),
            nonce=presented.payment_id,
            transaction=to_hex(settled.transaction),
        )
        self.unserved.append(entry)
        _log.warning(
            "%s paid %d of %s for %s and is gone; nobody can prove to be the payer: transaction %s",
            entry.payer, entry.amount, entry.asset, request, entry.transaction,
        )  # fmt: skip

    async def _follow(self, presented: IncomingPayment, answer: Answer, request: str) -> None:
        give_up_at, asked, was_sent = self.clock() + FOLLOW_S, 0, False
        try:
            while self.clock() < give_up_at:
                try:
                    if not was_sent:
                        released = await self.aggregator.release(answer.terms, answer.payment, answer.attempt)
                        was_sent = released.replayed
                    if was_sent and presented.identifier is None:
                        # Sends nothing: it was sent. Tells when it has landed.
                        settled = await self.aggregator.settle(answer.terms, answer.payment, answer.attempt)
                        self.note_unserved(presented, settled, request)
                except RefusedError as refused:
                    if refused.reason not in responses.PASSING_REASONS:
                        return  # it is somebody else's, or nobody's: it did not land
                except (CallRejectedError, MalformedError) as error:
                    _log.warning("what became of a transfer for %s cannot be learned: %s", request, error)
                    return
                except AggregatorUnavailableError as error:
                    _log.debug("the aggregator is away: %s", error)
                else:
                    return
                await self.pause(_FOLLOW_PAUSES_S[min(asked, len(_FOLLOW_PAUSES_S) - 1)])
                asked += 1
        except asyncio.CancelledError:
            _log.warning("stopping; what becomes of a transfer of %s for %s is not known here",
                         checksum(presented.payer), request)  # fmt: skip
            raise
        _log.warning("what became of a transfer of %s for %s was not learned in time",
                     checksum(presented.payer), request)  # fmt: skip
