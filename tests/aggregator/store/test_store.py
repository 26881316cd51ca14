"""Opening a store: one process at a time, only our own files, each problem in one sentence that names the file."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from driven import Driven, copy_store, loaded_from, opened
from histories import BEGINNING, NOW_MS, Advance, same_state

from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.events import encode_entry
from tallystick_aggregator.store.port import (
    StoreDamagedError,
    StoreLockedError,
    StoreUnavailableError,
    StoreUnusableError,
)
from tallystick_aggregator.store.sqlite.schema import APPLICATION_ID, MIGRATIONS, STATE_TABLES
from tallystick_aggregator.store.sqlite.store import SqliteStore


async def test_a_store_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        await store.journal.append([ev.PaymentsForgotten(1)])
        modes = {file.name: file.stat().st_mode & 0o777 for file in os.scandir(tmp_path)}
    assert modes == dict.fromkeys(["store.db", "store.db-wal", "store.db-shm", "store.db.lock"], 0o600)


async def test_commits_are_fsynced_and_the_log_is_written_ahead(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as store:
        writer = store.journal._database._writer
        for pragma, value in {"synchronous": 2, "journal_mode": "wal"}.items():
            ((found,),) = await writer.execute_fetchall(f"PRAGMA {pragma}")
            assert found == value


async def test_a_second_opening_in_the_same_process_is_locked_out(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path):
        with pytest.raises(StoreLockedError, match=rf"{path} is in use by another process \(process {os.getpid()}\)"):
            await SqliteStore.open(path)
        alias = tmp_path / "alias.db"
        alias.symlink_to(path)
        with pytest.raises(StoreLockedError):
            await SqliteStore.open(alias)
    async with opened(path) as store:
        assert store.journal.epoch == 2


HOLDING = """
import asyncio, sys
from tallystick_aggregator.store.sqlite.store import SqliteStore

