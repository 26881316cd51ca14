"""A running batcher over a journal, as the aggregator wires them, without edges and without a chain."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from doubles import NOW_MS, SEPARATORS, PureLedger, ScriptedJournal

from tallystick_aggregator.charging import LedgerWriter, PaymentBatcher
from tallystick_aggregator.charging.batcher import BatcherSettings
from tallystick_aggregator.charging.writer import WriterSettings
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.invariants import check_invariants
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.store.port import Journal


class Running:
    """The parts of a running batcher, and a clock that a test may move."""

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        rules: Rules,
        batching: BatcherSettings | None = None,
        separators: Mapping[str, bytes] = SEPARATORS,
        writing: WriterSettings | None = None,
    ) -> None:
        self.ledger = ledger
        self.journal = journal
        self.now_ms = NOW_MS
        self.stale_escrows: frozenset[str] = frozenset()
        self.writer = LedgerWriter(
            ledger,
            journal,
            stale_escrows=lambda: self.stale_escrows,
            clock_ms=lambda: self.now_ms,
            settings=writing,
        )
        self.batcher = PaymentBatcher(self.writer, separators, rules, settings=batching)

    async def settle_down(self) -> None:
        """Let everything run that can run without anybody's help."""
        for _ in range(50):
            await asyncio.sleep(0)


class Scripted(Running):
    """One over a ScriptedJournal."""

    journal: ScriptedJournal

    @property
    def charges(self) -> list[ev.Charged]:
        """What the journal holds as charged."""
        return [event for event in self.journal.events if isinstance(event, ev.Charged)]


@asynccontextmanager
async def running(
    books: PureLedger, batching: BatcherSettings | None = None, writing: WriterSettings | None = None
) -> AsyncIterator[Scripted]:
    """Go on from these books; at the end everything was answered and memory is what the journal replays to."""
    journal = ScriptedJournal()
    if books.events:
        journal.commits.append(tuple(books.events))
    shop = Scripted(books.ledger, journal, books.rules, batching, writing=writing)
    serving = asyncio.create_task(shop.writer.serve())
    try:
        yield shop
        journal.let_go()
        await shop.settle_down()
    finally:
        shop.writer.stop()
        journal.let_go()
        shop.batcher.close()
        await asyncio.wait([serving], timeout=10)
    assert shop.batcher.inside == 0
    assert await journal.load() == journal.with_archived(shop.ledger)
    check_invariants(shop.ledger)
