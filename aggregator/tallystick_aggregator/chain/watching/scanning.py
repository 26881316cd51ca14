"""The escrow's events of new blocks, so that one answer which leaves some out is noticed (threat 16).

The newest blocks are asked for one by one, by their hash, and each answer is compared with the bloom filter of the
block's header: where that says that the escrow may have an event which the answer lacks, somebody else is asked. The
filter may be wrong, so two answers that agree are believed whatever it says. When a block has become final it is asked
for once more. A catch-up over many blocks asks by ranges, at first sight and when they are final.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple

from tallystick_aggregator.chain.contradictions import Answer, contradicted
from tallystick_aggregator.chain.escrow_port import EscrowBinding
from tallystick_aggregator.chain.node import Header, Log, Node
from tallystick_aggregator.chain.port import Block, ChainUnavailableError, Heard
from tallystick_aggregator.chain.rpc.bloom import may_hold

NEWEST_BLOCKS: Final = 8
"""So many of the newest blocks are asked for one by one in a look; those before them by ranges."""

DOUBTED_MAX: Final = 256
"""Blocks of which an answer that nobody confirmed is kept."""
ASKED_TWICE_BLOCKS: Final = 50_000
"""A start asks twice for the events of so many blocks; of more, which is the first start as a rule, once."""


class _Noted(NamedTuple):
    """What was heard of a block that is not final yet; of one that was read in a range, the hash is not known."""

    block_hash: bytes
    heard: Heard
    logs: tuple[Log, ...]


class Scanner:
    """Reads events, and keeps those of blocks that are not final until they are asked for again."""

    def __init__(self, node: Node, escrow: EscrowBinding) -> None:
        self._node = node
        self._escrow = escrow
        self._noted: dict[int, _Noted] = {}
        self._doubted: dict[bytes, tuple[Heard, frozenset[Log]]] = {}
        """By a block's hash, an answer that its filter contradicts, while nobody else could be asked."""

    async def look(self, first: int, head: Block) -> list[Log]:
        """All events from block `first` to the head; what was noted of these blocks before is forgotten."""
        self._forget_from(first)
        newest = max(first, head.number - NEWEST_BLOCKS + 1)
        found = await self._range(first, newest - 1)
        numbers = range(newest, head.number + 1)
        headers = await asyncio.gather(*(self._node.header(at, head if at == head.number else None) for at in numbers))
        for logs in await asyncio.gather(*(self._of_block(header) for header in headers)):
            found += logs
        return found

    async def at_the_start(self, read: Callable[[], Awaitable[Sequence[Log]]], blocks: int) -> list[Log]:
        """The events that `read` finds in so many blocks, read twice: no later look finds what it leaves out."""
        logs = [*await read()]
        if blocks > ASKED_TWICE_BLOCKS:
            return logs
        again = await read()
        known, confirmed = set(logs), set(again)
        if known != confirmed:
            contradicted(Answer.LOGS, "the node", f"left out {len(known ^ confirmed)} events of {blocks} blocks")
        return [*logs, *(log for log in again if log not in known)]

    def note(self, first: int, logs: Iterable[Log]) -> None:
        """Keep events that were read in a range, from this block on."""
        self._forget_from(first)
        for log in logs:
            noted = self._noted.get(log.block_number, _Noted(b"", Heard(), ()))
            self._noted[log.block_number] = noted._replace(logs=(*noted.logs, log))

    def since(self, number: int) -> list[Log]:
        """The events that were noted of the blocks after this one."""
        return [log for at in sorted(self._noted) if at > number for log in self._noted[at].logs]

    async def again(self, first: int, final: Block) -> tuple[list[Log], list[Log]]:
        """Ask again for blocks that have become final, from `first` on, and let go of what was noted of them.

        Returns all events that either answer has, and those that only this one has.
        """
        if final.number - first + 1 > NEWEST_BLOCKS:
            told = await self._escrow.logs(first, final)
        else:
            blocks = await asyncio.gather(*(self._block(number, final) for number in range(first, final.number + 1)))
            told = [log for logs in await asyncio.gather(*map(self._ask_again, blocks)) for log in logs]
        noted = [log for at in range(first, final.number + 1) if at in self._noted for log in self._noted[at].logs]
        known, confirmed = set(noted), set(told)
        missed = [log for log in told if log not in known]
        if missed:
            self._contradict(missed, "left out {} of block {}")
        made_up = [log for log in noted if log not in confirmed]
        if made_up:
            self._contradict(made_up, "either left out or made up {} of block {}, in two answers")
        self.settle(final)
        return [*noted, *missed], missed

    def settle(self, final: Block) -> None:
        """Let go of what was noted up to this block."""
        for number in [number for number in self._noted if number <= final.number]:
            del self._noted[number]

    def _contradict(self, logs: Sequence[Log], what: str) -> None:
        for number in sorted({log.block_number for log in logs}):
            noted = self._noted.get(number)
            count = sum(log.block_number == number for log in logs)
            said = what.format(f"{count} event{'s' * (count != 1)}", number)
            contradicted(Answer.LOGS, str(noted.heard if noted else Heard()), said)

    def _forget_from(self, first: int) -> None:
        for number in [number for number in self._noted if number >= first]:
            del self._noted[number]

    async def _range(self, first: int, last: int) -> list[Log]:
        if first > last:
            return []
        logs = [*await self._escrow.logs(first, await self._block(last))]
        self.note(first, logs)
        return logs

    async def _block(self, number: int, known: Block | None = None) -> Block:
        if known is not None and number == known.number:
            return known
        block = await self._node.block(number)
        if block is None:
            raise ChainUnavailableError(f"block {number} is not there")
        return block

    async def _of_block(self, header: Header) -> list[Log]:
        """A block's events; asked of somebody else too where the header's filter says that there may be more."""
        block, heard = header.block, Heard()
        logs = [*await self._escrow.block_logs(block, heard)]
        if not self._agrees(header.logs_bloom, logs):
            try:
                other, second = await self._ask(block, heard.again())
            except ChainUnavailableError:
                if len(self._doubted) < DOUBTED_MAX:
                    self._doubted[block.block_hash] = (heard, frozenset(logs))
                raise
            known, confirmed = set(logs), set(other)
            if known != confirmed:
                liar, said = (heard, len(confirmed - known)) if confirmed - known else (second, len(known - confirmed))
                contradicted(Answer.LOGS, str(liar), f"left out {said} of the events of block {block.number}")
            logs += [log for log in other if log not in known]
        who, doubted = self._doubted.pop(block.block_hash, (heard, frozenset(logs)))
        if missing := frozenset(logs) - doubted:
            contradicted(Answer.LOGS, str(who), f"left out {len(missing)} of the events of block {block.number}")
        self._noted[block.number] = _Noted(block.block_hash, heard, tuple(logs))
        return logs

    async def _ask_again(self, block: Block) -> Sequence[Log]:
        noted = self._noted.get(block.number)
        heard = noted.heard.again() if noted is not None and noted.block_hash == block.block_hash else Heard()
        return (await self._ask(block, heard))[0]

    async def _ask(self, block: Block, heard: Heard) -> tuple[Sequence[Log], Heard]:
        """A block's events from somebody else; where nobody else answers, in a call of its own."""
        try:
            return await self._escrow.block_logs(block, heard), heard
        except ChainUnavailableError:
            if not heard.excluded:
                raise
            heard = Heard()
            return await self._escrow.block_logs(block, heard), heard

    def _agrees(self, bloom: bytes, logs: Sequence[Log]) -> bool:
        """Whether each kind of event that the filter allows is among these."""
        if not may_hold(bloom, self._escrow.address):
            return True
        kinds = {log.topics[0] for log in logs if log.topics}
        return all(kind in kinds or not may_hold(bloom, kind) for kind in self._escrow.event_topics)
