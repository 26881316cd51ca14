"""Which blocks a watcher has seen: from where it reads on, and whether a reorganisation has changed what it read."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tallystick_aggregator.chain.node import Node
from tallystick_aggregator.chain.port import Block, ChainUnavailableError
from tallystick_aggregator.chain.settings import ChainSettings
from tallystick_aggregator.ledger.state import Ledger

_log = logging.getLogger(__name__)
_alarm = logging.getLogger("tallystick.alarm")


class ReadOn(NamedTuple):
    """The first block to read events of, and accounts to read whatever the events say; `reorganised` says why."""

    first: int
    changed: set[bytes]
    reorganised: bool


class History:
    """The heads that were taken in, back to the deepest reorganisation that is reckoned with."""

    def __init__(self, settings: ChainSettings, node: Node, ledger: Callable[[], Ledger]) -> None:
        self.taken_in: Block | None = None
        self._settings = settings
        self._node = node
        self._ledger = ledger
        self._heads: OrderedDict[int, bytes] = OrderedDict()
        self._recent: dict[bytes, int] = {}

    def known_accounts(self) -> set[bytes]:
        """Return the ids of all accounts in this escrow."""
        return {account.id for account in self._ledger().accounts_of(self._settings.escrow_ref)}

    async def first_look(self, head: Block) -> tuple[int, bool]:
        """From which block on accounts may have changed that the ledger does not know of, and whether it knows those
        before.
        """
        known = self._ledger().head(self._settings.escrow_ref)
        if known is None or known.number > head.number:
            return self._settings.escrow_block, False
        block = await self._node.block(known.number)
        if block is None or block.block_hash != known.block_hash:
            _log.warning("block %d was reorganised while nobody looked: all events are read again", known.number)
            return self._settings.escrow_block, False
        return max(self._settings.escrow_block, known.number - self._settings.reorg_depth), True

    async def read_on(self, head: Block) -> ReadOn:
        """Where to read on after what was taken in. Raises ChainUnavailableError where the endpoints lag."""
        last = self.taken_in
        assert last is not None, "the first look comes first"
        if head.number < last.number and self._heads.get(head.number) == head.block_hash:
            raise ChainUnavailableError(f"the endpoints lag: they are at block {head.number}, were at {last.number}")
        if head.number >= last.number:
            block = head if head.number == last.number else await self._node.block(last.number)
            if block is not None and block.block_hash == last.block_hash:
                return ReadOn(last.number + 1, set(), reorganised=False)
        _log.warning("block %d was reorganised: what changed lately is read again", last.number)
        first = max(self._settings.escrow_block, min(last.number, head.number) - self._settings.reorg_depth)
        if await self._is_deep_reorg(first):
            _alarm.critical("%s: a reorganisation deeper than %d blocks", self._settings.network, last.number - first)
            return ReadOn(self._settings.escrow_block, self.known_accounts(), reorganised=True)
        return ReadOn(first, set(self._recent), reorganised=True)

    async def _is_deep_reorg(self, before: int) -> bool:
        """Whether even the newest head that was seen before this block is gone."""
        old = max((number for number in self._heads if number <= before), default=None)
        if old is None:
            return False
        block = await self._node.block(old)
        return block is None or block.block_hash != self._heads[old]

    def remember(self, head: Block, changed: Iterable[bytes]) -> None:
        """Everything up to this head is taken in; these accounts changed lately."""
        for account_id in changed:
            self._recent[account_id] = head.number
        self.taken_in = head
        for number in [number for number in self._heads if number >= head.number]:
            del self._heads[number]
        self._heads[head.number] = head.block_hash
        oldest = head.number - self._settings.reorg_depth
        while len(self._heads) > 1 and list(self._heads)[1] <= oldest:
            self._heads.popitem(last=False)  # one at or before the oldest stays
        for account_id in [id_ for id_, number in self._recent.items() if number < oldest]:
            del self._recent[account_id]
