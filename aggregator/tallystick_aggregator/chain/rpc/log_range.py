"""How many blocks an endpoint takes in one search for events: halved when it refuses, and grown again with care. Pure.

Providers limit the range (10, 50, 500, 2,000, 10,000 blocks) or the number of results, each in words of its own, and
tell neither limit beforehand. The words are not read here: whatever a search fails with, a narrower one is tried, and
what worked is kept. A limit on results passes with the blocks that caused it, so wider searches are tried again:
halfway towards what was refused, ever more rarely as long as the refusals come.
"""

from typing import Final

GROW_AFTER: Final = 16
"""Searches of one width that work before a wider one is tried."""
GROW_AFTER_MAX: Final = 16_384
"""The same after many refusals: one search in so many is wasted at most."""


class LogRange:
    """The width of an endpoint's next search, in blocks, between 1 and `blocks_max`."""

    def __init__(self, blocks_max: int) -> None:
        self.blocks_max = blocks_max
        self.blocks = blocks_max
        self._works = 0
        self._refused = blocks_max + 1
        self._successes = 0
        self._grow_after = GROW_AFTER

    def worked(self, blocks: int) -> None:
        """A search of this width was answered. One that was narrower than it might have been tells nothing."""
        if blocks < self.blocks:
            return
        self._works = self.blocks
        self._successes += 1
        if self.blocks >= self.blocks_max or self._successes < self._grow_after:
            return
        self._successes = 0
        if self._refused - self._works <= 1:
            # The limit is known to the block. It may have been about results, or the plan may change: tried later.
            self._refused = self.blocks_max + 1
            self._grow_after = min(self._grow_after * 4, GROW_AFTER_MAX)
            return
        self.blocks = min(self._works * 2, (self._works + self._refused) // 2, self.blocks_max)

    def refused(self, blocks: int) -> bool:
        """A search of this width was refused; False if there is none narrower to try."""
        self._successes = 0
        if blocks <= 1:
            return False
        self._refused = min(self._refused, blocks)
        if self._works >= blocks:  # what worked before does no more: the blocks here are full of events
            self._works = 0
        # Back to what worked, or to half.
        self.blocks = max(1, self._works or blocks // 2)
        return True

    def forget(self, blocks: int) -> None:
        """Not even one block could be searched: that was no limit, and teaches nothing. `blocks`: the width before."""
        self.blocks, self._works, self._refused = blocks, 0, self.blocks_max + 1
