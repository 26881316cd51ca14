"""What became of the open transactions: looked up a few at once, and again as soon as there may be something new."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from tallystick_aggregator.chain.port import Block
from tallystick_aggregator.store.port import OutboundTransaction

LOOKUPS_AT_ONCE: Final = 16


class _Looked(NamedTuple):
    head: Block
    at: float
    is_in_a_block: bool


class Lookups:
    """One sender's. A new block may hold any of them; while there is none, each is asked for every `again_s`.

    Without that, hundreds that wait for a block would be asked for at every look, and what is sent asks for one.
    """

    def __init__(self, again_s: float, clock: Callable[[], float]) -> None:
        self._again_s = again_s
        self._clock = clock
        self._looked: dict[int, _Looked] = {}

    async def waiting(
        self,
        open_: Sequence[OutboundTransaction],
        head: Block,
        follow: Callable[[OutboundTransaction], Awaitable[bool]],
    ) -> list[OutboundTransaction]:
        """Return those that are in no block, by nonce. `follow` looks one up, records what it finds, and tells whether
        it is in a block.
        """
        self._looked = {sent.id: self._looked[sent.id] for sent in open_ if sent.id in self._looked}
        due = [sent for sent in open_ if self._is_due(sent, head)]
        for at in range(0, len(due), LOOKUPS_AT_ONCE):
            together = due[at : at + LOOKUPS_AT_ONCE]
            outcomes = await asyncio.gather(*map(follow, together), return_exceptions=True)
            for sent, outcome in zip(together, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    raise outcome
                self._looked[sent.id] = _Looked(head, self._clock(), outcome)
        waiting = [sent for sent in open_ if not self._looked[sent.id].is_in_a_block]
        return sorted(waiting, key=lambda sent: sent.nonce)

    def _is_due(self, sent: OutboundTransaction, head: Block) -> bool:
        looked = self._looked.get(sent.id)
        return looked is None or looked.head != head or self._clock() - looked.at >= self._again_s
