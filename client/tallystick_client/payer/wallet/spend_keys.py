"""The keys that prove charges: one for each holder of grants, replaced before its cap or its expiry is reached.

A key's id is on disk before it is registered, its secret never: whoever finds the file can spend nothing, and a new run
revokes the keys of the one before. After a key is revoked nothing new can be charged under it, which is what makes it
possible to say what became of its payments.

**This process's own key** may spend what there is: nobody else has its secret. **A worker's key** is worth what its
grants are worth: its cap is raised with each of them, before the worker hears of it. So a worker that lies about what
it spent or gave back takes no more than it was given.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tallystick.errors import MalformedError, RefusedError
from tallystick.reasons import Reason
from tallystick.spend_keys import SpendKey
from tallystick_client.payer.wallet.accounts import AccountClient
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.rows import Account, GrantRow, SpendKeyRow
from tallystick_client.payer.wallet.store import Store

KEY_TTL_S: Final = 6 * 3_600
EXPIRY_MARGIN_S: Final = 300
"""How long before its expiry a key is no longer used: a request may take that long to be verified."""

CLOCK_SKEW_S: Final = 600
"""How far the aggregator's clock may be behind ours, where a key is taken for expired."""

REVOKED_AT_ONCE: Final = 64
"""Keys of former runs that are revoked to make room for a new one."""
_ANOTHER_KEY: Final = frozenset({Reason.SPEND_KEY_CONFLICT, Reason.SPEND_KEY_REVOKED, Reason.SPEND_KEY_EXPIRED})

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
    made_at: float = 0

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
        # Accounts at an aggregator of a version that raises no caps: each grant of a worker gets a key of its own.
        self._fixed_caps: set[bytes] = set()
        # Of a former run that ended between the entries of a grant and of its key. A key is written down before it is
        # registered, and its secret is lost: nothing was or will be charged under these.
        self._never_registered = {row.key_id for row in self._book.grants.values()} - self._book.spend_keys.keys()
        # Keys whose registration is under way: a revocation could arrive before it, and would end nothing.
        self._registering: set[bytes] = set()
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

    def of_worker(self, account: Account, holder: str) -> LiveKey:
        """The worker's key, or a new one that may spend nothing until `cover` has been awaited."""
        live = self._live.get((account.id, holder))
        is_fixed = account.id in self._fixed_caps
        if live is None or self._clock() >= live.usable_until or (is_fixed and live.cap):
            key, now_s = SpendKey(os.urandom(32), os.urandom(32)), self._clock()
            live = self._live[account.id, holder] = LiveKey(key, account.id, 0, int(now_s) + self._ttl_s, made_at=now_s)
        return live

    async def cover(self, account: Account, live: LiveKey, client: AccountClient) -> bool:
        """Let a worker's key spend all that it was allotted. Returns False where another key has to be made for that:
        the aggregator raises no cap, or does not take this key any more. Then nothing was raised.
        """
        async with self._locks.setdefault((live.account_id, live.key.key_id.hex()), asyncio.Lock()):
            if live.cap >= live.allotted:
                return True
            cap = live.allotted
            try:
                await self._send(account, client, live.key, cap, live.expires_at)
            except RefusedError as refused:
                if refused.reason not in _ANOTHER_KEY:
                    raise
                if refused.reason is Reason.SPEND_KEY_CONFLICT:
                    self._fixed_caps.add(live.account_id)
                return False
            live.cap = cap
            return True

    def live(self, account: Account, holder: str) -> LiveKey | None:
        """The holder's key, if it has one."""
        return self._live.get((account.id, holder))

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

    async def forget_own(self, clients: Mapping[bytes, AccountClient]) -> None:
        """At the end of a run: revoke this process's own keys, whose secrets nobody will have any more.

        `clients` by account. Not those under which a payment may be under way still: its page is being made, and the
        next run reconciles it. Nor where an aggregator does not answer.
        """
        unsettled = {row.key_id for row in self._book.grants.values() if row.unknown or not row.closed_at}
        for (account_id, holder), live in list(self._live.items()):
            row, client = self._book.spend_keys.get(live.key.key_id), clients.get(account_id)
            if holder != SELF or row is None or client is None or row.key_id in unsettled:
                continue
            del self._live[account_id, holder]
            await client.revoke_spend_key(account_id, row.key_id)
            row.revoked = True
            self._book.changed(row)

    async def revoke_unused(self, account: Account, client: AccountClient, at_most: int = 1 << 31) -> int:
        """Revoke every key of the account under which nobody holds an open grant and none will be made; how many.

        Not those that are being registered: the next call does it.
        """
        unused = self._unused(account)[:at_most]
        for row in unused:
            await client.revoke_spend_key(account.id, row.key_id)
            row.revoked = True
            self._book.changed(row)
        await self._store.commit()
        return len(unused)

    def has_unused(self, account: Account) -> bool:
        """Whether `revoke_unused` has something to do."""
        return bool(self._unused(account))

    def _unused(self, account: Account) -> list[SpendKeyRow]:
        in_use = {row.key_id for row in self._book.grants.values() if not row.closed_at}
        in_use |= {live.key.key_id for live in self._live.values()} | self._registering
        rows = self._book.spend_keys.values()
        return [row for row in rows if row.account_id == account.id and not row.revoked and row.key_id not in in_use]

    def is_dead(self, row: GrantRow) -> bool:
        """Whether nothing that the grant's holder sent can be charged anew."""
        if not row.closed_at:
            return False
        key = self._book.spend_keys.get(row.key_id)
        if key is None:
            return row.key_id in self._never_registered
        return key.revoked or self._clock() >= key.expires_at + CLOCK_SKEW_S

    async def _register(self, account: Account, client: AccountClient, cap: int) -> LiveKey:
        key = SpendKey(os.urandom(32), os.urandom(32))
        expires_at = int(self._clock()) + self._ttl_s
        await self._send(account, client, key, cap, expires_at)
        return LiveKey(key, account.id, cap, expires_at, made_at=self._clock())

    async def _send(self, account: Account, client: AccountClient, key: SpendKey, cap: int, expires_at: int) -> None:
        """Write a key down and register it, or raise its cap; where the account has too many, after those of former
        runs are revoked.
        """
        self._registering.add(key.key_id)
        try:
            self._book.add(SpendKeyRow(key.key_id, account.id, cap, expires_at))
            await self._store.commit()
            try:
                await client.register_spend_key(account.id, key, cap, expires_at)
            except RefusedError as refused:
                if refused.reason is not Reason.SPEND_KEY_LIMIT:
                    raise
                if not await self.revoke_unused(account, client, REVOKED_AT_ONCE):
                    raise
                await client.register_spend_key(account.id, key, cap, expires_at)
        finally:
            self._registering.discard(key.key_id)
