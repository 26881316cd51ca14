"""Headroom at one seller, spent without asking anybody: a payment is an HMAC and a payment id, a few microseconds.

A grant is what a wallet hands to one worker, in this process or in another. It pays while it has headroom and its time
has not come, any number of payments under way at once. Each payment ends in one of four ways: `settle` (the seller
says that it took this much), `deny` (it says that it took nothing), `release` (it was never sent), `lose` (nobody
knows). The totals are handed to the wallet from time to time; they only grow, so handing them in twice changes nothing.

**What a seller says it did not take, it may have taken.** Such headroom pays for the next page at the same seller,
whose ceiling bounds both together. It is counted as `denied`, and the budgets do not get it back from the grant.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tallystick import payment_ids
from tallystick.channels import ChannelConfig
from tallystick.eip712 import Domain
from tallystick.quantities import MAX_AMOUNT, PaymentId
from tallystick.signatures import Signer
from tallystick.spend_keys import SpendKey, SpendProof, SpendProver
from tallystick.vouchers import Voucher, sign_voucher
from tallystick.x402 import DeferredPayment
from tallystick_client.payer.errors import NoHeadroomError

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

        Raises NoHeadroomError. `payment_id`: a new one, or that of a payment of the same request that was refused.
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
            request_hash=request_hash,
        )

    def _free(self, amount: int, denied: int) -> None:  # noqa: ARG002
        # The spend proof that was given out pays once at most; what it did not take pays for the next.
        if self.closed:
            self._returnable += amount
        else:
            self.headroom += amount


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

    def _prove(self, amount: int, request_hash: bytes, payment_id: PaymentId) -> DeferredPayment:
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
            request_hash=request_hash,
        )

    def _free(self, amount: int, denied: int) -> None:
        # A voucher that was sent can be charged as long as its payment id is taken: what it is worth stays in the grant
        # until that is over, and pays for nothing else.
        self._returnable += amount - denied
