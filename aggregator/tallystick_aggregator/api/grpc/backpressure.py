"""Room for payments on their way through: streams wait for it in turn, and are not read while they wait (threat 28)."""

import asyncio
from collections import deque
from typing import Final

from tallystick_aggregator.charging.batcher import BatcherSettings

STREAMS_SHARE: Final = BatcherSettings().waiting_max * 3 // 4
"""Payments of streams at once; the rest of what the batcher takes is left to single calls."""


class Backpressure:
    """A counter with a queue: first come, first served, so that nobody starves. One event loop only."""

    def __init__(self, size: int = STREAMS_SHARE) -> None:
        self._left = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def left(self) -> int:
        """How many more would fit now."""
        return self._left

    async def take(self, count: int) -> None:
        """Wait until there is room for `count`, and take it."""
        if not self._waiting and count <= self._left:
            self._left -= count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(count)
            raise

    def give(self, count: int) -> None:
        """Give room back, and let in who waits."""
        self._left += count
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._left):
            count, turn = self._waiting.popleft()
            if not turn.done():
                self._left -= count
                turn.set_result(None)
