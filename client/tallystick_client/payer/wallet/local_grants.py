"""The grants of the wallet's own process: one line for each seller and host, served from the allocator.

Headroom goes back to the budgets only as far as no seller can have taken it (`grants.denied`). This is counted for each
channel: a receiver may charge payments of one grant up to a ceiling that another one raised. What cannot go back pays
for further pages of the same seller; when its grant is closed it becomes unknown, until its key is revoked and the
aggregator has told the channel's total.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from tallystick.errors import MalformedError
from tallystick.quantities import PaymentId
from tallystick.signatures import Signer
from tallystick_client.payer.policy.offers import Seller
from tallystick_client.payer.policy.operators import Asset
from tallystick_client.payer.wallet.allocator import Allocator, Allotment
from tallystick_client.payer.wallet.book import Book
from tallystick_client.payer.wallet.grant_queue import GrantQueue
from tallystick_client.payer.wallet.grants import Clock, Grant, Payment, SpendKeyGrant, VoucherGrant
from tallystick_client.payer.wallet.rows import GrantRow
from tallystick_client.payer.wallet.spend_keys import SELF, LiveKey

LINES_MAX: Final = 4_096
"""Sellers with a grant of their own at one time; beyond them the oldest one that is idle is returned."""


class Activity(NamedTuple):
    """Payments ever made by a channel's present grants, and what they hold in atomic units: in flight, and unspent."""

    payments: int = 0
    in_flight: int = 0
    unspent: int = 0


class _Held:
    """A grant in this process's own hands, its row in the book, and the key that it spends under."""

    def __init__(self, grant: SpendKeyGrant | VoucherGrant, row: GrantRow, key: LiveKey | None) -> None:
        self.grant = grant
        self.row = row
        self.key = key
        # Whether an extension is on its way to the disk: then the row must not be closed.
        self.is_extended = False

    @property
    def is_done(self) -> bool:
        """Whether nothing of it is under way."""
        return not self.grant.in_flight and not self.is_extended


class _LocalQueue(GrantQueue):
    def __init__(self, lines: "LocalGrants", seller: Seller, max_headroom: int) -> None:
        super().__init__(max_headroom)
        self.seller = seller
        self.held: _Held | None = None
        self._lines = lines

    async def extend(self, need: int, want: int) -> None:
        await self._lines.extend(self, need, want)

    def hold(self, held: _Held | None) -> None:
        """Pay from this grant from now on."""
        self.held = held
        self.grant = held.grant if held is not None else None