async def main():
    await SqliteStore.open(sys.argv[1])
    print("open", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_killed_process_lets_go_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDING, str(path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    with pytest.raises(StoreLockedError, match=f"process {process.pid}"):
        await SqliteStore.open(path)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with opened(path) as store:
        assert store.journal.epoch == 2


async def test_a_store_that_was_taken_over_all_the_same_takes_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        await store.journal.append([ev.PaymentsForgotten(1)])
        await asyncio.to_thread((tmp_path / "store.db.lock").unlink)
        async with opened(path) as other:
            assert other.journal.epoch == 2
            with pytest.raises(StoreLockedError, match="was taken over by another process"):
                await store.journal.append([ev.PaymentsForgotten(2)])
            with pytest.raises(StoreLockedError):
                await store.journal.checkpoint(NOW_MS)
            ledger = await other.journal.load()
            assert ledger.payments_forgotten_ms == 1


async def test_a_backup_that_was_put_back_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path):
        pass
    copy_store(path, tmp_path, "backup.db")
    for _ in range(3):
        async with opened(path) as store:
            assert store.lost_epochs == 0
    await asyncio.to_thread((tmp_path / "backup.db").replace, path)
    async with opened(path) as store:
        assert store.lost_epochs == 3
        assert store.journal.epoch == 5, "epochs never repeat"
    async with opened(path) as store:
        assert store.lost_epochs == 0


async def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    await store.journal.close()
    await store.journal.close()
    await store.close()
    for refused in (store.journal.append([]), store.journal.checkpoint(0), store.outbox.next_nonce("x", b"")):
        with pytest.raises(StoreUnavailableError, match="is closed"):
            await refused


async def test_what_is_written_while_the_store_closes_has_no_outcome(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    closing = asyncio.create_task(store.journal._database._writer.close())
    await asyncio.sleep(0)  # the writer's thread has been told
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.journal.append([])
    await closing
    await store.close()


# Files that are no stores.


async def _refused(path: Path, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match) as raised:
        await SqliteStore.open(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"to whom it may concern: " * 99)
    await _refused(path, StoreUnusableError, "is not a database")


async def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    await _refused(path, StoreUnusableError, "is a database of another program")
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("songs",)]
    connection.close()


async def test_a_newer_versions_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    await _refused(path, StoreUnusableError, f"format {len(MIGRATIONS) + 1}; this one knows {len(MIGRATIONS)}")


async def test_a_place_where_no_store_can_be_is_refused(tmp_path: Path) -> None:
    await _refused(tmp_path / "no" / "store.db", StoreUnusableError, "there is no directory")
    await _refused(tmp_path, StoreUnusableError, "is a directory")
    await _refused(Path("/proc/store.db"), StoreUnavailableError, "cannot be made")


async def test_a_store_whose_making_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert path.stat().st_size > 0
    async with opened(path) as store:
        assert store.journal.epoch == 1
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.close()


# Stores that were damaged.


async def _damage(path: Path, sql: str, *parameters: object) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute(sql, parameters).rowcount == 1
    connection.close()
    async with opened(path) as store:
        with pytest.raises(StoreDamagedError):
            await store.journal.load()


async def _make(path: Path, *, checkpoint: bool) -> Driven:
    async with opened(path) as store:
        driven = Driven(store.journal, await store.journal.load())
        await driven.commit(BEGINNING)
        for number in range(3):
            await driven.commit([Advance(0, number)])
        if checkpoint:
            await store.journal.checkpoint(NOW_MS)
        return driven


async def test_a_damaged_log_entry_is_never_believed(tmp_path: Path) -> None:
    await _make(tmp_path / "store.db", checkpoint=False)
    await _damage(tmp_path / "store.db", "UPDATE log SET entries = CAST(entries || x'00' AS BLOB) WHERE seq = 2")


async def test_a_missing_log_entry_is_never_passed_over(tmp_path: Path) -> None:
    await _make(tmp_path / "store.db", checkpoint=False)
    await _damage(tmp_path / "store.db", "DELETE FROM log WHERE seq = 2")


async def test_a_log_entry_in_the_wrong_place_is_never_believed(tmp_path: Path) -> None:
    await _make(tmp_path / "store.db", checkpoint=True)
    entry = encode_entry([ev.PaymentsForgotten(1)])
    await _damage(tmp_path / "store.db", "INSERT INTO log VALUES (9, ?)", entry)


@pytest.mark.parametrize("table", [table for table in STATE_TABLES if table != "reservations"])
async def test_a_damaged_row_of_state_is_never_believed(tmp_path: Path, table: str) -> None:
    await _make(tmp_path / "store.db", checkpoint=True)
    at = 5 if table == "heads" else 40
    flipped = f"CAST(substr(row, 1, {at}) || x'5a' || substr(row, {at + 2}) AS BLOB)"
    await _damage(tmp_path / "store.db", f"UPDATE {table} SET row = {flipped} WHERE id = 1")


async def test_a_row_under_another_key_is_never_believed(tmp_path: Path) -> None:
    await _make(tmp_path / "store.db", checkpoint=True)
    await _damage(tmp_path / "store.db", "UPDATE channels SET key = zeroblob(32) WHERE id = 1")


async def test_a_channel_without_its_account_is_never_believed(tmp_path: Path) -> None:
    await _make(tmp_path / "store.db", checkpoint=True)
    await _damage(tmp_path / "store.db", "DELETE FROM accounts WHERE id = 1")


async def test_damaged_pages_are_found_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await _make(path, checkpoint=True)
    connection = sqlite3.connect(path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'accounts'").fetchone()
    connection.close()
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : (page - 1) * 4096 + 100] = b"\xff" * 100
    path.write_bytes(bytes(content))
    await _refused(path, StoreDamagedError, "is damaged")


async def test_a_checkpoint_shortens_the_log_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    driven = await _make(path, checkpoint=False)
    before = await loaded_from(path)
    async with opened(path) as store:
        await store.journal.load()
        backlog = store.journal.backlog
        assert backlog > len(BEGINNING)
        await store.journal.checkpoint(NOW_MS)
        assert store.journal.backlog == 0
        assert await store.journal._database.read("SELECT count(*) FROM log") == [(0,)]
        await store.journal.append([ev.ChainAdvanced(EscrowRef("eip155:1", bytes(20)), 5, bytes(32))])
        assert store.journal.backlog == 1
    after = await loaded_from(path)
    assert after.heads.pop(EscrowRef("eip155:1", bytes(20))).number == 5
    assert same_state(after, before)
    assert same_state(after, driven.model)
