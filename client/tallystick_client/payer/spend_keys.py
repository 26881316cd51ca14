"""The keys that prove charges: one for each holder of grants, replaced before its cap or its expiry is reached.

A key's id is on disk before it is registered, its secret never: whoever finds the file can spend nothing, and a new run
revokes the keys of the one before. After a key is revoked nothing new can be charged under it, which is what makes it
possible to say what became of its payments.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Final

from tallystick.errors import MalformedError
from tallystick.spend_keys import SpendKey
from tallystick_client.payer.accounts import AccountClient
from tallystick_client.payer.grants import Clock
from tallystick_client.payer.rows import Account, GrantRow, SpendKeyRow
from tallystick_client.payer.store import Store

KEY_TTL_S: Final = 6 * 3_600
EXPIRY_MARGIN_S: Final = 300
"""How long before its expiry a key is no longer used: a request may take that long to be verified."""

CLOCK_SKEW_S: Final = 600
"""How far the aggregator's clock may be behind ours, where a key is taken for expired."""

SELF: Final = ""
"""The holder that is this process itself."""


@dataclass(slots=True, eq=False)
class LiveKey:
    """A registered key. `allotted` is what its grants hold and have spent, in atomic units."""

    key: SpendKey
    account_id: bytes
    cap: int
    expires_at: int
    allotted: int = 0

    @property
    def left(self) -> int:
        """What may still be granted under it."""
        return self.cap - self.allotted

    @property
    def usable_until(self) -> int:
        """Seconds since the epoch."""
        return self.expires_at - EXPIRY_MARGIN_S


class SpendKeys:
    """The keys of all accounts and holders."""

    def __init__(self, store: Store, ttl_s: int = KEY_TTL_S, clock: Clock = time.time) -> None:
        if ttl_s <= EXPIRY_MARGIN_S:
            raise MalformedError("key_ttl_s", ttl_s, f"more than {EXPIRY_MARGIN_S} s")
        self._store = store
        self._book = store.book
        self._ttl_s = ttl_s
        self._clock = clock
        self._live: dict[tuple[bytes, str], LiveKey] = {}
        self._locks: dict[tuple[bytes, str], asyncio.Lock] = {}

    def usable(self, account: Account, holder: str, need: int) -> LiveKey | None:
        """The holder's key, if it has `need` left and time to spend it."""
        live = self._live.get((account.id, holder))
        if live is None or live.left < need or self._clock() >= live.usable_until:
            return None
        return live

    async def current(self, account: Account, client: AccountClient, holder: str, need: int, cap: int) -> LiveKey:
        """A key with at least `need` left; a new one may spend up to `cap` (or `need`, if that is more)."""
        lock = self._locks.setdefault((account.id, holder), asyncio.Lock())
        async with lock:
            live = self.usable(account, holder, need)
            if live is None:
                live = await self._register(account, client, max(need, cap))
                self._live[account.id, holder] = live
            return live

    def is_live(self, key_id: bytes) -> bool:
        """Whether new grants may be made under this key."""
        return any(live.key.key_id == key_id for live in self._live.values())

    def drop(self, account: Account, holder: str = SELF) -> None:
        """Make no more grants under the holder's key; the next one gets a new key."""
        self._live.pop((account.id, holder), None)

    def drop_holder(self, holder: str) -> None:
        """The same for all accounts: the holder is gone."""
        for account_id, name in list(self._live):
            if name == holder:
                del self._live[account_id, name]

    async def revoke_unused(self, account: Account, client: AccountClient) -> None:
        """Revoke every key of the account under which nobody holds an open grant and none will be made."""
        in_use = {row.key_id for row in self._book.grants.values() if not row.closed_at}
        for row in list(self._book.spend_keys.values()):
            idle = row.key_id not in in_use and not self.is_live(row.key_id)
            if row.account_id == account.id and not row.revoked and idle:
                await client.revoke_spend_key(account.id, row.key_id)
                row.revoked = True
                self._book.changed(row)
        await self._store.commit()

    def is_dead(self, row: GrantRow) -> bool:
        """Whether nothing that the grant's holder sent can be charged anew."""
        key = self._book.spend_keys.get(row.key_id)
        return (
            bool(row.closed_at) and key is not None and (key.revoked or self._clock() >= key.expires_at + CLOCK_SKEW_S)
        )

    async def _register(self, account: Account, client: AccountClient, cap: int) -> LiveKey:
        key = SpendKey(os.urandom(32), os.urandom(32))
        expires_at = int(self._clock()) + self._ttl_s
        self._book.add(SpendKeyRow(key.key_id, account.id, cap, expires_at))
        await self._store.commit()
        await client.register_spend_key(account.id, key, cap, expires_at)
        return LiveKey(key, account.id, cap, expires_at)