class LocalGrants:
    """The grants of this process, and what is left of former ones while their payments are under way."""

    def __init__(
        self, book: Book, allocator: Allocator, signer: Signer, max_headroom: int = 64, clock: Clock = time.time
    ) -> None:
        if max_headroom < 1:
            raise MalformedError("max_headroom", max_headroom, "at least 1 request")
        self._book = book
        self._allocator = allocator
        self._signer = signer
        self._max_headroom = max_headroom
        self._clock = clock
        self._lines: dict[Seller, _LocalQueue] = {}
        self._leaving: list[_Held] = []
        self._in_channel: defaultdict[bytes, list[_Held]] = defaultdict(list)
        # Of grants that are gone, by channel and spend key: their proofs can be charged until the key is revoked.
        self._denied: defaultdict[bytes, dict[bytes, int]] = defaultdict(dict)
        allocator.call_back_from(self.reclaim)

    async def pay(
        self, seller: Seller, amount: int, request_hash: bytes, payment_id: PaymentId | None = None
    ) -> Payment:
        """A payment of at most `amount` atomic units; see Grant.pay.

        Raises BudgetExceededError, DepositNotAllowedError, BookUnavailableError, or what the aggregator answered.
        """
        self._allocator.check_request(seller, amount)
        line = self._lines.get(seller)
        if line is None:
            self._make_room()
            line = self._lines[seller] = _LocalQueue(self, seller, self._max_headroom)
        return await line.pay(amount, request_hash, payment_id)

    async def extend(self, line: _LocalQueue, need: int, want: int) -> None:
        """Extend a line's grant, or give it a new one."""
        held = line.held
        if held is not None:
            self._sync(held)
            if isinstance(held.grant, VoucherGrant) or not held.grant.is_valid():
                # What is left of a stretch of ceilings, or of yesterday's budget, cannot be added to.
                self._take_back(held)
            if not held.grant.is_valid():
                self._leave(line)
                held = None
        if held is not None:
            held.is_extended = True
        try:
            row = held.row if held is not None else None
            allotment = await self._allocator.allot(line.seller, SELF, row, need, want)
        finally:
            if held is not None:
                held.is_extended = False
        if held is not None and allotment.row is held.row and held.grant.closed:
            # It was retired in the meantime: what came late goes back.
            self._allocator.give_back(allotment.row, allotment.amount, allotment.key)
            return
        if held is None or allotment.row is not held.row:
            self._leave(line)
            held = _Held(self._new_grant(allotment), allotment.row, allotment.key)
            self._in_channel[held.grant.channel_id].append(held)
            line.hold(held)
        if isinstance(held.grant, VoucherGrant):
            held.grant.extend_to(allotment.ceiling, allotment.amount)
        else:
            held.grant.extend(allotment.amount, self._allocator.voucher(allotment))

    def _new_grant(self, allotment: Allotment) -> SpendKeyGrant | VoucherGrant:
        row, channel, until = allotment.row, allotment.channel, allotment.valid_until
        if allotment.key is None:
            domain = allotment.operator.domain
            return VoucherGrant(row.id, channel.id, channel.config, self._signer, domain, until, self._clock)
        return SpendKeyGrant(row.id, channel.id, channel.config, allotment.key.key, until, self._clock)

    # Taking headroom back.

    def reclaim(self, asset: Asset) -> None:
        """Take back all headroom of this asset that no payment is using."""
        for line in self._lines.values():
            if line.held is not None and line.seller.asset == asset:
                self._sync(line.held)
                self._take_back(line.held)

    def retire(self, account_id: bytes) -> None:
        """Pay no more from the account's present grants; those who come get new ones."""
        for line in self._lines.values():
            if line.held is not None and self._account_of(line.held) == account_id:
                self._leave(line)

    def sync(self) -> None:
        """Bring the book up to date with the grants; in memory only."""
        for line in self._lines.values():
            if line.held is not None:
                self._sync(line.held)
        for held in self._leaving:
            self._sync(held)
            self._take_back(held)
            if held.is_done:
                self._close(held)
        self._leaving = [held for held in self._leaving if not held.is_done]

    async def drained(self, account_id: bytes, timeout_s: float, poll_s: float = 0.02) -> bool:
        """Whether, within the time, no payment of a retired grant is under way any more."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            self.sync()
            if not any(self._account_of(held) == account_id for held in self._leaving):
                return True
            if time.monotonic() >= give_up_at:
                return False
            await asyncio.sleep(poll_s)

    def abandon(self) -> None:
        """The end: return what is unspent; what is under way is unknown from now on."""
        for line in self._lines.values():
            line.stop()
            self._leave(line)
        self.sync()
        for held in self._leaving:
            self._close(held)
        self._lines.clear()
        self._leaving.clear()

    # What reconciliation and approvals ask.

    def activity(self) -> defaultdict[bytes, Activity]:
        """What the present grants do, by channel."""
        found: defaultdict[bytes, Activity] = defaultdict(Activity)
        for grant in (held.grant for held in self._held()):
            payments, in_flight, unspent = found[grant.channel_id]
            found[grant.channel_id] = Activity(
                payments + grant.payments, in_flight + grant.in_flight, unspent + grant.unspent
            )
        return found

    def has_denied(self, account_id: bytes) -> bool:
        """Whether a present grant of the account holds what a seller says that it did not take."""
        return any(held.grant.denied and self._account_of(held) == account_id for held in self._held())

    def grant(self, seller: Seller) -> Grant | None:
        """The grant that serves a line, for those who want to look at it."""
        line = self._lines.get(seller)
        return line.grant if line is not None else None

    def _held(self) -> Iterator[_Held]:
        yield from (line.held for line in self._lines.values() if line.held is not None)
        yield from self._leaving

    def _make_room(self) -> None:
        if len(self._lines) < LINES_MAX:
            return
        for seller, line in self._lines.items():
            if line.is_idle:
                self._leave(line)
                del self._lines[seller]
                return

    def _leave(self, line: _LocalQueue) -> None:
        held = line.held
        if held is not None:
            line.hold(None)
            held.grant.closed = True
            self._leaving.append(held)
            self._sync(held)
            self._take_back(held)

    def _sync(self, held: _Held) -> None:
        (charged, unknown), found = held.grant.totals, held.grant.found_charged
        self._book.report(held.row, charged + found, unknown - found)

    def _take_back(self, held: _Held) -> None:
        unspent = held.grant.take_back(self._provably_unspent(held.grant))
        if unspent:
            self._allocator.give_back(held.row, unspent, held.key)

    def _provably_unspent(self, grant: SpendKeyGrant | VoucherGrant) -> int:
        """How much of the headroom in a grant's channel cannot have been taken, whatever its seller says."""
        if isinstance(grant, VoucherGrant):
            return grant.unspent  # what was sent is not among it
        grants = [held.grant for held in self._in_channel[grant.channel_id] if isinstance(held.grant, SpendKeyGrant)]
        denied = sum(grant.denied for grant in grants) + sum(self._denied_before(grant.channel_id))
        return max(0, sum(grant.unspent for grant in grants) - denied)

    def _denied_before(self, channel_id: bytes) -> Iterable[int]:
        found = self._denied.get(channel_id)
        if not found:
            return ()
        for key_id in [key_id for key_id in found if self._allocator.is_revoked(key_id)]:
            del found[key_id]
        return found.values()

    def _close(self, held: _Held) -> None:
        self._book.close(held.row, int(self._clock()))
        id_, key_id = held.grant.channel_id, held.row.key_id
        self._in_channel[id_].remove(held)
        if not self._in_channel[id_]:
            del self._in_channel[id_]
        if held.grant.denied and key_id:
            self._denied[id_][key_id] = self._denied[id_].get(key_id, 0) + held.grant.denied

    def _account_of(self, held: _Held) -> bytes:
        return self._book.channels[held.row.channel_id].account_id
