"""Who pays in the simulation: customers with books of their own, and strangers who would like to pay with them.

A customer believes only what it signed and what it was told; a purchase whose answer was lost stays open until somebody
sends it again. At the end its book must say what the ledger says.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from random import Random

from doubles import Payer

from tallystick.payment_ids import new_payment_id
from tallystick.reasons import Reason
from tallystick.spend_keys import SpendProver
from tallystick_aggregator.charging import UncheckedPayment, UncheckedSpendProof
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.state import SpendKey

PASSING = frozenset(
    {
        Reason.CHAIN_STALE,
        Reason.STORE_UNAVAILABLE,
        Reason.OVERLOADED,
        Reason.INSUFFICIENT_FUNDS,
        Reason.ACCOUNT_SHORT,  # a withdrawal of this moment, from a deposit that is not final
        Reason.INSUFFICIENT_CEILING,
        Reason.EXPOSURE_LIMIT,
        Reason.RESERVATION_LIMIT,
        Reason.WITHDRAWING,
    }
)
"""Refusals that an honest customer may hear, and after which it may send the same payment again."""
FINAL = frozenset(
    {
        Reason.PAYMENT_ID_EXPIRED,
        Reason.SPEND_KEY_REVOKED,
        Reason.SPEND_KEY_EXPIRED,
        Reason.SPEND_KEY_EXHAUSTED,
        Reason.SPEND_KEY_UNKNOWN,  # forgotten, after all of its payments
        Reason.RESERVATION_UNKNOWN,
        Reason.RESERVATION_RELEASED,
    }
)
"""Refusals that it may hear, and that end the purchase."""


@dataclass(slots=True, eq=False)
class Purchase:
    """One payment and what its customer knows of it. `held`: it goes by Verify and Settle."""

    customer: "Customer"
    payment: UncheckedPayment
    by_reservation: bool
    handle: bytes = b""
    capture: int = 0
    """What will be captured; -1: it will be released."""
    charged: Accepted | None = None
    lost: bool = False
    """An answer was lost, and no later attempt has told yet what became of it."""
    ended: bool = False
    """Nobody sends it any more."""

    @property
    def key(self) -> bytes:
        """The payment's key in the ledger."""
        return self.payment.payment_id + self.payment.channel_id

    @property
    def open(self) -> bool:
        """Whether its outcome is not known for good."""
        return not self.ended

    def hear_charge(self, answer: Accepted | Refusal | None, *, was_charged: bool, pruned: bool) -> None:
        """An answer to Charge or a capture; None: it was lost. `was_charged`: it had been told so before it asked.

        `pruned`: the payment id was forgotten, so that no later attempt can tell what became of it.
        """
        if answer is None:
            self.lost = self.lost or self.charged is None
        elif isinstance(answer, Accepted):
            if self.charged is not None:
                first = self.charged.amount, self.charged.charged
                assert (answer.amount, answer.charged) == first, "I4: the first answer again"
            assert answer.amount == (self.capture if self.by_reservation else self.payment.amount)
            self.charged, self.lost, self.ended = answer, False, True
        else:
            self.hear_refusal(answer, was_charged=was_charged and not pruned)
            if answer.reason in FINAL and self.charged is None and not (self.lost and pruned):
                self.lost, self.ended = False, True

    def hear_hold(self, answer: Held | Accepted | Refusal | None) -> None:
        """An answer to Verify."""
        if isinstance(answer, Held) and answer.handle:
            assert self.handle in (b"", answer.handle)
            self.handle = answer.handle
        elif isinstance(answer, Refusal):
            self.hear_refusal(answer, was_charged=False)
            self.ended = answer.reason in FINAL

    def hear_release(self, answer: Done | Refusal | None) -> None:
        """An answer to a release."""
        if isinstance(answer, Done):
            self.ended = True
        elif answer is not None:
            self.hear_refusal(answer, was_charged=False)
            self.ended = self.ended or answer.reason in FINAL

    def hear_refusal(self, refusal: Refusal, *, was_charged: bool) -> None:
        """Honest customers hear few reasons, and none of a payment that they know to be charged but for the store's."""
        reason = refusal.reason
        assert reason in PASSING | FINAL, refusal
        if was_charged:
            assert reason in (Reason.STORE_UNAVAILABLE, Reason.OVERLOADED), refusal
        if reason is Reason.INSUFFICIENT_CEILING:
            assert self.customer.uses_keys, "a voucher of its own covers every charge before it"


