"""One line of payers for each seller and host, and the grant that serves it.

A payment is made at once where the grant has headroom. Where it has not, its request waits in line while the grant is
extended, once for all who wait: N requests in flight at the same moment need one extension, and none fails for lack of
headroom. An unknown host starts with one request; each extension doubles what is asked for, up to `max_headroom`
requests beyond those that wait.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tallystick.errors import TallystickError
from tallystick.quantities import PaymentId
from tallystick.signatures import Signer
from tallystick_client.payer.book import Asset, Book, GrantRow
from tallystick_client.payer.errors import BookUnavailable, BudgetExceeded
from tallystick_client.payer.grants import Clock, Grant, Payment, SpendKeyGrant, VoucherGrant
from tallystick_client.payer.spend_keys import SELF, LiveKey
from tallystick_client.payer.teller import Allotment, Seller, Teller

LINES_MAX: Final = 4_096
"""Sellers with a grant of their own at one time; beyond them the oldest one that is idle is returned."""


class _Waiting(NamedTuple):
    amount: int
    request_hash: bytes
    payment_id: PaymentId | None
    payment: asyncio.Future[Payment]


@dataclass(slots=True, eq=False)
class _Held:
    """A grant in this process's own hands, its row in the book, and the key that it spends under."""

    grant: SpendKeyGrant | VoucherGrant
    row: GrantRow
    key: LiveKey | None
    is_extended: bool = False
    """Whether an extension is on its way to the disk: then the row must not be closed."""

    @property
    def is_done(self) -> bool:
        """Whether nothing of it is under way."""
        return not self.grant.in_flight and not self.is_extended


@dataclass(slots=True, eq=False)
class _Line:
    seller: Seller
    held: _Held | None = None
    requests: int = 1
    """How many requests' worth the next extension asks for."""
    waiting: deque[_Waiting] = field(default_factory=deque[_Waiting])
    extending: asyncio.Task[None] | None = None


