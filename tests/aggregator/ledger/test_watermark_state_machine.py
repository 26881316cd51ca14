"""Any history of a channel of `batch-settlement` keeps I1, I2, I6 and I11, and replays to the same ledger.

Vouchers that are the next step or nearly, locks, cancels, captures in time and late; deposits, refunds and withdrawals;
claims by us, planned as in production, and by the receiver itself. The observer keeps books of its own, from the
specification and the design (rule 2c), and knows by them what each answer must be, to the reason.

An account has one channel, as the canonical contract has it; a charge on one must not touch the other.
"""

from dataclasses import dataclass, field

import pytest
from doubles import NEWS, PAGE, Payer, PureLedger, handle_of, in_step, refund_id_of
from escrow_blocks import EscrowBlocks
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from tallystick.charges import Charge
from tallystick.payment_ids import payment_id_ms
from tallystick.reasons import Reason
from tallystick_aggregator.chain.batch_settlement_escrow import CLAIM_COSTS
from tallystick_aggregator.chain.claim_plan import PlannedRow
from tallystick_aggregator.claims.planner import EVERYTHING, plan_account
from tallystick_aggregator.ledger import accounts, decide
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.commands import ProvenPayment, Rules
from tallystick_aggregator.ledger.invariants import short_accounts
from tallystick_contracts.claim_batch import ClaimRow

PAYERS = (Payer("alice"), Payer("bob"))
RULES = Rules(exposure_per_account_max=250)
DEPOSIT = 300

payers = st.sampled_from(PAYERS)
amounts = st.integers(0, 90)
missteps = st.one_of(st.just(0), st.just(0), st.just(0), st.integers(-90, 90))
"""By how much a voucher misses the next step."""


@dataclass
class Lock:
    """A request that held its channel once."""

    payment: ProvenPayment
    ceiling: int
    status: str = "reserved"
    forgotten: bool = False
    """Its id was pruned after it had expired: there is no late capture any more."""


@dataclass
class Book:
    """What the observer knows of one channel."""

    charged: int = 0
    ceiling: int = 0
    claimed: int = 0
    funds: int = 0
    claimed_by_us: int = 0
    withdrawing: int = 0
    finalizes_at: int = 0
    refund: tuple[int, int, int] | None = None
    """Number, nonce and amount."""
    locks: dict[bytes, Lock] = field(default_factory=dict[bytes, Lock])
    captures: int = 0
    confirmed: int = 0
    """Charges that confirmed claims attest."""
    pending: dict[int, int] = field(default_factory=dict[int, int])
    """What claims attest that are not confirmed, by their totals."""

    @property
    def total(self) -> int:
        """The baseline of the next step: what was charged, or what the receiver claimed by itself if that is more."""
        return max(self.charged, self.claimed)

    @property
    def open(self) -> list[Lock]:
        """The locks that hold the channel: one at most."""
        return [lock for lock in self.locks.values() if lock.status == "reserved"]

    @property
    def committed(self) -> int:
        """The left side of I11."""
        return self.total + sum(lock.payment.amount for lock in self.open)

    @property
    def is_short(self) -> bool:
        """I11: something awaits its claim, and the chain has less than is committed."""
        return self.committed > max(self.claimed, self.funds)

    @property
    def free(self) -> int:
        """What I2 leaves for the next charge."""
        return self.funds - self.committed - self.withdrawing - (self.refund[2] if self.refund else 0)

    @property
    def exposed(self) -> int:
        """What the receiver would lose to an empty escrow, with what is held."""
        return self.committed - self.claimed


