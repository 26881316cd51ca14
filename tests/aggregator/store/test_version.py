"""The version of SQLite is looked at when a store is opened. Fault R6."""

import sqlite3
from pathlib import Path

import pytest

from tallystick_aggregator.store.sqlite.database import Database, can_lose_commits, warn_of_version


@pytest.mark.parametrize(
    ("version", "can_lose"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_r6_a_version_that_may_lose_commits_is_told_with_what_to_do(
    version: tuple[int, ...], can_lose: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_version(version)
    assert can_lose_commits(version) is can_lose
    assert ("SQLite " + ".".join(map(str, version)) in caplog.text) is can_lose
    assert ("3.51.3 or later" in caplog.text) is can_lose


async def test_r6_the_version_in_use_is_looked_at_when_a_store_is_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = await Database.open(tmp_path / "store.db")
    await database.close()
    assert ("can lose commits" in caplog.text) is can_lose_commits(sqlite3.sqlite_version_info)


async def test_r6_only_the_connection_that_writes_makes_checkpoints(tmp_path: Path) -> None:
    """The lost commit needs a checkpoint beside another connection's commit."""
    database = await Database.open(tmp_path / "store.db")
    try:
        assert await database.read("PRAGMA wal_autocheckpoint") == [(0,)]
        assert await database.read("PRAGMA query_only") == [(1,)]
        assert await database.write_returning("PRAGMA wal_autocheckpoint") == [(1_000,)]
    finally:
        await database.close()
