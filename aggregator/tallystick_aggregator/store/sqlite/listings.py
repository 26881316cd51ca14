"""What sellers have published, in the store's file: a row for each seller, each write a transaction of its own."""

from collections.abc import Mapping
from typing import Final

from tallystick_aggregator.store.sqlite.database import Database

_PUT: Final = "INSERT INTO listings VALUES (?, ?) ON CONFLICT (seller) DO UPDATE SET body = excluded.body"
_REMOVE: Final = "DELETE FROM listings WHERE seller = ?"
_ALL: Final = "SELECT seller, body FROM listings"


class SqliteListings:
    """See `port.Listings`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, seller: str, body: bytes) -> None:
        """See the port."""
        if body:
            await self._database.write(_PUT, (seller, body))
        else:
            await self._database.write(_REMOVE, (seller,))

    async def all(self) -> Mapping[str, bytes]:
        """See the port."""
        return dict(await self._database.read(_ALL))
