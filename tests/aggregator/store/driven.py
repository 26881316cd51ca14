"""A journal that is driven as the ledger's writer drives it, next to a model that never forgets and never restarts."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from histories import NOW, Command, do, lookup, same_state

from tallystick.payment_ids import payment_id_ms
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.invariants import check_invariants
from tallystick_aggregator.ledger.state import Ledger, payment_key
from tallystick_aggregator.store.port import Journal
from tallystick_aggregator.store.sqlite.store import SqliteStore


class Driven:
    """Does commits to the journal and to the model, and compares what they answer."""

    def __init__(self, journal: Journal, ledger: Ledger, model: Ledger | None = None) -> None:
        self.journal = journal
        self.ledger = ledger
        self.model = Ledger() if model is None else model

    async def commit(self, commands: Sequence[Command]) -> None:
        """Decide, append and adopt as the writer does; the model decides the same."""
        answers, draft = await self.decide(commands)
        if draft.events:
            await self.journal.append(draft.events)
        draft.adopt()
        self.commit_to_model(commands, answers)

    async def decide(self, commands: Sequence[Command]) -> tuple[list[object], Draft]:
        """Recall what memory does not answer for, then decide."""
        pairs = [pair for pair in map(lookup, commands) if pair is not None]
        wanted = [
            pair
            for pair in pairs
            if payment_id_ms(pair[1]) < self.ledger.payments_since_ms and payment_key(*pair) not in self.ledger.payments
        ]
        recalled = await self.journal.recall(wanted)
        draft = Draft(self.ledger)
        for pair in wanted:
            if payment_key(*pair) in recalled:
                draft.recall(*pair, recalled[payment_key(*pair)])
        return [do(command, draft, self.ledger, NOW) for command in commands], draft

    def commit_to_model(self, commands: Sequence[Command], answers: Sequence[object]) -> None:
        """Do the same to the model, and compare the answers."""
        draft = Draft(self.model)
        for command, answer in zip(commands, answers, strict=True):
            expected = do(command, draft, self.model, NOW)
            pair = lookup(command)
            if pair is not None and payment_id_ms(pair[1]) < draft.payments_forgotten_ms and answer != expected:
                # The model remembers what the journal may have forgotten; forgetting may refuse, but never charge.
                assert isinstance(answer, Refusal), (command, answer, expected)
            else:
                assert answer == expected, command
        draft.adopt()

    async def check(self) -> None:
        """Compare the states, and see that every payment is in memory or can be recalled (the journal's promise)."""
        assert same_state(self.ledger, self.model)
        check_invariants(self.ledger)
        await check_payments(self.journal, self.ledger, self.model)


async def check_payments(journal: Journal, ledger: Ledger, model: Ledger) -> None:
    """Every payment of the model that is not forgotten is in memory, or is old and found by recall."""
    absent: list[bytes] = []
    for key, payment in model.payments.items():
        if key in ledger.payments:
            assert ledger.payments[key] == payment
        elif payment_id_ms(key) >= model.payments_forgotten_ms:
            assert payment_id_ms(key) < ledger.payments_since_ms, "what memory answers for is in memory"
            absent.append(key)
    recalled = await journal.recall([(key[16:], key[:16]) for key in absent])
    assert recalled == {key: model.payments[key] for key in absent}
    assert ledger.payments.keys() <= model.payments.keys()


def copy_store(path: Path, directory: Path, name: str) -> Path:
    """Copy the store's file and its log, as they are on disk now, without closing anything."""
    copy = directory / name
    shutil.copyfile(path, copy)
    wal = path.with_name(path.name + "-wal")
    if wal.exists():
        shutil.copyfile(wal, copy.with_name(copy.name + "-wal"))
    return copy


@asynccontextmanager
async def opened(path: Path, **limits: Any) -> AsyncGenerator[SqliteStore]:
    """An open store, closed in the end."""
    store = await SqliteStore.open(path, **limits)
    try:
        yield store
    finally:
        await store.close()


async def loaded_from(path: Path) -> Ledger:
    """The ledger that a start would load from this file."""
    async with opened(path) as store:
        return await store.journal.load()


def load_now(path: Path) -> Ledger:
    """The same, outside of an event loop."""
    return asyncio.run(loaded_from(path))
