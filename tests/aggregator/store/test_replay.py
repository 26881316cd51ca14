"""What is loaded is what was in memory: after any history, with checkpoints, trims and restarts anywhere in it."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from pathlib import Path

import pytest
from driven import Driven
from histories import BEGINNING, NOW_MS, Command, commands, histories
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.store.memory import MemoryDisk, MemoryJournal
from tallystick_aggregator.store.port import Journal
from tallystick_aggregator.store.sqlite.store import SqliteStore

Open = Callable[[int, int], Awaitable[Journal]]


class Maintenance(Enum):
    """What happens between commits."""

    CHECKPOINT = auto()
    TRIM = auto()
    RESTART = auto()


Steps = list[list[Command] | Maintenance]


def steps() -> st.SearchStrategy[Steps]:
    """Draw a history with maintenance in between."""
    maintenance = st.lists(st.sampled_from([*Maintenance, Maintenance.CHECKPOINT, Maintenance.TRIM]), max_size=3)

    def mix(drawn: tuple[list[list[Command]], list[list[Maintenance]]]) -> Steps:
        history, between = drawn
        mixed: Steps = []
        for position, commit in enumerate(history):
            mixed.append(commit)
            mixed += between[position % len(between)]
        return mixed

    return st.tuples(histories(), st.lists(maintenance, min_size=1, max_size=12)).map(mix)


async def play(history: Steps, open_journal: Open, hot: tuple[int, int]) -> None:
    journal = await open_journal(*hot)
    try:
        driven = Driven(journal, await journal.load())
        for step in history:
            if step is Maintenance.CHECKPOINT:
                await journal.checkpoint(NOW_MS)
                assert journal.backlog == 0
            elif step is Maintenance.TRIM:
                journal.trim()
            elif step is Maintenance.RESTART:
                await journal.close()
                journal = await open_journal(*hot)
                driven = Driven(journal, await journal.load(), driven.model)
            else:
                await driven.commit(step)
            await driven.check()
    finally:
        await journal.close()


HOT = st.tuples(st.sampled_from([0, 1, 3, 100]), st.sampled_from([0, 60_000, 10**9]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(steps(), HOT)
def test_the_twin_in_memory_loads_what_was_in_memory(history: Steps, hot: tuple[int, int]) -> None:
    disk = MemoryDisk()

    async def open_journal(count_max: int, age_ms_max: int) -> Journal:
        await asyncio.sleep(0)
        return MemoryJournal(disk, hot_payments_max=count_max, hot_age_ms_max=age_ms_max)

    asyncio.run(play(history, open_journal, hot))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(steps(), HOT)
def test_sqlite_loads_what_was_in_memory(history: Steps, hot: tuple[int, int]) -> None:
    with tempfile.TemporaryDirectory() as directory:

        async def open_journal(count_max: int, age_ms_max: int) -> Journal:
            path = Path(directory) / "store.db"
            return (await SqliteStore.open(path, hot_payments_max=count_max, hot_age_ms_max=age_ms_max)).journal

        asyncio.run(play(history, open_journal, hot))


@pytest.mark.full
@settings(max_examples=2_000, suppress_health_check=[HealthCheck.too_slow])
@given(steps(), HOT)
@pytest.mark.timeout(3_600)
def test_sqlite_loads_what_was_in_memory_at_length(history: Steps, hot: tuple[int, int]) -> None:
    with tempfile.TemporaryDirectory() as directory:

        async def open_journal(count_max: int, age_ms_max: int) -> Journal:
            path = Path(directory) / "store.db"
            return (await SqliteStore.open(path, hot_payments_max=count_max, hot_age_ms_max=age_ms_max)).journal

        asyncio.run(play(history, open_journal, hot))


async def test_an_empty_store_loads_an_empty_ledger(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    assert await store.journal.load() == Ledger()
    await store.journal.checkpoint(NOW_MS)
    await store.close()
    store = await SqliteStore.open(tmp_path / "store.db")
    assert await store.journal.load() == Ledger()
    await store.close()


async def test_channels_come_back_in_the_order_in_which_they_were_opened(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    driven = Driven(store.journal, await store.journal.load())
    for command in BEGINNING:
        await driven.commit([command])
        await store.journal.checkpoint(NOW_MS)
    await store.close()
    store = await SqliteStore.open(tmp_path / "store.db")
    ledger = await store.journal.load()
    assert ledger.channel_ids == driven.ledger.channel_ids
    await store.close()


def test_commands_are_drawn_at_random() -> None:
    """The strategy that everything above rests on does not degenerate."""
    drawn = set[type]()

    @settings(max_examples=200, derandomize=True, database=None)
    @given(commands())
    def explore(command: Command) -> None:
        drawn.add(type(command))

    explore()
    assert len(drawn) == 10