@dataclass(slots=True, eq=False)
class Customer:
    """An honest payer with its book. By vouchers it signs a ceiling for each payment, by keys now and then."""

    payer: Payer
    uses_keys: bool
    random: Random
    signed: dict[bytes, int] = field(default_factory=dict[bytes, int])
    needed: dict[bytes, int] = field(default_factory=dict[bytes, int])
    keys: list[SpendKey] = field(default_factory=list[SpendKey])
    """Registered ones; the last is in use."""
    drawn: int = 0
    purchases: list[Purchase] = field(default_factory=list[Purchase])

    def buy(self, seller: bytes, now_ms: int, *, by_reservation: bool) -> Purchase:
        """Make out a new payment."""
        payment_id = new_payment_id(now_ms, self.random.randbytes(10))
        amount = self.random.randrange(0, 20)
        request = sha256(self.random.randbytes(4)).digest()
        self.needed[seller] = self.needed.get(seller, 0) + amount
        ceiling, signature, spend = 0, b"", None
        channel_id = self.payer.channel_id(seller)
        if self.uses_keys:
            key, most = self.keys[-1], amount + self.random.choice((0, 0, 5))
            spend = UncheckedSpendProof(
                key.key_id, most, SpendProver(key.secret).mac(channel_id, payment_id, most, request)
            )
        if not self.uses_keys or self.signed.get(seller, 0) < self.needed[seller] or self.random.random() < 0.2:
            ceiling, signature = self.sign(seller)
        payment = UncheckedPayment(channel_id, payment_id, amount, request, ceiling, signature, spend)
        purchase = Purchase(self, payment, by_reservation)
        purchase.capture = self.random.choice((-1, amount, amount, self.random.randint(0, amount)))
        self.purchases.append(purchase)
        return purchase

    def sign(self, seller: bytes) -> tuple[int, bytes]:
        """Sign what is needed: by vouchers exactly that but always higher, by spend keys with headroom."""
        before, needed = self.signed.get(seller, 0), self.needed[seller]
        ceiling = max(before, needed + self.random.randrange(40)) if self.uses_keys else max(before + 1, needed)
        self.signed[seller] = ceiling
        return ceiling, self.payer.voucher(ceiling, seller).signature

    def renew(self, purchase: Purchase, seller: bytes) -> None:
        """Before it is sent again, a payment by spend key gets the highest voucher there is."""
        if self.uses_keys:
            ceiling, signature = self.sign(seller)
            purchase.payment = purchase.payment._replace(ceiling=ceiling, signature=signature)

    def new_key(self, now_s: int) -> SpendKey:
        """Draw a spend key; some have little to spend or little time."""
        cap, seconds = self.random.choice((150, 10**6, 10**6)), self.random.choice((15_000, 10**6))
        self.drawn += 1
        return self.payer.spend_key(self.drawn, cap=cap, expires_at=now_s + seconds)

    def spent_at(self, channel_id: bytes) -> int:
        """What the book says was charged on a channel."""
        return sum(
            purchase.charged.amount
            for purchase in self.purchases
            if purchase.charged is not None and purchase.payment.channel_id == channel_id
        )


def strange_payments(customer: Customer, seen: Purchase, random: Random, now_ms: int) -> list[UncheckedPayment]:
    """What strangers make of a payment that was charged and has become public: none of it may charge anybody."""
    payment = seen.payment
    fresh = payment._replace(payment_id=new_payment_id(now_ms, random.randbytes(10)))
    mallory = Payer("mallory")
    other = payment._replace(request_hash=random.randbytes(32))
    junk = fresh._replace(ceiling=payment.ceiling + 1, signature=random.randbytes(64) + b"\x1b")
    unproven = fresh._replace(spend=None)
    stolen = mallory.voucher(payment.ceiling + 10).signature
    return [
        fresh,
        other,
        junk._replace(spend=None),
        unproven,
        fresh._replace(spend=None, ceiling=payment.ceiling + 10, signature=stolen),
        mallory.payment(random.randrange(1000), 1, ceiling=10, ms=now_ms),
        fresh._replace(amount=fresh.amount + 1),
        fresh._replace(channel_id=customer.payer.channel_id(random.randbytes(20))),
    ]
