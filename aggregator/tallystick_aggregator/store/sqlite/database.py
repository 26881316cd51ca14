"""The store's file: opened once, one statement to a transaction, and every failure told for what it is.

All writes go through one connection, in the order in which they are asked for; each is one statement and so one
transaction, committed and fsynced before `write` returns (WAL, `synchronous=FULL`). There is never a transaction that
could be left open. Reads have a connection of their own and see what was committed.

When a write fails, SQLite has rolled it back, and what is not written is not there. Some failures are different: if the
fsync fails, or what comes after it, the frames of the commit may stand in the log file although SQLite has gone back
behind them, and would be found by a recovery after a crash. The next commit overwrites them; so `settle` makes one at
once, and only if that fails as well is the outcome unknown (StoreUncertainError).
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import aiosqlite

from tallystick_aggregator.store.port import (
    StoreDamagedError,
    StoreError,
    StoreLockedError,
    StoreUnavailableError,
    StoreUncertainError,
    StoreUnusableError,
)
from tallystick_aggregator.store.sqlite.lock import FileLock
from tallystick_aggregator.store.sqlite.schema import ENDING_TABLES, check_integrity, make_current

BUSY_MS: Final = 2_000
"""How long a statement waits for a program that looks into the file, such as a backup."""

WAL_RESET_MENDED: Final = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
"""The first versions of SQLite in which a checkpoint cannot miss that another connection began the log file anew: of
the branches 3.44 and 3.50, and of all later ones (https://sqlite.org/wal.html#walresetbug)."""

_log = logging.getLogger(__name__)

_ROLLED_BACK: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_INTERRUPT,
    }
)
"""Failures before the commit's last frame is complete: whatever was written of it is no commit to a recovery.

SQLITE_NOMEM is not one: memory may run out after the frames are written, when SQLite enters them into its index."""
_PROBLEMS: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it cannot be written to",
    sqlite3.SQLITE_BUSY: "another program keeps it busy",
    sqlite3.SQLITE_LOCKED: "another program keeps it busy",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk failed",
}

Parameters = Sequence[Any]
Rows = list[tuple[Any, ...]]