class Lines:
    """The grants of this process."""

    def __init__(
        self, book: Book, teller: Teller, signer: Signer, max_headroom: int = 64, clock: Clock = time.time
    ) -> None:
        if max_headroom < 1:
            raise ValueError(f"max_headroom must be at least 1, not {max_headroom}")
        self._book = book
        self._teller = teller
        self._signer = signer
        self._max_headroom = max_headroom
        self._clock = clock
        self._lines: dict[Seller, _Line] = {}
        # Grants that are no longer paid from, whose payments are still under way.
        self._leaving: list[_Held] = []
        teller.call_back_from(self.reclaim)

    async def pay(
        self, seller: Seller, amount: int, request_hash: bytes, payment_id: PaymentId | None = None
    ) -> Payment:
        """A payment of at most `amount` atomic units; see Grant.pay.

        Raises BudgetExceeded, DepositNotAllowed, BookUnavailable, or what the aggregator answered.
        """
        self._teller.check_request(seller, amount)
        line = self._lines.get(seller)
        if line is None:
            self._make_room()
            line = self._lines[seller] = _Line(seller)
        held = line.held
        # Who came first is served first.
        if held is not None and not line.waiting and held.grant.can_pay(amount):
            return held.grant.pay(amount, request_hash, payment_id)
        return await self._wait(line, amount, request_hash, payment_id)

    async def _wait(self, line: _Line, amount: int, request_hash: bytes, payment_id: PaymentId | None) -> Payment:
        future: asyncio.Future[Payment] = asyncio.get_running_loop().create_future()
        line.waiting.append(_Waiting(amount, request_hash, payment_id, future))
        if line.extending is None:
            line.extending = asyncio.create_task(self._serve(line))
        try:
            return await future
        except asyncio.CancelledError:
            # Made in the same moment as the caller went away: it never left.
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()
            raise

    async def _serve(self, line: _Line) -> None:
        try:
            while line.waiting:
                first = line.waiting[0]
                if first.payment.done():
                    line.waiting.popleft()
                elif line.held is not None and line.held.grant.can_pay(first.amount):
                    line.waiting.popleft()
                    payment = line.held.grant.pay(first.amount, first.request_hash, first.payment_id)
                    first.payment.set_result(payment)
                else:
                    await self._extend(line, first.amount)
        except BaseException as error:
            # Cancelled, or a fault: whoever would wait for ever is told.
            closed = BookUnavailable("the wallet was closed while a payment waited for headroom")
            self._fail(line, error if isinstance(error, Exception) else closed, at_least=0)
            if not isinstance(error, Exception):
                raise
        finally:
            line.extending = None

    async def _extend(self, line: _Line, need: int) -> None:
        in_line = sum(waiting.amount for waiting in line.waiting if not waiting.payment.done())
        want = max(in_line, line.requests * need)
        held = line.held
        if held is not None:
            self._sync(held)
            if isinstance(held.grant, VoucherGrant) or not held.grant.is_valid():
                # What is left of a stretch of ceilings, or of yesterday's budget, cannot be added to.
                self._take_back(held)
            if not held.grant.is_valid():
                self._leave(line)
                held = None
        try:
            await self._extend_held(line, held, need, want)
        except BudgetExceeded as error:
            # Who asks for less may still be served.
            self._fail(line, error, at_least=need)
        except (TallystickError, OverflowError) as error:
            self._fail(line, error, at_least=0)
        else:
            line.requests = min(2 * line.requests, self._max_headroom)

    async def _extend_held(self, line: _Line, held: _Held | None, need: int, want: int) -> None:
        if held is not None:
            held.is_extended = True
        try:
            row = held.row if held is not None else None
            allotment = await self._teller.allot(line.seller, SELF, row, need, want)
        finally:
            if held is not None:
                held.is_extended = False
        if held is not None and allotment.row is held.row and held.grant.closed:
            # It was retired in the meantime: what came late goes back.
            self._teller.give_back(allotment.row, allotment.amount, allotment.key)
            return
        if held is None or allotment.row is not held.row:
            self._leave(line)
            held = line.held = _Held(self._new_grant(allotment), allotment.row, allotment.key)
        if isinstance(held.grant, VoucherGrant):
            held.grant.extend_to(allotment.ceiling, allotment.amount)
        else:
            held.grant.extend(allotment.amount, self._teller.voucher(allotment))

    def _new_grant(self, allotment: Allotment) -> SpendKeyGrant | VoucherGrant:
        row, channel, until = allotment.row, allotment.channel, allotment.valid_until
        if allotment.key is None:
            domain = allotment.operator.domain
            return VoucherGrant(row.id, channel.id, channel.config, self._signer, domain, until, self._clock)
        return SpendKeyGrant(row.id, channel.id, channel.config, allotment.key.key, until, self._clock)

    def _fail(self, line: _Line, error: Exception, *, at_least: int) -> None:
        staying: deque[_Waiting] = deque()
        for waiting in line.waiting:
            if waiting.amount < at_least:
                staying.append(waiting)
            elif not waiting.payment.done():
                waiting.payment.set_exception(error)
        line.waiting = staying

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
                self._book.close(held.row, int(self._clock()))
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
        for line in list(self._lines.values()):
            if line.extending is not None:
                line.extending.cancel()
            self._leave(line)
        self.sync()
        for held in self._leaving:
            self._book.close(held.row, int(self._clock()))
        self._lines.clear()
        self._leaving.clear()

    # What reconciliation and approvals ask.

    def activity(self, channel_id: bytes) -> tuple[int, int, int]:
        """Payments ever made by the channel's present grants, atomic units in flight, and atomic units unspent."""
        grants = [held.grant for held in self._held() if held.grant.channel_id == channel_id]
        return (
            sum(grant.payments for grant in grants),
            sum(grant.in_flight for grant in grants),
            sum(grant.unspent for grant in grants),
        )

    def grant(self, seller: Seller) -> Grant | None:
        """The grant that serves a line, for those who want to look at it."""
        line = self._lines.get(seller)
        return line.held.grant if line is not None and line.held is not None else None

    def _held(self) -> Iterator[_Held]:
        yield from (line.held for line in self._lines.values() if line.held is not None)
        yield from self._leaving

    def _make_room(self) -> None:
        if len(self._lines) < LINES_MAX:
            return
        for seller, line in self._lines.items():
            if line.extending is None and (line.held is None or line.held.is_done):
                self._leave(line)
                del self._lines[seller]
                return

    def _leave(self, line: _Line) -> None:
        if line.held is not None:
            held, line.held = line.held, None
            held.grant.closed = True
            self._leaving.append(held)
            self._sync(held)
            self._take_back(held)

    def _sync(self, held: _Held) -> None:
        self._book.report(held.row, *held.grant.totals)

    def _take_back(self, held: _Held) -> None:
        unspent = held.grant.take_back()
        if unspent:
            self._teller.give_back(held.row, unspent, held.key)

    def _account_of(self, held: _Held) -> bytes:
        return self._book.channels[held.row.channel_id].account_id
