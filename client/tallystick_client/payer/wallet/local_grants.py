"""The grants of the wallet's own process, served from the allocator; and those that only the payer's key can make.

Headroom goes back to the budgets only as far as no seller can have taken it (`grants.denied`). This is counted for each
channel: a receiver may charge payments of one grant up to a ceiling that another one raised. What cannot go back pays
for further pages of the same seller; when its grant is closed it becomes unknown, until its key is revoked and the
aggregator has told the channel's total.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from tallystick.channels import ChannelConfig
from tallystick.eip712 import Domain
from tallystick.quantities import PaymentId
from tallystick.signatures import Signer
from tallystick.vouchers import sign_voucher
from tallystick.x402 import DeferredPayment
from tallystick_client.payer.policy.offers import Seller
from tallystick_client.payer.policy.operators import Asset
from tallystick_client.payer.wallet.allocator import Allocator, Allotment
from tallystick_client.payer.wallet.book import Book
from tallystick_client.payer.wallet.grants import Clock, Grant, Grants, Line, SpendKeyGrant
from tallystick_client.payer.wallet.rows import GrantRow
from tallystick_client.payer.wallet.spend_keys import SELF, LiveKey


class Activity(NamedTuple):
    """Payments ever made by a channel's present grants, and what they hold in atomic units: in flight, and unspent."""

    payments: int = 0
    in_flight: int = 0
    unspent: int = 0


class VoucherGrant(Grant):
    """A grant whose payments are proven by a voucher each (rule 2a), for accounts without a spend key.

    Its headroom is a stretch of the channel's ceilings that no other grant has. Each payment's ceiling is the end of
    its own piece of the stretch, so that no two are alike and those that arrive, in whatever order, are covered. A
    piece that was sent is never used again, even if its payment was released.
    """

    def __init__(
        self,
        grant_id: int,
        channel_id: bytes,
        config: ChannelConfig,
        signer: Signer,
        domain: Domain,
        valid_until: float,
        clock: Clock = time.time,
    ) -> None:
        super().__init__(grant_id, channel_id, config, valid_until, clock)
        self._signer = signer
        self._domain = domain
        self._next = 0

    def extend_to(self, ceiling: int, amount: int) -> None:
        """Hold the stretch of `amount` that ends at `ceiling` instead of what is left of the one before."""
        assert self.headroom == 0, "what was left has been taken back"
        self._next = ceiling - amount
        self.headroom = amount

    def _prove(self, amount: int, request_hash: bytes, payment_id: PaymentId) -> DeferredPayment:  # noqa: ARG002
        # A voucher alone binds no request: the seller is trusted with it, as rule 2a has it.
        self._next += amount
        voucher = sign_voucher(self._signer, self._domain, self.channel_id, self._next)
        return DeferredPayment(
            config=self.config,
            payment_id=payment_id,
            ceiling=voucher.max_claimable_amount,
            signature=voucher.signature,
            spend=None,
            channel_id=self.channel_id,
        )

    def _free(self, amount: int, denied: int) -> None:
        # A voucher that was sent can be charged as long as its payment id is taken: what it is worth stays in the grant
        # until that is over, and pays for nothing else.
        self._returnable += amount - denied


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


class LocalGrants(Grants[_Held]):
    """The grants of this process."""

    def __init__(
        self, book: Book, allocator: Allocator, signer: Signer, max_headroom: int = 64, clock: Clock = time.time
    ) -> None:
        super().__init__(max_headroom)
        self._book = book
        self._allocator = allocator
        self._signer = signer
        self._clock = clock
        self._in_channel: defaultdict[bytes, list[_Held]] = defaultdict(list)
        # Of grants that are gone, by channel and spend key: their proofs can be charged until the key is revoked.
        self._denied: defaultdict[bytes, dict[bytes, int]] = defaultdict(dict)
        allocator.call_back_from(self.reclaim)

    async def extend(self, line: Line[_Held], need: int, want: int) -> None:
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
            line.held = held
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
                self._take_back(line.held)

    def retire(self, account_id: bytes) -> None:
        """Pay no more from the account's present grants; those who come get new ones."""
        for line in self._lines.values():
            if line.held is not None and self._account_of(line.held) == account_id:
                self._leave(line)

    def sync(self) -> None:
        """Bring the book up to date with the grants; in memory only."""
        for held in self._holding():
            self._sync(held)
        for held in self._leaving:
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
        self._leave_all()
        self.sync()
        for held in self._leaving:
            self._close(held)
        self._lines.clear()
        self._leaving.clear()

    # What reconciliation and approvals ask.

    def activity(self) -> defaultdict[bytes, Activity]:
        """What the present grants do, by channel."""
        found: defaultdict[bytes, Activity] = defaultdict(Activity)
        for grant in (held.grant for held in self._all_held()):
            payments, in_flight, unspent = found[grant.channel_id]
            found[grant.channel_id] = Activity(
                payments + grant.payments, in_flight + grant.in_flight, unspent + grant.unspent
            )
        return found

    def has_denied(self, account_id: bytes) -> bool:
        """Whether a present grant of the account holds what a seller says that it did not take."""
        return any(held.grant.denied and self._account_of(held) == account_id for held in self._all_held())

    def _all_held(self) -> list[_Held]:
        return [*self._holding(), *self._leaving]

    def _per_request(self, seller: Seller) -> int:
        return self._allocator.limits(seller).per_request

    def _sync(self, held: _Held) -> None:
        (charged, unknown), found = held.grant.totals, held.grant.found_charged
        self._book.report(held.row, charged + found, unknown - found)

    def _take_back(self, held: _Held) -> None:
        self._sync(held)
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
