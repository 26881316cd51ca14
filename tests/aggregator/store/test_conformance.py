"""SQLite, the twin in memory and a trivial file of rows keep every promise of the port."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Final

import pytest
from conformance import Site, StoreConformance, outbox, store
from driven import copy_store
from failing_disk import Fault, MemoryDisk
from file_store import FileStore

from tallystick_aggregator.store import opening
from tallystick_aggregator.store.memory import MemoryStore
from tallystick_aggregator.store.opening import open_store, sqlite_path, sqlite_url
from tallystick_aggregator.store.port import Store, StoreUnusableError
from tallystick_aggregator.store.sqlite.store import SqliteStore

__all__ = ["outbox", "store"]

NUMBERS: Final[Iterator[int]] = count()


class SqliteSite:
    """A file, opened by its URL."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def open(self) -> Store:
        """See `Site`."""
        return await open_store(sqlite_url(self.path))

    def crashed(self) -> Site:
        """See `Site`."""
        return SqliteSite(copy_store(self.path, self.path.parent, f"crashed{next(NUMBERS)}.db"))

    @asynccontextmanager
    async def refusing(self, store: Store) -> AsyncGenerator[None]:
        """See `Site`."""
        assert isinstance(store, SqliteStore)
        connection = store.journal._database._writer
        await connection.execute("PRAGMA query_only = ON")
        try:
            yield
        finally:
            await connection.execute("PRAGMA query_only = OFF")


class MemorySite:
    """A disk in memory, whose plan refuses when it is told to."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.refuses = False
        self.disk = disk or MemoryDisk()
        self.disk.plan = lambda _: Fault.REFUSED if self.refuses else Fault.NONE

    async def open(self) -> Store:
        """See `Site`."""
        await asyncio.sleep(0)
        return MemoryStore(self.disk)

    def crashed(self) -> Site:
        """See `Site`."""
        disk = self.disk
        return MemorySite(
            MemoryDisk(
                *deepcopy((disk.entries, disk.payments, disk.outbound, disk.epoch, disk.listings)), plan=disk.plan
            )
        )

    @asynccontextmanager
    async def refusing(self, _store: Store) -> AsyncGenerator[None]:
        """See `Site`."""
        self.refuses = True
        try:
            yield
        finally:
            self.refuses = False


class FileSite:
    """A file of rows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def open(self) -> Store:
        """See `Site`."""
        await asyncio.sleep(0)
        return FileStore(self.path)

    def crashed(self) -> Site:
        """See `Site`."""
        path = self.path.with_name(f"crashed{next(NUMBERS)}")
        path.write_bytes(self.path.read_bytes())
        return FileSite(path)

    @asynccontextmanager
    async def refusing(self, store: Store) -> AsyncGenerator[None]:
        """See `Site`."""
        assert isinstance(store, FileStore)
        store.refuses = True
        try:
            yield
        finally:
            store.refuses = False


class TestSqlite(StoreConformance):
    """The store of `path` and `sqlite:` URLs."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        """A new file."""
        return SqliteSite(tmp_path / "store.db")


class TestMemory(StoreConformance):
    """The twin."""

    @pytest.fixture
    def site(self) -> Site:
        """A new disk."""
        return MemorySite()


class TestFile(StoreConformance):
    """The trivial one."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        """A new file."""
        return FileSite(tmp_path / "rows")


async def test_a_row_that_was_cut_by_a_crash_is_none(tmp_path: Path) -> None:
    FileStore(tmp_path / "rows")
    with (tmp_path / "rows").open("ab") as file:
        file.write(b"\0\0\0\x09half")
    assert FileStore(tmp_path / "rows").epoch == 2


async def test_another_store_is_opened_by_the_scheme_that_it_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_rows(url: str) -> Store:
        await asyncio.sleep(0)
        return FileStore(Path(url.removeprefix("rows:")))

    with pytest.raises(StoreUnusableError, match="begins with 'rows'; allowed sqlite:, memory:"):
        await open_store("rows:/x")
    monkeypatch.setitem(opening.SCHEMES, "rows", open_rows)
    assert isinstance(await open_store(f"rows:{tmp_path}/rows"), FileStore)


async def test_a_url_is_opened_as_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a store?.db"
    assert sqlite_path(sqlite_url(path)) == path
    opened = await open_store(sqlite_url(path))
    assert isinstance(opened, SqliteStore)
    await opened.close()
    assert path.exists()
    assert isinstance(await open_store("memory:"), MemoryStore)


@pytest.mark.parametrize("url", ["sqlite:", "sqlite:///", "sqlite://host/a.db", "sqlite:a.db", "sqlite:///a.db?x=1"])
async def test_a_url_that_names_no_absolute_path_is_refused(url: str) -> None:
    with pytest.raises(StoreUnusableError, match="allowed sqlite:///PATH with an absolute path"):
        await open_store(url)


@pytest.mark.parametrize("url", ["memory:x", "memory://", "postgresql://host", "store.db", ""])
async def test_a_url_of_no_known_form_is_refused(url: str) -> None:
    with pytest.raises(StoreUnusableError, match="allowed"):
        await open_store(url)
