"""Opens a store by its URL: `sqlite:///PATH`, or `memory:` for one that is gone when it is closed.

`SCHEMES` says what opens which URL, by what stands before the first colon. Another store registers itself there.
"""

from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from tallystick_aggregator.store.memory import MemoryStore
from tallystick_aggregator.store.port import OpenStore, Store, StoreUnusableError
from tallystick_aggregator.store.sqlite.store import SqliteStore


async def open_store(url: str) -> Store:
    """Open or create the store with this URL.

    Raises StoreLockedError, StoreUnusableError or StoreUnavailableError in one sentence.
    """
    scheme = url.partition(":")[0]  # of an unknown URL no more is told: there may be a password in it
    if scheme not in SCHEMES:
        raise StoreUnusableError(f"the store's URL begins with {scheme!r}; allowed {allowed_urls()}")
    return await SCHEMES[scheme](url)


def allowed_urls() -> str:
    """Return the beginnings of URLs that can be opened."""
    return ", ".join(f"{scheme}:" for scheme in SCHEMES)


def sqlite_url(path: Path) -> str:
    """Return the URL of the SQLite file with this path."""
    return f"sqlite://{quote(str(path.absolute()))}"


def sqlite_path(url: str) -> Path:
    """Return the absolute path that a `sqlite:` URL names; raises StoreUnusableError."""
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc or parts.query or parts.fragment or not path.is_absolute() or path.name == "":
        raise StoreUnusableError(f"the store's URL is {url!r}; allowed sqlite:///PATH with an absolute path")
    return path


async def _open_sqlite(url: str) -> Store:
    return await SqliteStore.open(sqlite_path(url))


async def _open_memory(url: str) -> Store:
    if url != "memory:":
        raise StoreUnusableError(f"the store's URL is {url!r}; allowed memory: with nothing after it")
    return MemoryStore()


SCHEMES: Final[dict[str, OpenStore]] = {"sqlite": _open_sqlite, "memory": _open_memory}
"""What opens a store, by its URL's scheme."""