class Database:
    """The open file."""

    def __init__(
        self, path: Path, lock: FileLock, epoch: int, writer: aiosqlite.Connection, reader: aiosqlite.Connection
    ) -> None:
        self.path = path
        self.epoch = epoch
        self.lost_epochs = 0
        self._lock = lock
        self._writer = writer
        self._reader = reader
        self._closed = False

    @classmethod
    async def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open or create the store, take its lock, bring its tables up to date, begin a new epoch.

        Raises StoreLockedError, StoreUnusableError or StoreUnavailableError, each in one sentence that names the path.
        """
        warn_of_version(sqlite3.sqlite_version_info)
        file = await asyncio.to_thread(_resolve, path)
        lock = FileLock.take(file)
        try:
            epoch, lost_epochs = await asyncio.to_thread(_prepare, file, lock)
            writer = await _connect(file)
            try:
                reader = await _connect(file)
            except BaseException:
                await writer.close()
                raise
            await reader.execute("PRAGMA query_only = ON")
            # Checkpoints are the writer's alone: so no other connection commits during one (see `warn_of_version`).
            await reader.execute("PRAGMA wal_autocheckpoint = 0")
        except sqlite3.Error as error:
            lock.release()
            raise explain(error, file) from error
        except BaseException:
            lock.release()
            raise
        database = cls(file, lock, epoch, writer, reader)
        database.lost_epochs = lost_epochs
        return database

    async def write(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one statement; when this returns, it is on disk. Returns how many rows it wrote.

        Raises StoreUncertainError if its outcome cannot be known, else StoreUnavailableError: then it has none.
        """
        try:
            cursor = await self._writer.execute(sql, parameters)
        except sqlite3.Error as error:
            await self._settle(error)
            raise self._unavailable(error) from error
        except ValueError:
            raise StoreUnavailableError(f"{self.path} is closed") from None
        return cursor.rowcount

    async def write_returning(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Run one statement with a RETURNING clause, like `write`; returns its rows."""
        try:
            return [tuple(row) for row in await self._writer.execute_fetchall(sql, parameters)]
        except sqlite3.Error as error:
            await self._settle(error)
            raise self._unavailable(error) from error
        except ValueError:
            raise StoreUnavailableError(f"{self.path} is closed") from None

    async def read(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Run one query on what is committed; raises StoreUnavailableError."""
        try:
            return [tuple(row) for row in await self._reader.execute_fetchall(sql, parameters)]
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        except ValueError:
            raise StoreUnavailableError(f"{self.path} is closed") from None

    def taken_over(self) -> StoreLockedError:
        """Return the error for a store whose epoch is no longer ours, although we hold the lock."""
        return StoreLockedError(f"{self.path} was taken over by another process; this one must stop")

    async def close(self) -> None:
        """Close the file and let the lock go; idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._reader.close()
            await self._writer.close()
        finally:
            self._lock.release()

    def _unavailable(self, error: sqlite3.Error) -> StoreUnavailableError:
        """Return the error for a statement that failed. Even damage is fail-closed here, and told at the next start."""
        told = explain(error, self.path)
        return told if isinstance(told, StoreUnavailableError) else StoreUnavailableError(str(told))

    async def _settle(self, error: sqlite3.Error) -> None:
        """Make sure that a failed write is not found by a recovery, unless its failure says so already."""
        code = _code(error)
        # Without a code it was Python that refused, and SQLite has seen nothing: the connection was closed meanwhile.
        if code == 0 or code & 0xFF in _ROLLED_BACK or code == sqlite3.SQLITE_IOERR_WRITE:
            return
        try:
            await self._writer.execute("UPDATE store SET settled = settled + 1")
        except (sqlite3.Error, ValueError):
            raise StoreUncertainError(
                f"{explain(error, self.path)}; what it holds of the last write is unknown"
            ) from error


def can_lose_commits(version: tuple[int, ...]) -> bool:
    """Whether this version of SQLite may lose commits where one connection writes while another makes a checkpoint."""
    *backports, mended = WAL_RESET_MENDED
    return version < mended and not any(version[:2] == port[:2] and version >= port for port in backports)


def warn_of_version(version: tuple[int, ...]) -> None:
    """Log a warning for a version that may lose commits beside other programs that open the store.

    The store itself does not need the mended version: its one writer also makes the checkpoints, its reader neither
    writes nor makes any.
    """
    if can_lose_commits(version):
        _log.warning(
            "SQLite %s can lose commits of the store while another program makes a checkpoint of it: let no other"
            " program open the store while this one runs, or use SQLite 3.51.3 or later (also mended: 3.50.7, 3.44.6)",
            ".".join(map(str, version)),
        )


def explain(error: sqlite3.Error, path: Path) -> StoreError:
    """The error to raise in the place of one of SQLite's."""
    code = _code(error) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return StoreUnusableError(f"{path} is not a database")
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreDamagedError(f"{path} is damaged: {error}")
    problem = _PROBLEMS.get(code, str(error))
    return StoreUnavailableError(f"{path}: {problem} ({getattr(error, 'sqlite_errorname', type(error).__name__)})")


def _code(error: sqlite3.Error) -> int:
    """SQLite's extended result code, of which the lowest byte is the primary one; 0 if the error is Python's own."""
    return int(getattr(error, "sqlite_errorcode", 0))


def _resolve(path: str | os.PathLike[str]) -> Path:
    file = Path(path).resolve()
    if not file.parent.is_dir():
        raise StoreUnusableError(f"{file} cannot be made: there is no directory {file.parent}")
    if file.is_dir():
        raise StoreUnusableError(f"{file} is a directory, not a store")
    return file


def _prepare(path: Path, lock: FileLock) -> tuple[int, int]:
    """Make the file ready; return its new epoch, and how many newer epochs the lock knows than the file did."""
    try:
        # It holds the secrets of spend keys: for its owner only, like all that SQLite puts beside it.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreUnavailableError(f"{path} cannot be opened for writing: {error.strerror}") from error
    connection = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None)
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreUnusableError(f"{path} is on a file system without shared memory, which a store needs")
        connection.execute("PRAGMA synchronous = FULL")
        make_current(connection, str(path))
        check_integrity(connection, str(path))
        (epoch,) = connection.execute("SELECT epoch FROM store").fetchone()
        lost = max(0, lock.epoch - epoch)
        connection.execute("UPDATE store SET epoch = ?", (epoch + lost + 1,))
        for table in ENDING_TABLES:  # what a checkpoint that was cut short has left
            connection.execute(f"DELETE FROM {table} WHERE row IS NULL AND seq <= (SELECT folded FROM store)")  # noqa: S608
    finally:
        connection.close()
    lock.remember(epoch + lost + 1)
    return epoch + lost + 1, lost


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, timeout=BUSY_MS / 1000, isolation_level=None)
    try:
        await connection.execute("PRAGMA synchronous = FULL")
        # Some builds overwrite with zeros what is deleted; that only costs time here: the file is as secret as it was.
        await connection.execute("PRAGMA secure_delete = OFF")
    except BaseException:
        await connection.close()
        raise
    return connection
