"""Looks for the deposits that explain what an account holds, where the events that were heard of do not (R8).

Asks for the events of that account alone, backwards from a final block, a few ranges in a look: until its last known
state is reached and the events since tell another story than the one that was heard, or until its opening is reached.
So what a look costs stays bounded, and a deposit whose event was lost, or that became final while nobody could confirm
it and the aggregator restarted, is credited in the end.
"""

from typing import Final

from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.node import Node
from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.watching.explained import Anchor

RANGES_PER_LOOK: Final = 4


class Trace:
    """The search for one account's deposits, from this final block backwards to the first block of all."""

    def __init__(self, account_id: bytes, anchor: Anchor, final: Block, first: int) -> None:
        self.account_id = account_id
        self.anchor = anchor
        self.final = final
        self.moved: int | None = None
        """What the account's events moved since the anchor, if that is another sum than was heard."""
        self.funds: int | None = None
        """What all events of the account say that it has, once they are known."""
        self._first = first
        self._next = final.number
        self._sum = 0

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to ask for."""
        return self.moved is not None or self.funds is not None or self._next < self._first

    async def go_on(self, node: Node, escrow: EscrowBinding, range_blocks: int) -> None:
        """Ask for some more. Raises ChainUnavailableError; then go on later."""
        for _ in range(RANGES_PER_LOOK):
            if self.ended:
                return
            first = max(self._first, self._next - range_blocks + 1)
            since = self.anchor.block_number + 1
            if first < since <= self._next:
                first = since
            last = self.final if self._next == self.final.number else await node.block(self._next)
            if last is None:
                raise ChainUnavailableError(f"block {self._next} is not there")
            logs = await escrow.of_account(self.account_id, first, last)
            events = [event for event in map(escrow.read_event, logs) if event.account_id == self.account_id]
            self._sum += sum(event.moved for event in events)
            self._next = first - 1
            if any(event.opened for event in events):
                self.funds = self._sum
            elif first == since and self._sum != self.anchor.moved:
                self.moved = self._sum
