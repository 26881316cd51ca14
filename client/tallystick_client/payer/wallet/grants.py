"""Headroom at one seller, spent without asking anybody: a payment is an HMAC and a payment id, a few microseconds.

A grant is what a wallet hands to one worker, in this process or in another. It pays while it has headroom and its time
has not come, any number of payments under way at once. Each payment ends in one of four ways: `settle` (the seller
says that it took this much), `deny` (it says that it took nothing), `release` (it was never sent), `lose` (nobody
knows). The totals are handed to the wallet from time to time; they only grow, so handing them in twice changes nothing.

**What a seller says it did not take, it may have taken.** Such headroom pays for the next page at the same seller,
whose ceiling bounds both together. It is counted as `denied`, and the budgets do not get it back from the grant.

Each seller and host has a line. A payment is made at once where its grant has headroom. Where it has not, its request
waits in line while the grant is extended, once for all who wait: N requests in flight at the same moment need one
extension, and none fails for lack of headroom. An unknown host starts with one request; each extension doubles what is
asked for, up to `max_headroom` requests beyond those that wait. How a grant is extended is up to `local_grants` in the
wallet's own process, to `fleet.remote_grants` in a worker's.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from tallystick import payment_ids
from tallystick.channels import ChannelConfig
from tallystick.errors import MalformedError, TallystickError
from tallystick.quantities import MAX_AMOUNT, PaymentId
from tallystick.spend_keys import SpendKey, SpendProof, SpendProver
from tallystick.vouchers import Voucher
from tallystick.x402 import DeferredPayment
from tallystick_client.payer.errors import (
    BookUnavailableError,
    BudgetExceededError,
    DepositNotAllowedError,
    NoHeadroomError,
)
from tallystick_client.payer.policy.offers import Offer, Seller

LINES_MAX: Final = 4_096
"""Sellers with a grant of their own at one time; beyond them the oldest one that is idle is returned."""

Clock = Callable[[], float]
"""Seconds since the epoch."""


class Totals(NamedTuple):
    """What became of a grant's payments so far, in atomic units."""

    charged: int
    unknown: int


@dataclass(slots=True, eq=False)
class Payment:
    """A payment under way. `proof` is what is sent; `amount` is the most that it can cost, in atomic units."""

    grant: "Grant"
    amount: int
    proof: DeferredPayment
    request_hash: bytes
    ended: bool = False
    is_lost: bool = False

    def settle(self, charged: int) -> None:
        """The seller says that it took `charged`; more than `amount` cannot be, whatever it says."""
        self._end()
        charged = min(charged, self.amount)
        self.grant.end_payment(self.amount, charged=charged, denied=self.amount - charged)

    def deny(self) -> None:
        """The seller says that it took nothing."""
        self.settle(0)

    def release(self) -> None:
        """It was never sent, so nobody can take anything."""
        self._end()
        self.grant.end_payment(self.amount)

    def lose(self) -> None:
        """Nobody knows: it counts as spent until it is reconciled."""
        self._end()
        self.is_lost = True
        self.grant.end_payment(self.amount, unknown=self.amount)

    def found_charged(self, charged: int) -> None:
        """The seller says, asked again, that it took `charged` of this lost payment; the rest stays unknown."""
        if self.is_lost:
            self.is_lost = False
            self.grant.found_charged += min(charged, self.amount)

    def _end(self) -> None:
        assert not self.ended, "a payment ends once"
        self.ended = True


