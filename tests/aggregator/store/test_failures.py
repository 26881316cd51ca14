"""A disk that fails: the caller is refused, nothing of it is there now or after a crash, and later it works again."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from driven import Driven, copy_store, load_now, loaded_from, opened
from histories import BEGINNING, Advance, same_state

from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.events import encode_entry
from tallystick_aggregator.store.port import StoreUnavailableError, StoreUncertainError
from tallystick_aggregator.store.sqlite.store import SqliteStore

HERE = Path(__file__).parent


FULL = """
import asyncio, resource, sys
sys.path[:0] = [{tests!r}, {here!r}]
from pathlib import Path
from tallystick_aggregator.store.port import StoreUnavailableError, StoreUncertainError
from tallystick_aggregator.store.sqlite.store import SqliteStore
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.values import EscrowRef

async def append(store, ledger, number):
    draft = Draft(ledger)
    draft.record(ev.ChainAdvanced(EscrowRef("eip155:1", bytes(20)), number, bytes(32)))
    await store.journal.append(draft.events * 40)
    draft.adopt()

async def main():
    path = Path(sys.argv[1])
    store = await SqliteStore.open(path)
    ledger = await store.journal.load()
    await append(store, ledger, 1)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    size = max(file.stat().st_size for file in path.parent.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, hard))
    number, refused = 1, 0
    while refused < 3:
        try:
            await append(store, ledger, number + 1)
            number += 1
        except StoreUncertainError:
            raise
        except StoreUnavailableError as error:
            refused += 1
            print("refused", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await append(store, ledger, number + 1)
    print("acknowledged", number + 1, flush=True)

asyncio.run(main())
"""


def test_a_full_disk_refuses_leaves_nothing_behind_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    program = FULL.format(tests=str(HERE.parent), here=str(HERE)).replace(
        "asyncio.run(main())", "asyncio.run(main()); import os; os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True, text=True, timeout=60)
    *refusals, last = done.stdout.splitlines()
    assert len(refusals) == 3
    assert all(str(path) in refusal and ("full" in refusal or "disk" in refusal) for refusal in refusals)
    number = int(last.removeprefix("acknowledged "))
    assert number > 2, "the limit left room for a few"
    assert load_now(path).heads[EscrowRef("eip155:1", bytes(20))].number == number


async def test_a_database_at_its_limit_refuses_and_works_again_with_more_room(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as store:
        driven = Driven(store.journal, await store.journal.load())
        await driven.commit(BEGINNING)
        writer = store.journal._database._writer
        ((pages,),) = await writer.execute_fetchall("PRAGMA page_count")
        await writer.execute(f"PRAGMA max_page_count = {pages}")
        large = [ev.ChainAdvanced(EscrowRef("eip155:1", bytes(20)), number, bytes(32)) for number in range(400)]
        with pytest.raises(StoreUnavailableError, match="the disk is full"):
            await store.journal.append(large)
        with pytest.raises(StoreUnavailableError, match="the disk is full"):
            await store.journal.append(large)
        await writer.execute("PRAGMA max_page_count = 1073741823")
        await driven.commit([Advance(0, 7)])
        backlog = store.journal.backlog
    async with opened(tmp_path / "store.db") as store:
        assert same_state(await store.journal.load(), driven.model)
        assert store.journal.backlog == backlog


async def test_a_store_that_turns_read_only_refuses_and_recovers(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as store:
        driven = Driven(store.journal, await store.journal.load())
        await driven.commit(BEGINNING)
        writer = store.journal._database._writer
        await writer.execute("PRAGMA query_only = ON")
        _, draft = await driven.decide([Advance(0, 1)])
        with pytest.raises(StoreUnavailableError, match="it cannot be written to"):
            await store.journal.append(draft.events)
        await writer.execute("PRAGMA query_only = OFF")
        await driven.commit([Advance(0, 2)])
        await driven.check()
    with pytest.raises(StoreUnavailableError, match="is closed"):
        await store.journal.append(draft.events)


class FailingFsync:
    """The writer's next statements get all their bytes into the log, but their fsync fails, or what comes after it.

    SQLite then goes back behind the commit, but its frames stand in the log: a recovery would find them.
    """

    def __init__(
        self,
        store: SqliteStore,
        path: Path,
        patches: pytest.MonkeyPatch,
        frames: bytes,
        code: int = sqlite3.SQLITE_IOERR_FSYNC,
    ) -> None:
        self.failures = 1
        writer = store.journal._database._writer
        execute, log = writer.execute, path.with_name(path.name + "-wal")
        valid_bytes = log.stat().st_size

        async def failing(sql: str, parameters: Sequence[Any] = ()) -> Any:
            if self.failures == 0:
                return await execute(sql, parameters)
            self.failures -= 1
            os.truncate(log, valid_bytes)
            with log.open("ab") as file:
                file.write(frames)
            error = sqlite3.OperationalError("it failed")
            error.sqlite_errorcode, error.sqlite_errorname = code, "SQLITE_FAILED"
            raise error

        patches.setattr(writer, "execute", failing)


async def _frames_of_a_next_commit(store: SqliteStore, path: Path) -> bytes:
    """What the next commit would append to the log, with the checksums that follow from what is in it now."""
    shadow = copy_store(path, path.parent, "shadow.db")
    log = shadow.with_name("shadow.db-wal")
    before = log.read_bytes()
    connection = sqlite3.connect(shadow, isolation_level=None)
    entry = encode_entry([ev.ChainAdvanced(EscrowRef("eip155:9", bytes(20)), 99, bytes(32))])
    connection.execute("INSERT INTO log SELECT ?, ? FROM store WHERE epoch = ?", (2, entry, store.journal.epoch))
    after = log.read_bytes()
    connection.close()
    assert after.startswith(before)
    return after[len(before) :]


async def test_the_frames_of_a_failed_fsync_would_be_found_by_a_recovery(tmp_path: Path) -> None:
    """The danger that the next tests are about is real."""
    path = tmp_path / "store.db"
    async with opened(path) as store:
        driven = Driven(store.journal, await store.journal.load())
        await driven.commit(BEGINNING)
        frames = await _frames_of_a_next_commit(store, path)
        copy = copy_store(path, tmp_path, "found.db")
        copy.with_name("found.db-wal").write_bytes(copy.with_name("found.db-wal").read_bytes() + frames)
    assert (await loaded_from(copy)).heads[EscrowRef("eip155:9", bytes(20))].number == 99


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, "the disk failed"),
        (sqlite3.SQLITE_IOERR_SHMMAP, "the disk failed"),
        (sqlite3.SQLITE_NOMEM, "it failed"),
    ],
)
async def test_a_failed_fsync_is_settled_before_anybody_is_refused(tmp_path: Path, code: int, told: str) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        driven = Driven(store.journal, await store.journal.load())
        await driven.commit(BEGINNING)
        frames = await _frames_of_a_next_commit(store, path)
        with pytest.MonkeyPatch.context() as patches:
            FailingFsync(store, path, patches, frames, code)
            _, draft = await driven.decide([Advance(0, 1)])
            with pytest.raises(StoreUnavailableError, match=told) as raised:
                await store.journal.append(draft.events)
        assert type(raised.value) is StoreUnavailableError, "the outcome is known"
        copy = copy_store(path, tmp_path, "crashed.db")
        await driven.commit([Advance(0, 2)])
    assert same_state(await loaded_from(path), driven.model)
    assert EscrowRef("eip155:9", bytes(20)) not in (await loaded_from(copy)).heads, (
        "what was refused is not there after a crash"
    )


async def test_a_failed_fsync_that_cannot_be_settled_is_uncertain_until_the_next_commit(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        driven = Driven(store.journal, await store.journal.load())
        await driven.commit(BEGINNING)
        frames = await _frames_of_a_next_commit(store, path)
        with pytest.MonkeyPatch.context() as patches:
            FailingFsync(store, path, patches, frames).failures = 2
            _, draft = await driven.decide([Advance(0, 1)])
            with pytest.raises(StoreUncertainError, match="what it holds of the last write is unknown"):
                await store.journal.append(draft.events)
        await driven.commit([Advance(0, 2)])
        copy = copy_store(path, tmp_path, "crashed.db")
    assert same_state(await loaded_from(copy), driven.model)