class WatermarkMachine(RuleBasedStateMachine):
    """Histories."""

    locks = Bundle("locks")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = PureLedger(RULES)
        self.escrow = EscrowBlocks()
        self.books = {payer: Book() for payer in PAYERS}
        self.payment_number = self.refund_number = 0

    @initialize()
    def open_channels(self) -> None:
        for payer in PAYERS:
            self.escrow.deposit(payer, DEPOSIT)
            self.ledger.fund(payer, 0)
        self.escrow.mine(4)
        self.observe_both()

    # Requests.

    @rule(target=locks, payer=payers, amount=amounts, misstep=missteps)
    def verify(self, payer: Payer, amount: int, misstep: int) -> ProvenPayment:
        book, self.payment_number = self.books[payer], self.payment_number + 1
        ceiling = max(0, book.total + amount + misstep)
        payment = in_step(payer, self.payment_number, amount, ceiling, ms=self.ledger.now_ms)
        answer = self.ledger.reserve(payment)
        expected = self.why_not(book, ceiling, amount)
        if isinstance(answer, Refusal):
            assert answer.reason is expected
            assert answer.reason is not Reason.CUMULATIVE_AMOUNT_MISMATCH or answer.allowed == str(book.total + amount)
        else:
            assert isinstance(answer, Held)
            assert expected is None
            assert book.committed + amount <= book.funds, "I2"
            book.locks[payment.payment_id] = Lock(payment, ceiling)
            book.ceiling = max(book.ceiling, ceiling)
        return payment

    @rule(payment=locks, less=st.integers(-1, 90), misstep=missteps)
    def settle(self, payment: ProvenPayment, less: int, misstep: int) -> None:
        """Capture what was held, or less; once more, or with another voucher, it is refused."""
        book, lock = self.book_of(payment), self.found(payment)
        amount = max(0, payment.amount - less)
        ceiling = max(0, (payment.proof.raised.max_claimable_amount if payment.proof.raised else 0) + misstep)
        expected = self.why_not_captured(book, lock, ceiling, payment.amount, amount)
        charge = self.charge_of(payment, ceiling)
        before = book.total
        answer = self.ledger.run(
            lambda draft, _ledger, moment: decide.capture_in_step(draft, charge, amount, moment, RULES)
        )
        if isinstance(answer, Refusal):
            assert answer.reason is expected
            return
        assert lock is not None
        assert expected is None
        assert answer == Accepted(amount, before + amount, replayed=False)
        book.charged, lock.status = before + amount, "charged"
        book.captures += 1
        assert book.charged <= book.ceiling, "I1"

    @rule(payment=locks)
    def cancel(self, payment: ProvenPayment) -> None:
        lock = self.found(payment)
        charge = self.charge_of(payment, 0)
        answer = self.ledger.run(lambda draft, _ledger, _moment: decide.release_payment(draft, charge))
        if lock is None:
            assert answer is None
        elif lock.status == "charged" or lock.forgotten:
            assert isinstance(answer, Refusal)
        else:
            assert answer == Done(replayed=lock.status == "released")
            lock.status = "released"

    @rule(payment=locks)
    def let_expire(self, payment: ProvenPayment) -> None:
        lock = self.found(payment)
        if lock is not None and lock.status in {"reserved", "expired"} and not lock.forgotten:
            self.ledger.expire(handle_of(payment))
            lock.status = "expired"

    # The chain.

    @rule(payer=payers, amount=st.integers(1, 200))
    def deposit(self, payer: Payer, amount: int) -> None:
        self.escrow.deposit(payer, amount)

    @rule(payer=payers)
    def claim(self, payer: Payer) -> None:
        self.send_claim(payer, lands=True)

    @rule(payer=payers)
    def lose_claim(self, payer: Payer) -> None:
        """It was journaled, and never lands: the next claim attests its charges, too."""
        self.send_claim(payer, lands=False)

    def send_claim(self, payer: Payer, *, lands: bool) -> None:
        """As the planner has it: up to what was charged (I6), by a voucher that covers it."""
        book, account = self.books[payer], self.ledger.account(payer)
        for group in plan_account(account, [self.ledger.channel(payer)], {}, EVERYTHING, CLAIM_COSTS):
            (row,) = group.rows
            assert (row.total, row.ceiling) == (book.total, book.ceiling), "I6"
            assert row.total <= row.ceiling, "I1"
            assert row.charges == book.captures - book.confirmed, "each charge is attested once"
            self.attest(row)
            book.pending = {row.total: row.charges}
            book.claimed_by_us = max(book.claimed_by_us, row.total)
            if lands:
                self.land_claim(payer, row.total)

    @rule(payer=payers, share=st.integers(0, 4))
    def claim_by_oneself(self, payer: Payer, share: int) -> None:
        """The receiver claims up to the highest voucher that it holds, whatever was charged."""
        book = self.books[payer]
        self.land_claim(payer, book.total + max(0, book.ceiling - book.total) * share // 4)

    @rule(payer=payers, amount=st.integers(1, 300))
    def start_refund(self, payer: Payer, amount: int) -> None:
        book, self.refund_number = self.books[payer], self.refund_number + 1
        number, nonce = self.refund_number, self.escrow.at_head(payer).refund_nonce
        answer = self.ledger.run(
            lambda draft, _ledger, moment: accounts.start_refund(
                draft, payer.account_id, refund_id_of(number), nonce, amount, moment
            )
        )
        if isinstance(answer, Refusal):
            wanted = Reason.REFUND_PENDING if book.refund else Reason.REFUND_EXCEEDS_AVAILABLE
            assert answer.reason is wanted
            assert book.refund or amount > book.free
        else:
            assert book.refund is None
            assert 0 < answer.amount <= book.free, "I2: a refund takes only what nobody was promised"
            book.refund = (number, nonce, answer.amount)

    @rule(payer=payers)
    def land_refund(self, payer: Payer) -> None:
        """In one transaction with a claim of all that was charged."""
        book = self.books[payer]
        if book.refund is not None:
            self.claim(payer)
            self.escrow.refund(payer, book.refund[1], book.refund[2])

    @rule(payer=payers, amount=st.integers(1, 300))
    def refund_by_oneself(self, payer: Payer, amount: int) -> None:
        """The receiver gives back what it likes, what it could have claimed too: that is its own."""
        self.escrow.refund(payer, self.escrow.at_head(payer).refund_nonce, amount)

    @rule(payer=payers, amount=st.integers(1, 400))
    def initiate_withdraw(self, payer: Payer, amount: int) -> None:
        self.escrow.initiate_withdraw(payer, amount, self.now_s)

    @rule(payer=payers)
    def finalize_withdraw(self, payer: Payer) -> None:
        """The watcher has seen it coming: the lock is long over, and what was charged is claimed first (I9)."""
        self.observe(payer)
        for lock in self.books[payer].open:
            self.let_expire(lock.payment)
        self.claim(payer)
        self.escrow.finalize_withdraw(payer, self.now_s)
        self.observe(payer)

    @rule(count=st.integers(1, 4))
    def mine(self, count: int) -> None:
        self.escrow.mine(count)

    @rule(depth=st.integers(1, 3))
    def reorg(self, depth: int) -> None:
        self.escrow.reorg(depth)

    @rule()
    def observe_both(self) -> None:
        for payer in PAYERS:
            self.observe(payer)

    # Time.

    @rule(seconds=st.sampled_from((1, 1_000, 40_000, 86_400)))
    def pass_time(self, seconds: int) -> None:
        self.ledger.now_ms += seconds * 1000

    @rule(payment=locks, later_ms=st.integers(0, 1))
    def forget_payments(self, payment: ProvenPayment, later_ms: int) -> None:
        self.ledger.now_ms += 1
        before_ms = max(payment_id_ms(payment.payment_id) + later_ms, self.ledger.ledger.payments_forgotten_ms)
        self.ledger.forget_payments(before_ms)
        for book in self.books.values():
            for payment_id, lock in book.locks.items():
                lock.forgotten |= lock.status == "expired" and payment_id_ms(payment_id) < before_ms

    # What must hold after every step (PureLedger has called check_invariants).

    @invariant()
    def replay_makes_the_same_ledger(self) -> None:
        assert self.ledger.replayed() == self.ledger.ledger

    @invariant()
    def totals_are_the_observers(self) -> None:
        short = short_accounts(self.ledger.ledger, self.ledger.ledger.accounts)
        for payer, book in self.books.items():
            if payer.account_id not in self.ledger.ledger.accounts:
                continue
            channel = self.ledger.channel(payer)
            held = book.committed - book.total
            assert (channel.charged, channel.reserved, channel.ceiling) == (book.total, held, book.ceiling)
            assert channel.charged <= channel.ceiling, "I1"
            assert self.ledger.account(payer).funds == book.funds
            figures = (book.committed, book.funds)
            assert short.get(payer.account_id) == (figures if book.is_short else None), "I11"

    @invariant()
    def each_charge_is_counted_until_a_confirmed_claim_attests_it(self) -> None:
        for payer, book in self.books.items():
            if payer.account_id in self.ledger.ledger.accounts:
                assert self.ledger.channel(payer).charge_count == book.captures - book.confirmed

    @invariant()
    def one_request_at_a_time_holds_a_channel(self) -> None:
        assert all(len(book.open) <= 1 for book in self.books.values())

    @invariant()
    def we_claim_what_was_charged(self) -> None:
        assert all(book.claimed_by_us <= book.total for book in self.books.values()), "I6"

    # The observer at work.

    @property
    def now_s(self) -> int:
        return self.ledger.now_ms // 1000

    def why_not(self, book: Book, ceiling: int, amount: int) -> Reason | None:
        """Why this voucher cannot hold the channel; None if it must."""
        if book.open:
            # A second lock is above what one channel may hold by default, or finds the channel busy.
            return Reason.CHANNEL_BUSY
        if ceiling != book.total + amount:
            return Reason.CUMULATIVE_AMOUNT_MISMATCH
        if book.finalizes_at and self.now_s + RULES.withdraw_margin_s >= book.finalizes_at:
            return Reason.WITHDRAWING
        if amount > book.free:
            return Reason.ACCOUNT_SHORT if book.is_short else Reason.INSUFFICIENT_FUNDS
        return Reason.EXPOSURE_LIMIT if book.exposed + amount > RULES.exposure_per_account_max else None

    def why_not_captured(self, book: Book, lock: Lock | None, ceiling: int, agreed: int, amount: int) -> Reason | None:
        """Why this lock cannot be captured so; None if it must be."""
        if lock is None:
            return Reason.PENDING_ID_MISMATCH
        if ceiling != book.total + agreed:
            return Reason.CUMULATIVE_AMOUNT_MISMATCH
        if lock.status in {"charged", "released"}:
            return Reason.PENDING_ID_MISMATCH
        late = lock.status == "expired"
        if late and book.open:
            return Reason.CHANNEL_BUSY
        if lock.forgotten:
            return Reason.RESERVATION_UNKNOWN
        if amount > agreed:
            return Reason.AMOUNT_ABOVE_AGREED
        if not late:
            return Reason.ACCOUNT_SHORT if book.is_short else None
        if book.exposed + amount > RULES.exposure_per_account_max:
            return Reason.EXPOSURE_LIMIT
        if amount > book.free:
            return Reason.ACCOUNT_SHORT if book.is_short else Reason.INSUFFICIENT_FUNDS
        return None

    def book_of(self, payment: ProvenPayment) -> Book:
        return next(book for payer, book in self.books.items() if payer.channel_id(NEWS) == payment.channel_id)

    def found(self, payment: ProvenPayment) -> Lock | None:
        """The lock of this payment, if there ever was one."""
        return self.book_of(payment).locks.get(payment.payment_id)

    def charge_of(self, payment: ProvenPayment, ceiling: int) -> Charge:
        return Charge(payment.channel_id, payment.payment_id, payment.amount, PAGE, ceiling)

    def attest(self, row: PlannedRow) -> None:
        """As it is done before a claim is journaled."""
        self.ledger.run(
            lambda draft, _ledger, _moment: accounts.attest_charges(
                draft, row.channel_id, row.total, row.before, row.charges
            )
        )

    def land_claim(self, payer: Payer, total: int) -> None:
        """A row of the canonical contract: it reverts if the balance does not cover it."""
        at_head = self.escrow.at_head(payer)
        if total - at_head.claimed.get(payer.channel_id(NEWS), 0) <= at_head.balance:
            self.escrow.claim(payer, [ClaimRow(NEWS, total, total, b"")])

    def observe(self, payer: Payer) -> None:
        """The watcher reads the account, and ends a refund whose nonce has passed in a final block."""
        book, seen = self.books[payer], self.escrow.observe(payer)
        self.ledger.run(lambda draft, ledger, _moment: accounts.mirror(draft, ledger, seen))
        final, head = self.escrow.at_final(payer), self.escrow.at_head(payer)
        book.claimed = max(book.claimed, final.claimed.get(payer.channel_id(NEWS), 0))
        for total in [total for total in book.pending if total <= book.claimed]:
            book.confirmed += book.pending.pop(total)
        book.funds = max(0, final.deposited - head.returned)
        book.withdrawing, book.finalizes_at = head.withdraw_amount, head.withdrawable_at
        if book.refund is not None and final.refund_nonce > book.refund[1]:
            self.ledger.end_refund(payer, book.refund[0])
            book.refund = None


class TestWatermarks(WatermarkMachine.TestCase):
    settings = settings(max_examples=150, stateful_step_count=50)


@pytest.mark.full
class TestWatermarksLong(WatermarkMachine.TestCase):
    settings = settings(max_examples=5_000, stateful_step_count=100)
