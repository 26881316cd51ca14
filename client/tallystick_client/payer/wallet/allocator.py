"""How much a holder of grants gets, and what must be true before it does.

An allotment is the only place where a ceiling is raised. In this order: the account and its spend key exist; budgets,
deposit and key cover it (idle headroom of others is called back, then a deposit is made); the book has it; the book is
on disk; then the voucher is signed. A request for `need` that cannot be met raises an error that says why; between
`need` and `want` the holder gets what there is.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tallystick.channels import channel_id
from tallystick.errors import RefusedError, TallystickError
from tallystick.reasons import Reason
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick.vouchers import Voucher, sign_voucher
from tallystick_client.payer.errors import BudgetExceededError
from tallystick_client.payer.policy.budgets import DAY_S, Budgets, Limits
from tallystick_client.payer.policy.offers import Seller
from tallystick_client.payer.policy.operators import Asset, Operator
from tallystick_client.payer.wallet.accounts import AccountClient
from tallystick_client.payer.wallet.deposits import Deposits
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.rows import Account, Channel, GrantRow
from tallystick_client.payer.wallet.spend_keys import CLOCK_SKEW_S, SELF, LiveKey, SpendKeys
from tallystick_client.payer.wallet.store import Store

_log = logging.getLogger("tallystick.payer")

WORKER_KEYS_MAX: Final = 3
"""Keys that are tried for one allotment."""
TOP_UP_PAUSE_S: Final = 10.0
"""Between two attempts to top up an account in the background."""

Proof = Literal["spend_key", "voucher"]
Reclaim = Callable[[Asset], None]
"""Takes back the headroom of this asset that nobody is using."""


@dataclass(frozen=True, slots=True)
class Allotment:
    """`amount` more for the grant `row`; `ceiling` is the channel's after it. `key` is None without spend keys.

    Only the highest ceiling is worth signing: `Allocator.voucher`.
    """

    operator: Operator
    row: GrantRow
    channel: Channel
    amount: int
    ceiling: int
    key: LiveKey | None
    valid_until: float


class Allocator:
    """Gives headroom out, for lines of this process and for workers of others alike."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        clients: Mapping[Operator, AccountClient],
        deposits: Deposits,
        keys: SpendKeys,
        budgets: Budgets,
        proof: Proof = "spend_key",
        clock: Clock = time.time,
    ) -> None:
        self.proof: Proof = proof
        self._store = store
        self._book = store.book
        self._signer = signer
        self._clients = clients
        self._deposits = deposits
        self._keys = keys
        self._budgets = budgets
        self._clock = clock
        self._reclaimers: list[Reclaim] = []
        self._top_ups: dict[bytes, asyncio.Task[None]] = {}
        self._no_top_up_before: dict[bytes, float] = {}
        self._spent_before: dict[bytes, int] = {}
        # Hashing a ChannelConfig costs more than looking it up.
        self._channel_ids: dict[tuple[bytes, bytes], bytes] = {}

    def call_back_from(self, reclaim: Reclaim) -> None:
        """Ask this function for idle headroom before anybody is refused."""
        self._reclaimers.append(reclaim)

    def limits(self, seller: Seller) -> Limits:
        """The budgets in the seller's token."""
        return self._budgets.limits(seller.token.decimals)

    def check_request(self, seller: Seller, amount: int) -> None:
        """Raises BudgetExceededError if one request may not cost this much."""
        allowed = self.limits(seller).per_request
        if amount > allowed:
            raise BudgetExceededError("per_request", amount, allowed, seller.token.decimals, seller.token.symbol)

    async def spend(self, seller: Seller, amount: int) -> None:
        """Count a payment that is made from nothing here; on disk when this returns. Raises BudgetExceededError."""
        self.check_request(seller, amount)
        self.check_budgets(seller, amount)
        self._book.spend(seller.asset, seller.host, self.today(), amount)
        await self._store.commit()

    async def allot(self, seller: Seller, holder: str, row: GrantRow | None, need: int, want: int) -> Allotment:
        """Between `need` and `want` atomic units for this holder at this seller; on disk when this returns.

        They go to `row`, or to a new grant where that one is of another day, key or channel (or None).
        """
        operator, token, _, _ = seller
        self.check_budgets(seller, need)
        account = await self._deposits.account(operator, token)
        keys_left = WORKER_KEYS_MAX
        while True:
            # Nothing is awaited between a look at the book and the entry that relies on it.
            self.check_budgets(seller, need)
            if account.free < need:
                self._reclaim(seller.asset)
            if account.free < need:
                await self._deposits.fund(account, operator, token, need)
                continue
            key = self._key(account, holder, need)
            if key is None and self.proof == "spend_key":
                await self._keys.current(account, self._clients[operator], holder, need, self._cap(account, seller))
                continue
            allotment = self._enter(seller, holder, account, row, key, need, want)
            await self._store.commit()
            if holder == SELF or await self._cover(account, holder, allotment):
                break
            keys_left -= 1
            if not keys_left:
                raise RefusedError(Reason.SPEND_KEY_CONFLICT, "The aggregator takes no spend key of this worker.")
        self._deposits.paid_from(account)
        self.look_after(account, operator, token)
        return allotment

    def _key(self, account: Account, holder: str, need: int) -> LiveKey | None:
        if self.proof != "spend_key":
            return None
        return self._keys.usable(account, holder, need) if holder == SELF else self._keys.of_worker(account, holder)

    async def _cover(self, account: Account, holder: str, allotment: Allotment) -> bool:
        """Raise the cap of a worker's key to what it has now. False where that needs another key: then nothing of the
        allotment can be spent, and it is free again.
        """
        key, row = allotment.key, allotment.row
        assert key is not None, "workers spend under keys"
        try:
            is_covered = await self._keys.cover(account, key, self._clients[allotment.operator])
        except BaseException:
            # The cap may have been raised: what the worker never hears of counts as its own until the key is revoked.
            self._keys.drop(account, holder)
            if row.granted == allotment.amount and not row.closed_at:
                self._book.close(row, int(self._clock()))
            raise
        if not is_covered:
            self._keys.drop(account, holder)
            if not row.closed_at:
                self.give_back(row, allotment.amount, key)
        return is_covered

    def voucher(self, allotment: Allotment) -> Voucher:
        """The voucher that covers an allotment, which is on disk."""
        return sign_voucher(self._signer, allotment.operator.domain, allotment.channel.id, allotment.ceiling)

    def check_budgets(self, seller: Seller, amount: int) -> None:
        """Raises BudgetExceededError unless every budget allows `amount`, if need be after idle headroom is back."""
        limits = self.limits(seller)
        today = self.today()
        if self._book.affordable(seller.asset, seller.host, today, limits) < amount:
            self._reclaim(seller.asset)
            exceeded = self._book.exceeded(seller.asset, seller.host, today, limits, amount)
            if exceeded is not None:
                budget, allowed = exceeded
                raise BudgetExceededError(budget, amount, allowed, seller.token.decimals, seller.token.symbol)

    def give_back(self, row: GrantRow, amount: int, key: LiveKey | None) -> None:
        """Take unspent headroom back."""
        self._book.give_back(row, amount)
        if key is not None:
            key.allotted -= amount

    def is_revoked(self, key_id: bytes) -> bool:
        """Whether nothing more can be charged under this key, or it was forgotten."""
        row = self._book.spend_keys.get(key_id)
        return row is None or row.revoked or self._clock() >= row.expires_at + CLOCK_SKEW_S

    def today(self) -> int:
        """The day that payments count for: days since the epoch, UTC."""
        return int(self._clock()) // DAY_S

    async def finish(self) -> None:
        """Stop topping up."""
        tasks = list(self._top_ups.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _enter(
        self,
        seller: Seller,
        holder: str,
        account: Account,
        row: GrantRow | None,
        key: LiveKey | None,
        need: int,
        want: int,
    ) -> Allotment:
        channel = self._channel(seller, account)
        today, key_id = self.today(), key.key.key_id if key else b""
        if row is None or row.closed_at or (row.day, row.key_id, row.channel_id) != (today, key_id, channel.id):
            row = self._book.new_grant(channel, seller.host, holder, key_id, today)
        limits = self.limits(seller)
        bounds = [want, account.free, self._book.affordable(seller.asset, seller.host, today, limits)]
        if key is not None and holder == SELF:
            bounds.append(key.left)
        amount = max(need, min(bounds))
        ceiling = self._book.allot(row, amount, fresh=self.proof == "voucher")
        valid_until = float((today + 1) * DAY_S)
        if key is not None:
            key.allotted += amount
            valid_until = min(valid_until, float(key.usable_until))
        return Allotment(seller.operator, row, channel, amount, ceiling, key, valid_until)

    def _channel(self, seller: Seller, account: Account) -> Channel:
        operator = seller.operator
        known = self._channel_ids.get((account.id, seller.receiver))
        if known is None:
            known = channel_id(operator.domain, account.config.channel(seller.receiver))
            self._channel_ids[account.id, seller.receiver] = known
        channel = self._book.channels.get(known)
        if channel is None:
            channel = Channel(known, account.id, account.config.channel(seller.receiver), seller.host)
            self._book.add(channel)
        return channel

    def _cap(self, account: Account, seller: Seller) -> int:
        """What a new spend key may spend: what is there to be spent, and no budget forbids."""
        limits = self.limits(seller)
        spent = self._book.spent(seller.asset, seller.host, self.today())
        return max(0, min(account.unspent, limits.total - spent["total"]))

    def _reclaim(self, asset: Asset) -> None:
        for reclaim in self._reclaimers:
            reclaim(asset)

    def look_after(self, account: Account, operator: Operator, token: Token) -> None:
        """Top the account up in the background, if it was spent from since the last look and nears its end."""
        spent = account.committed - account.open
        was_spent_from = spent > self._spent_before.get(account.id, spent)
        self._spent_before[account.id] = spent
        if not was_spent_from or account.id in self._top_ups:
            return
        if not self._deposits.is_low(account, token):
            return
        if self._clock() < self._no_top_up_before.get(account.id, 0):
            return
        self._no_top_up_before[account.id] = self._clock() + TOP_UP_PAUSE_S
        task = asyncio.create_task(self._top_up(account, operator, token))
        self._top_ups[account.id] = task
        task.add_done_callback(lambda _: self._top_ups.pop(account.id, None))

    async def _top_up(self, account: Account, operator: Operator, token: Token) -> None:
        try:
            await self._deposits.top_up(account, operator, token)
        except TallystickError as error:
            # Nobody waits for it: whoever needs the money later deposits then, and hears of the problem.
            _log.warning("topping up the account at %s failed: %s", operator.aggregator, error)
