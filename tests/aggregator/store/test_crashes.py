"""I3 to the letter: what was acknowledged is there after any crash, what was not is there whole or not at all."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from driven import Driven, check_payments, copy_store, load_now, loaded_from, opened
from histories import BEGINNING, ESCROW_REF, NOW_MS, Advance, History, Pay, account_id, histories, same_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.store.port import StoreUnavailableError
from tallystick_aggregator.store.sqlite.database import Database

HERE = Path(__file__).parent
LOG_HEADER = 32
FRAME = 24 + 4096
"""Bytes of the log's header, and of a frame with its page (SQLite's file format, section 4)."""


class CrashPoints:
    """Copies the store's files after every write, checkpoints' included: each copy is what a crash there leaves."""

    def __init__(self, path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, driven: Driven) -> None:
        self.copies: list[tuple[Path, Ledger]] = []
        """Each copy, and what is to be loaded from it."""
        self._driven = driven
        self._new: list[Path] = []
        write = Database.write

        async def write_and_copy(database: Database, sql: str, parameters: Sequence[Any] = ()) -> int:
            rows = await write(database, sql, parameters)
            self._new.append(copy_store(path, directory, f"copy{len(self.copies) + len(self._new)}.db"))
            return rows

        monkeypatch.setattr(Database, "write", write_and_copy)

    def note_model(self) -> None:
        """What was copied since the last time is to be loaded as the model is now: a checkpoint changes nothing, and a
        commit is there as soon as it is written."""
        model = deepcopy(self._driven.model)
        self.copies += [(copy, model) for copy in self._new]
        self._new.clear()


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(histories(commits_max=12))
def test_a_crash_after_any_write_loses_nothing_and_adds_nothing(history: History) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        copies = asyncio.run(_crash_everywhere(history, Path(name), monkeypatch))
    assert len(copies) >= (5 if len(history) >= 3 else 1), "the first checkpoint alone is several writes"


async def _crash_everywhere(
    history: History, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Path, Ledger]]:
    path = directory / "store.db"
    async with opened(path, hot_payments_max=2) as store:
        driven = Driven(store.journal, await store.journal.load())
        points = CrashPoints(path, directory, monkeypatch, driven)
        for position, commands in enumerate(history):
            await driven.commit(commands)
            points.note_model()
            if position % 3 == 2:
                await store.journal.checkpoint(NOW_MS)
                store.journal.trim()
                points.note_model()
    monkeypatch.undo()
    for copy, model in points.copies:
        await _check_copy(copy, model)
    return points.copies


async def _check_copy(copy: Path, model: Ledger) -> None:
    async with opened(copy, hot_payments_max=2) as store:
        ledger = await store.journal.load()
        assert same_state(ledger, model)
        await check_payments(store.journal, ledger, model)
        await store.journal.checkpoint(NOW_MS)  # what the crash has cut short is made good
        await check_payments(store.journal, ledger, model)
    assert same_state(await loaded_from(copy), model)


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(histories(commits_max=12), st.integers(0, 30), st.integers(0, 3))
def test_a_checkpoint_that_fails_anywhere_is_made_good_by_the_next(history: History, failing: int, beside: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(_fail_once_in_checkpoints(history, Path(name), failing, beside))


async def _fail_once_in_checkpoints(history: History, directory: Path, failing: int, beside: int) -> None:
    """Let the checkpoints' write with this number fail, with commits in between (before each fourth write)."""
    path = directory / "store.db"
    async with opened(path, hot_payments_max=1) as store:
        driven = Driven(store.journal, await store.journal.load())
        database, pending, writes = store.journal._database, list(history), 0
        write = database.write

        async def fail_once(sql: str, parameters: Sequence[Any] = ()) -> int:
            nonlocal writes
            if sql.startswith("INSERT INTO log"):
                return await write(sql, parameters)
            if writes % 4 == beside and pending:
                await driven.commit(pending.pop(0))
            writes += 1
            if writes == failing + 1:
                await _check_copy(copy_store(path, directory, "failing.db"), deepcopy(driven.model))
                raise StoreUnavailableError("injected")
            rows = await write(sql, parameters)
            if failing < writes <= failing + 12:  # a crash in the checkpoint that makes good what the failed one left
                await _check_copy(copy_store(path, directory, "crashed.db"), deepcopy(driven.model))
            return rows

        while pending:
            await driven.commit(pending.pop(0))
            with pytest.MonkeyPatch.context() as patches:
                patches.setattr(database, "write", fail_once)
                try:
                    await store.journal.checkpoint(NOW_MS)
                except StoreUnavailableError:
                    assert writes == failing + 1
            store.journal.trim()
            await driven.check()
            await _check_copy(copy_store(path, directory, f"copy{writes}.db"), driven.model)


CHARGES = [
    Pay(1, 0, payment, 10, 1_000, key=0, reserve=False) for payment in range(3)
]  # each adds to the same rows: whatever is applied twice or not at all shows


class StoppedError(Exception):
    """The process would be dead here."""