class Grant(ABC):
    """Headroom at one seller. `valid_until` is in seconds since the epoch."""

    def __init__(
        self, grant_id: int, channel_id: bytes, config: ChannelConfig, valid_until: float, clock: Clock = time.time
    ) -> None:
        self.id = grant_id
        self.channel_id = channel_id
        self.config = config
        self.valid_until = valid_until
        self.headroom = 0
        self.in_flight = 0
        self.payments = 0
        self.closed = False
        self.found_charged = 0
        """Of what is unknown: what sellers said, when they were asked again, that they took; atomic units, ever."""
        self.denied = 0
        """What was sent and not taken, if the sellers of the payments told the truth; atomic units, ever."""
        self._charged = 0
        self._unknown = 0
        self._returnable = 0
        self._clock = clock

    @property
    def totals(self) -> Totals:
        """What became of the payments so far."""
        return Totals(self._charged, self._unknown)

    @property
    def unspent(self) -> int:
        """What no payment has used, in atomic units."""
        return self.headroom + self._returnable

    def is_valid(self) -> bool:
        """Whether it may still be paid from."""
        return not self.closed and self._clock() < self.valid_until

    def can_pay(self, amount: int) -> bool:
        """Whether `pay` would do it."""
        return amount <= self.headroom and self.is_valid()

    def pay(self, amount: int, request_hash: bytes, payment_id: PaymentId | None = None) -> Payment:
        """A payment of at most `amount` atomic units for this request (`tallystick.requests`).

        Raises NoHeadroomError. An id is given only where an earlier payment of the same request was refused.
        """
        if not self.can_pay(amount):
            raise NoHeadroomError
        proof = self._prove(amount, request_hash, payment_id or payment_ids.new())
        self.headroom -= amount
        self.in_flight += amount
        self.payments += 1
        return Payment(self, amount, proof, request_hash)

    def end_payment(self, amount: int, *, charged: int = 0, unknown: int = 0, denied: int = 0) -> None:
        """Account for a payment that ended; `Payment` calls it."""
        self.in_flight -= amount
        self._charged += charged
        self._unknown += unknown
        self.denied += denied
        self._free(amount - charged - unknown, denied)

    def take_back(self, at_most: int = MAX_AMOUNT) -> int:
        """Take unspent headroom out of the grant, in atomic units, and return how much it was."""
        taken = min(self.unspent, at_most)
        from_returnable = min(self._returnable, taken)
        self._returnable -= from_returnable
        self.headroom -= taken - from_returnable
        return taken

    @abstractmethod
    def _prove(self, amount: int, request_hash: bytes, payment_id: PaymentId) -> DeferredPayment: ...

    @abstractmethod
    def _free(self, amount: int, denied: int) -> None:
        """Take back what a payment did not cost; `denied` of it was sent."""


class SpendKeyGrant(Grant):
    """A grant whose payments share one voucher and are proven by a spend key (design.md, section 6, rule 2b)."""

    def __init__(
        self,
        grant_id: int,
        channel_id: bytes,
        config: ChannelConfig,
        key: SpendKey,
        valid_until: float,
        clock: Clock = time.time,
    ) -> None:
        super().__init__(grant_id, channel_id, config, valid_until, clock)
        self.key_id = key.key_id
        self._prover = SpendProver(key.secret)
        self._voucher = Voucher(channel_id, 0, b"")

    def extend(self, amount: int, voucher: Voucher) -> None:
        """Add headroom, and the voucher that covers it."""
        self.headroom += amount
        if voucher.max_claimable_amount > self._voucher.max_claimable_amount:
            self._voucher = voucher

    def _prove(self, amount: int, request_hash: bytes, payment_id: PaymentId) -> DeferredPayment:
        mac = self._prover.mac(self.channel_id, payment_id, amount, request_hash)
        voucher = self._voucher
        return DeferredPayment(
            config=self.config,
            payment_id=payment_id,
            ceiling=voucher.max_claimable_amount,
            signature=voucher.signature,
            spend=SpendProof(self.key_id, amount, mac),
            channel_id=self.channel_id,
        )

    def _free(self, amount: int, denied: int) -> None:  # noqa: ARG002
        # The spend proof that was given out pays once at most; what it did not take pays for the next.
        if self.closed:
            self._returnable += amount
        else:
            self.headroom += amount


class HoldsGrant(Protocol):
    """A grant, and what its holder notes about it."""

    @property
    def grant(self) -> Grant:
        """The grant."""
        ...


HeldT = TypeVar("HeldT", bound=HoldsGrant)


class _Waiting(NamedTuple):
    amount: int
    request_hash: bytes
    payment_id: PaymentId | None
    payment: asyncio.Future[Payment]