@pytest.mark.parametrize("failing", range(9))
async def test_a_crash_in_a_checkpoint_after_one_that_failed_loses_nothing(tmp_path: Path, failing: int) -> None:
    """Every pair of points: the second checkpoint fails at one write, and the third is cut short at another."""
    for stopping in range(9):
        path = tmp_path / f"store{stopping}.db"
        async with opened(path) as store:
            driven = Driven(store.journal, await store.journal.load())
            await driven.commit([*BEGINNING, CHARGES[0]])
            await store.journal.checkpoint(NOW_MS)
            for charge, point, error in (
                (CHARGES[1], failing, StoreUnavailableError),
                (CHARGES[2], stopping, StoppedError),
            ):
                await driven.commit([charge])
                with pytest.MonkeyPatch.context() as patches:
                    _stop_at(store.journal._database, point, error, patches)
                    with suppress(error):
                        await store.journal.checkpoint(NOW_MS)
            assert driven.ledger.accounts[account_id(1)].committed == 30
            copy = copy_store(path, tmp_path, f"copy{stopping}.db")
        await _check_copy(copy, driven.model)


def _stop_at(database: Database, point: int, error: type[Exception], patches: pytest.MonkeyPatch) -> None:
    """Let the write with this number raise instead."""
    write, writes = database.write, 0

    async def stop(sql: str, parameters: Sequence[Any] = ()) -> int:
        nonlocal writes
        writes += 1
        if writes == point + 1:
            raise error("injected")
        return await write(sql, parameters)

    patches.setattr(database, "write", stop)


def _crashed(directory: Path, commits: int) -> tuple[Path, list[Ledger]]:
    """Append so many commits to a store and copy it as a crash leaves it; return the model after each commit."""
    path = directory / "store.db"

    async def append() -> tuple[Path, list[Ledger]]:
        async with opened(path) as store:
            driven = Driven(store.journal, await store.journal.load())
            models = [Ledger()]
            for commands in (list(BEGINNING), *([Advance(0, number)] for number in range(commits - 1))):
                await driven.commit(commands)
                models.append(deepcopy(driven.model))
            return copy_store(path, directory, "crashed.db"), models

    return asyncio.run(append())


def _with_log(crashed: Path, log: bytes, name: str) -> Path:
    """Copy a crashed store, with another log."""
    copy = crashed.with_name(name)
    copy.write_bytes(crashed.read_bytes())
    copy.with_name(name + "-wal").write_bytes(log)
    return copy


def test_a_torn_log_loses_the_commit_that_was_torn_and_no_other(tmp_path: Path) -> None:
    crashed, models = _crashed(tmp_path, 7)
    log = crashed.with_name("crashed.db-wal").read_bytes()
    assert (len(log) - LOG_HEADER) % FRAME == 0
    last_frame = len(log) - FRAME
    edges = {last_frame, last_frame + 1, last_frame + 23, last_frame + 24, len(log) - 1}
    for cut in sorted({*range(last_frame, len(log), 251), *edges}):
        assert same_state(load_now(_with_log(crashed, log[:cut], f"cut{cut}.db")), models[-2]), cut
    # The page is as long as it should be, but not what was written.
    for offset in random.Random(1).sample(range(last_frame, len(log)), 12):
        garbled = log[:offset] + bytes((log[offset] ^ 0x40,)) + log[offset + 1 :]
        assert same_state(load_now(_with_log(crashed, garbled, f"garbled{offset}.db")), models[-2]), offset
    assert same_state(load_now(crashed), models[-1])


def test_a_log_that_is_torn_in_the_middle_still_gives_a_prefix(tmp_path: Path) -> None:
    crashed, models = _crashed(tmp_path, 9)
    log = crashed.with_name("crashed.db-wal").read_bytes()
    seen = set[int]()
    for cut in range(len(log) // 3, len(log), 2_999):
        ledger = load_now(_with_log(crashed, log[:cut], f"cut{cut}.db"))
        seen.add(next(index for index, model in enumerate(models) if same_state(ledger, model)))
    assert len(seen) > 3
    assert min(seen) < len(models) - 3


KILLED = """
import asyncio, sys
sys.path[:0] = [{tests!r}, {here!r}]
from pathlib import Path
from measure import ESCROW_REF, START_MS
from tallystick_aggregator.store.sqlite.store import SqliteStore
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger import events as ev

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]))
    ledger = await store.journal.load()
    number = ledger.heads[ESCROW_REF].number if ESCROW_REF in ledger.heads else 0
    asyncio.ensure_future(checkpoints(store))
    while True:
        number += 1
        draft = Draft(ledger)
        draft.record(ev.ChainAdvanced(ESCROW_REF, number, number.to_bytes(32, "big")))
        await store.journal.append(draft.events)
        draft.adopt()
        print(number, flush=True)

async def checkpoints(store):
    while True:
        await store.journal.checkpoint(START_MS)
        await asyncio.sleep(0.005)

asyncio.run(main())
"""


def test_a_process_that_is_killed_while_it_appends_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "store.db", 0
    program = KILLED.format(tests=str(HERE.parent), here=str(HERE))
    for kill in range(5):
        with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(30 + 17 * kill)]
            os.kill(process.pid, signal.SIGKILL)
            lines += process.stdout.readlines()
        heard = [int(line) for line in lines if line.endswith("\n")]
        assert heard[0] in {acknowledged + 1, acknowledged + 2}, "at most one commit was not heard of"
        acknowledged = heard[-1]
        ledger = load_now(path)
        assert ledger.heads[ESCROW_REF].number in {acknowledged, acknowledged + 1}
        acknowledged = ledger.heads[ESCROW_REF].number - 1