class Line(Generic[HeldT]):
    """Who waits for payments to one seller, and what they are paid from."""

    def __init__(self, grants: "Grants[HeldT]", seller: Seller, max_headroom: int) -> None:
        self.seller = seller
        self.held: HeldT | None = None
        self._grants = grants
        self._max_headroom = max_headroom
        self._requests = 1
        self._waiting: deque[_Waiting] = deque()
        self._serving: asyncio.Task[None] | None = None

    @property
    def grant(self) -> Grant | None:
        """What is paid from now."""
        return self.held.grant if self.held is not None else None

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits and no payment is under way."""
        return self._serving is None and (self.held is None or not self.held.grant.in_flight)

    async def pay(self, amount: int, request_hash: bytes, payment_id: PaymentId | None) -> Payment:
        """A payment of at most `amount` atomic units; see Grant.pay. Raises what extending the grant raises."""
        grant = self.grant
        # Who came first is served first.
        if grant is not None and not self._waiting and grant.can_pay(amount):
            return grant.pay(amount, request_hash, payment_id)
        future: asyncio.Future[Payment] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(amount, request_hash, payment_id, future))
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        try:
            return await future
        except asyncio.CancelledError:
            # Made in the same moment as the caller went away: it never left.
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()
            raise

    def stop(self) -> None:
        """Serve nobody any more; whoever waits is told."""
        if self._serving is not None:
            self._serving.cancel()

    async def _serve(self) -> None:
        try:
            while self._waiting:
                first = self._waiting[0]
                if first.payment.done():
                    self._waiting.popleft()
                elif self.grant is not None and self.grant.can_pay(first.amount):
                    self._waiting.popleft()
                    first.payment.set_result(self.grant.pay(first.amount, first.request_hash, first.payment_id))
                else:
                    await self._extend(first.amount)
        except BaseException as error:
            # Cancelled, or a fault: whoever would wait for ever is told.
            closed = BookUnavailableError("the wallet was closed while a payment waited for headroom")
            self._fail(error if isinstance(error, Exception) else closed, at_least=0)
            if not isinstance(error, Exception):
                raise
        finally:
            self._serving = None

    async def _extend(self, need: int) -> None:
        in_line = sum(waiting.amount for waiting in self._waiting if not waiting.payment.done())
        try:
            await self._grants.extend(self, need, max(in_line, self._requests * need))
        except (BudgetExceededError, DepositNotAllowedError) as error:
            # Who asks for less may still be served.
            self._fail(error, at_least=need)
        except (TallystickError, OverflowError) as error:
            self._fail(error, at_least=0)
        else:
            self._requests = min(2 * self._requests, self._max_headroom)

    def _fail(self, error: Exception, *, at_least: int) -> None:
        staying: deque[_Waiting] = deque()
        for waiting in self._waiting:
            if waiting.amount < at_least:
                staying.append(waiting)
            elif not waiting.payment.done():
                waiting.payment.set_exception(error)
        self._waiting = staying


class Grants(ABC, Generic[HeldT]):
    """The lines of one process, and what is left of former grants while their payments are under way."""

    def __init__(self, max_headroom: int) -> None:
        if max_headroom < 1:
            raise MalformedError("max_headroom", max_headroom, "at least 1 request")
        self._max_headroom = max_headroom
        self._lines: dict[Seller, Line[HeldT]] = {}
        self._leaving: list[HeldT] = []

    async def pay(self, offer: Offer, host: str, request_hash: bytes, payment_id: PaymentId | None = None) -> Payment:
        """A payment of the offer's amount from the deposit, for this request at this host.

        `payment_id`: of an earlier payment of the same request that was refused, so that both together are charged once
        at most. The caller ends the payment: `settle`, `release` or `lose`.
        Raises BudgetExceededError, DepositNotAllowedError, BookUnavailableError, RefusedError,
        AggregatorUnavailableError.
        """
        seller, amount = offer.seller(host), offer.terms.amount
        allowed = self._per_request(seller)
        if amount > allowed:
            raise BudgetExceededError("per_request", amount, allowed, seller.token.decimals, seller.token.symbol)
        line = self._lines.get(seller)
        if line is None:
            self._make_room()
            line = self._lines[seller] = Line(self, seller, self._max_headroom)
        return await line.pay(amount, request_hash, payment_id)

    @abstractmethod
    async def extend(self, line: Line[HeldT], need: int, want: int) -> None:
        """Give the line's grant between `need` and `want` more, or put a new grant in its place.

        Raises TallystickError; BudgetExceededError and DepositNotAllowedError fail only those who ask for `need` or
        more. To return without a change is allowed: it is called again.
        """

    @abstractmethod
    def _per_request(self, seller: Seller) -> int:
        """The most that one request may cost, in atomic units."""

    @abstractmethod
    def _take_back(self, held: HeldT) -> None:
        """Take headroom that no payment is using out of a grant."""

    def _holding(self) -> list[HeldT]:
        """What the lines pay from now."""
        return [line.held for line in self._lines.values() if line.held is not None]

    def _leave(self, line: Line[HeldT]) -> None:
        """Pay no more from the line's grant."""
        held = line.held
        if held is not None:
            line.held = None
            held.grant.closed = True
            self._leaving.append(held)
            self._take_back(held)

    def _leave_all(self) -> None:
        for line in self._lines.values():
            line.stop()
            self._leave(line)

    def _make_room(self) -> None:
        if len(self._lines) < LINES_MAX:
            return
        for seller, line in self._lines.items():
            if line.is_idle:
                self._leave(line)
                del self._lines[seller]
                return
