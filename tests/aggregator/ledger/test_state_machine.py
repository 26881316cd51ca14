"""Any history of payments, refunds, blocks and wrong answers keeps I1, I2, I4 and I11, and replays to the same ledger.

The observer below keeps books of its own, from the design and not from the ledger's code: who was charged what, which
vouchers were used, what the escrow holds. Every answer is judged by them: an acceptance must have been allowed, and a
refusal must have been for a reason that is true.

Alice pays by vouchers; so does Carol, whose receivers also claim by themselves, as the canonical escrow lets them; Bob
pays by spend keys.
"""

from dataclasses import dataclass

import pytest
from doubles import (
    DOMAIN,
    MUSIC,
    NEWS,
    NOW_MS,
    OTHER_PAGE,
    PAGE,
    Payer,
    PureLedger,
    by_key,
    by_voucher,
    handle_of,
    payment_id_of,
    refund_id_of,
)
from escrow_blocks import EscrowBlocks
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from tallystick.payment_ids import payment_id_ms
from tallystick.reasons import Reason
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.commands import ProvenPayment, Rules, SpendProof, VoucherProof
from tallystick_aggregator.ledger.invariants import short_accounts
from tallystick_aggregator.ledger.state import SpendKey, spend_key_name
from tallystick_contracts.claim_batch import ClaimRow

ALICE, BOB, CAROL = (Payer(name, DOMAIN) for name in ("alice", "bob", "carol"))
SELLERS = (NEWS, MUSIC)
RULES = Rules(reservations_per_account_max=4, exposure_per_account_max=300)
DEPOSIT = 400
LATE_REASONS = {
    Reason.SPEND_KEY_REVOKED,
    Reason.SPEND_KEY_EXPIRED,
    Reason.SPEND_KEY_EXHAUSTED,
    Reason.EXPOSURE_LIMIT,
}

payers = st.sampled_from((ALICE, BOB, CAROL))
voucher_payers = st.sampled_from((ALICE, CAROL))
sellers = st.sampled_from(SELLERS)
requests = st.sampled_from((PAGE, OTHER_PAGE))
amounts = st.integers(0, 90)
ceilings = st.integers(0, 350)
headrooms = st.one_of(st.none(), st.integers(-3, 60))
"""By how much a new voucher exceeds what the payment needs; None: any ceiling."""


@dataclass(slots=True)
class Known:
    """What the observer knows of a payment id that was accepted once."""

    payment: ProvenPayment
    status: str
    answer: Accepted | None = None


class Observer:
    """Books of its own, by (channel id, payment id), channel id and account id."""

    def __init__(self) -> None:
        self.payments: dict[tuple[bytes, bytes], Known] = {}
        self.used: set[tuple[bytes, int]] = set()
        self.ceilings: dict[bytes, int] = {}
        self.charged: dict[bytes, int] = {}
        self.claimed: dict[bytes, int] = {}
        self.funds: dict[bytes, int] = {}
        self.withdrawing: dict[bytes, tuple[int, int]] = {}
        self.refunds: dict[bytes, tuple[int, int, int]] = {}
        self.spent: dict[bytes, int] = {}

    def reserved(self, channel_id: bytes) -> int:
        """What open reservations of a channel hold."""
        return sum(
            known.payment.amount
            for (channel, _), known in self.payments.items()
            if channel == channel_id and known.status == "reserved"
        )

    def promised(self, payer: Payer) -> int:
        """The left side of I2, by the observer's books."""
        channels = [payer.channel_id(seller) for seller in SELLERS]
        committed = sum(
            max(self.charged.get(channel, 0), self.claimed.get(channel, 0)) + self.reserved(channel)
            for channel in channels
        )
        withdrawing, _ = self.withdrawing.get(payer.account_id, (0, 0))
        _, _, refunding = self.refunds.get(payer.account_id, (0, 0, 0))
        return committed + withdrawing + refunding

    def open_reservations(self, payer: Payer) -> int:
        """How many reservations of the account are open."""
        channels = {payer.channel_id(seller) for seller in SELLERS}
        return sum(known.status == "reserved" and key[0] in channels for key, known in self.payments.items())


class LedgerMachine(RuleBasedStateMachine):
    """Histories."""

    payments = Bundle("payments")

    def __init__(self) -> None:
        super().__init__()
        self.books = PureLedger(RULES)
        self.seen = Observer()
        self.escrow = EscrowBlocks()
        self.keys = [BOB.spend_key(0, cap=150), BOB.spend_key(1, cap=10**6, expires_at=NOW_MS // 1000 + 100_000)]
        self.refund_number = self.payment_number = 0
        self.by_channel = {payer.channel_id(seller): payer for payer in (ALICE, BOB, CAROL) for seller in SELLERS}

    @initialize()
    def open_accounts(self) -> None:
        for payer in (ALICE, BOB, CAROL):
            self.escrow.deposit(payer, DEPOSIT)
            self.books.fund(payer, 0, *SELLERS)
        self.escrow.mine(4)
        for key in self.keys:
            assert isinstance(self.books.register(BOB, key), SpendKey)
        self.observe_all()

    # Payments.

    @rule(
        target=payments,
        payer=voucher_payers,
        seller=sellers,
        amount=amounts,
        headroom=headrooms,
        ceiling=ceilings,
        request=requests,
        hold=st.booleans(),
    )
    def pay_by_voucher(
        self,
        payer: Payer,
        seller: bytes,
        amount: int,
        headroom: int | None,
        ceiling: int,
        request: bytes,
        *,
        hold: bool,
    ) -> ProvenPayment:
        if headroom is not None:
            ceiling = max(0, self.spoken_for(payer.channel_id(seller)) + amount + headroom)
        payment = by_voucher(
            payer, self.number(), amount, ceiling, receiver=seller, request=request, ms=self.books.now_ms
        )
        return self.pay(payment, hold=hold)

    @rule(
        target=payments,
        seller=sellers,
        amount=amounts,
        agreed_more=st.integers(-1, 20),
        headroom=headrooms,
        index=st.sampled_from((0, 0, 0, 1, 1, 1, 2)),
        hold=st.booleans(),
    )
    def pay_by_key(
        self, seller: bytes, amount: int, agreed_more: int, headroom: int | None, index: int, *, hold: bool
    ) -> ProvenPayment:
        key = self.keys[index] if index < 2 else BOB.spend_key(2)
        needed = self.spoken_for(BOB.channel_id(seller)) + amount
        payment = by_key(
            BOB,
            key,
            self.number(),
            amount,
            max_amount=max(0, amount + agreed_more),
            ceiling=0 if headroom is None else max(0, needed + headroom),
            receiver=seller,
            ms=self.books.now_ms,
        )
        return self.pay(payment, hold=hold)

    @rule(payment=payments, hold=st.booleans())
    def send_again(self, payment: ProvenPayment, *, hold: bool) -> None:
        self.pay(payment, hold=hold)

    @rule(payment=payments, amount=amounts, request=requests, hold=st.booleans())
    def use_the_id_again(self, payment: ProvenPayment, amount: int, request: bytes, *, hold: bool) -> None:
        """For another amount or request, with a proof that would do."""
        proof = payment.proof
        if isinstance(proof, SpendProof):
            proof = proof._replace(max_amount=max(amount, proof.max_amount))
        self.pay(payment._replace(amount=amount, request_hash=request, proof=proof), hold=hold)

    @rule(payment=payments, amount=amounts, hold=st.booleans())
    def copy_a_used_voucher(self, payment: ProvenPayment, amount: int, *, hold: bool) -> None:
        """A stranger has read it from the chain, and sends it with a payment id of its own."""
        if not isinstance(payment.proof, VoucherProof):
            return
        ms = self.books.now_ms
        copied = payment._replace(payment_id=payment_id_of(self.number(), ms), amount=amount)
        was_used = (payment.channel_id, payment.proof.ceiling) in self.seen.used
        answer = (self.books.reserve if hold else self.books.charge)(copied)
        self.judge(copied, answer)
        assert not was_used or isinstance(answer, Refusal)

    @rule(payment=payments, amount=st.one_of(st.none(), amounts))
    def capture(self, payment: ProvenPayment, amount: int | None) -> None:
        amount = payment.amount if amount is None else amount
        known = self.held(payment)
        answer = self.books.capture(handle_of(payment), amount)
        if known is None:
            assert isinstance(answer, Refusal)
            assert answer.reason is Reason.RESERVATION_UNKNOWN
        elif known.status in {"reserved", "expired"}:
            self.judge_capture(known, amount, answer)
        elif known.status == "released":
            assert isinstance(answer, Refusal)
            assert answer.reason is Reason.RESERVATION_RELEASED
        else:
            assert known.answer is not None
            if amount == known.answer.amount:
                assert answer == known.answer._replace(replayed=True)
            else:
                assert isinstance(answer, Refusal)

    @rule(payment=payments)
    def release(self, payment: ProvenPayment) -> None:
        known = self.held(payment)
        answer = self.books.release(handle_of(payment))
        if known is None or known.status == "charged":
            assert isinstance(answer, Refusal)
            return
        assert answer == Done(replayed=known.status == "released")
        self.give_back(known, "released")

    @rule(payment=payments)
    def let_expire(self, payment: ProvenPayment) -> None:
        known = self.held(payment)
        if known is not None and known.status in {"reserved", "expired"}:
            self.books.expire(handle_of(payment))
            self.give_back(known, "expired")

    # Spend keys.

    @rule(index=st.integers(0, 1))
    @precondition(lambda self: self.seen.spent)
    def revoke(self, index: int) -> None:
        assert isinstance(self.books.revoke(BOB, self.keys[index]), SpendKey)

    # The chain.

    @rule(payer=payers, amount=st.integers(1, 200))
    def deposit(self, payer: Payer, amount: int) -> None:
        self.escrow.deposit(payer, amount)

    @rule(payer=payers, amount=st.integers(1, 500), by_payer=st.booleans())
    def initiate_withdraw(self, payer: Payer, amount: int, by_payer: bool) -> None:
        self.escrow.initiate_withdraw(payer, amount, self.now_s, by_payer=by_payer)

    @rule(payer=payers)
    def cancel_withdraw(self, payer: Payer) -> None:
        self.escrow.cancel_withdraw(payer)

    @rule(payer=payers)
    def finalize_withdraw(self, payer: Payer) -> None:
        """The watcher has seen it coming: reservations are long over, and what was charged is claimed first (I9)."""
        self.observe(payer)
        for handle, reservation in list(self.books.ledger.reservations.items()):
            if self.by_channel[reservation.channel_id] is payer and reservation.expires_at:
                self.let_expire(self.seen.payments[handle[16:48], handle[:16]].payment)
        self.claim(payer)
        self.escrow.finalize_withdraw(payer, self.now_s)
        self.observe(payer)

    @rule(payer=payers)
    def claim(self, payer: Payer) -> None:
        """I6: what was charged, never the ceiling."""
        rows = [claim_row(channel.receiver, channel.charged) for channel in self.channels(payer)]
        self.escrow.claim(payer, rows)

    @rule(seller=sellers, share=st.integers(0, 4))
    def claim_by_oneself(self, seller: bytes, share: int) -> None:
        """A receiver on the canonical escrow claims up to the highest voucher that it holds."""
        channel = self.books.channel(CAROL, seller)
        total = channel.charged + (max(0, channel.ceiling - channel.charged)) * share // 4
        self.escrow.claim(CAROL, [claim_row(seller, total)])

    @rule(payer=payers, amount=st.integers(0, 300))
    def start_refund(self, payer: Payer, amount: int) -> None:
        available = self.seen.funds[payer.account_id] - self.seen.promised(payer)
        nonce = self.escrow.at_head(payer).refund_nonce
        self.refund_number += 1
        number = self.refund_number
        answer = self.books.run(
            lambda draft, _ledger, moment: accounts.start_refund(
                draft, payer.account_id, refund_id_of(number), nonce, amount, moment
            )
        )
        if isinstance(answer, Refusal):
            pending = payer.account_id in self.seen.refunds
            assert answer.reason is (Reason.REFUND_PENDING if pending else Reason.REFUND_EXCEEDS_AVAILABLE)
            assert pending or (amount or available) > available or available <= 0
        else:
            assert payer.account_id not in self.seen.refunds
            assert 0 < answer.amount <= available, "I2: a refund takes only what nobody was promised"
            self.seen.refunds[payer.account_id] = (number, nonce, answer.amount)

    @rule(payer=payers)
    def land_refund(self, payer: Payer) -> None:
        if payer.account_id in self.seen.refunds:
            _, nonce, amount = self.seen.refunds[payer.account_id]
            self.escrow.refund(payer, nonce, amount)

    @rule(count=st.integers(1, 4))
    def mine(self, count: int) -> None:
        self.escrow.mine(count)

    @rule(depth=st.integers(1, 3))
    def reorg(self, depth: int) -> None:
        self.escrow.reorg(depth)

    @rule()
    def observe_all(self) -> None:
        for payer in (ALICE, BOB, CAROL):
            self.observe(payer)

    @rule(payer=payers, by=st.integers(-500, 300), confirmed=st.booleans())
    def hear_a_wrong_answer(self, payer: Payer, by: int, *, confirmed: bool) -> None:
        """An endpoint says that the account holds another amount. More is never credited: either nobody confirms it, or
        no deposit explains it. Less counts at once, until the next look; what is committed may be more than that (I11).
        """
        account_id, truth = payer.account_id, self.escrow.observe(payer)
        final, head = (at._replace(balance=max(0, at.balance + by)) for at in (truth.final, truth.head))
        explained = truth.final.balance + sum(truth.final.claimed.values())
        told = truth._replace(final=final, head=head, confirmed=confirmed, explained=explained)
        read = max(0, min(*(at.balance + sum(at.claimed.values()) - left for at, left in (
            (final, truth.left_since_final), (head, 0)
        ))))  # fmt: skip
        self.books.run(lambda draft, ledger, _moment: accounts.mirror(draft, ledger, told))
        if not confirmed or final.balance + sum(final.claimed.values()) > explained:
            read = min(read, self.seen.funds[account_id])
        self.seen.funds[account_id] = read
        self.seen.withdrawing[account_id] = (truth.withdrawing, truth.withdraw_finalizes_at)
        for channel_id, claimed in final.claimed.items() if confirmed else ():
            self.seen.claimed[channel_id] = max(claimed, self.seen.claimed.get(channel_id, 0))

    # Time.

    @rule(seconds=st.sampled_from((1, 1_000, 40_000, 86_400)))
    def pass_time(self, seconds: int) -> None:
        self.books.now_ms += seconds * 1000

    @rule(payment=payments, later_ms=st.integers(0, 1))
    def forget_payments(self, payment: ProvenPayment, later_ms: int) -> None:
        self.books.now_ms += 1
        before_ms = payment_id_ms(payment.payment_id) + later_ms
        self.books.forget_payments(max(before_ms, self.books.ledger.payments_forgotten_ms))

    # What must hold after every step (PureLedger has called check_invariants).

    @invariant()
    def replay_makes_the_same_ledger(self) -> None:
        assert self.books.replayed() == self.books.ledger

    @invariant()
    def totals_are_the_observers(self) -> None:
        for channel_id, payer in self.by_channel.items():
            channel = self.books.ledger.channels.get(channel_id)
            if channel is None:
                continue
            assert channel.charged == max(self.seen.charged.get(channel_id, 0), self.seen.claimed.get(channel_id, 0))
            assert channel.reserved == self.seen.reserved(channel_id)
            assert channel.ceiling == self.seen.ceilings.get(channel_id, 0)
            if payer is not CAROL:
                assert channel.charged + channel.reserved <= channel.ceiling, "I1"
        for name, spent in self.seen.spent.items():
            assert self.books.ledger.spend_keys[name].spent == spent <= self.books.ledger.spend_keys[name].cap

    @invariant()
    def funds_are_the_observers_and_what_is_short_is_told(self) -> None:
        short = short_accounts(self.books.ledger, self.books.ledger.accounts)
        for payer in (ALICE, BOB, CAROL):
            if payer.account_id not in self.seen.funds:
                continue
            assert self.books.account(payer).funds == self.seen.funds[payer.account_id]
            figures = (self.committed(payer), self.seen.funds[payer.account_id])
            assert short.get(payer.account_id) == (figures if self.is_short(payer) else None), "I11"

    @invariant()
    def the_escrow_can_pay_all_that_was_charged(self) -> None:
        for payer in (ALICE, BOB):
            account = self.escrow.at_head(payer)
            owed = sum(self.seen.charged.get(payer.channel_id(seller), 0) for seller in SELLERS)
            assert account.balance + sum(account.claimed.values()) >= owed

    # The observer at work.

    @property
    def now_s(self) -> int:
        return self.books.now_ms // 1000

    def channels(self, payer: Payer) -> list[accounts.Channel]:
        return list(self.books.ledger.channels_of(payer.account_id))

    def held(self, payment: ProvenPayment) -> Known | None:
        """The reservation of this payment, if there ever was one and it was not pruned since."""
        known = self.seen.payments.get((payment.channel_id, payment.payment_id))
        if known is None or known.status == "charged at once":
            return None
        if known.status == "expired" and handle_of(payment) not in self.books.ledger.reservations:
            assert payment_id_ms(payment.payment_id) < self.books.ledger.payments_forgotten_ms
            return None
        return known

    def pay(self, payment: ProvenPayment, *, hold: bool) -> ProvenPayment:
        answer = (self.books.reserve if hold else self.books.charge)(payment)
        self.judge(payment, answer)
        return payment

    def number(self) -> int:
        """A number that no payment had."""
        self.payment_number += 1
        return self.payment_number

    def judge(self, payment: ProvenPayment, answer: Accepted | Held | Refusal) -> None:
        known = self.seen.payments.get((payment.channel_id, payment.payment_id))
        if known is not None:
            self.judge_repeated(known, payment, answer)
        elif isinstance(answer, Refusal):
            assert self.is_true(payment, answer), answer
        else:
            assert not answer.replayed
            self.take_note(payment, answer)

    def judge_repeated(self, known: Known, payment: ProvenPayment, answer: Accepted | Held | Refusal) -> None:
        """I4: the first answer again, or a refusal; never a second charge."""
        assert not isinstance(answer, Accepted | Held) or answer.replayed
        same = (payment.amount, payment.request_hash) == (known.payment.amount, known.payment.request_hash)
        if isinstance(answer, Accepted):
            assert known.answer is not None
            assert answer == known.answer._replace(replayed=True)
            assert payment.request_hash == known.payment.request_hash
            assert payment.amount in (known.payment.amount, known.answer.amount)
        elif isinstance(answer, Held):
            assert same
            assert answer.handle == b""
            assert known.status in {"reserved", "expired"}
        else:
            assert answer.reason in {Reason.PAYMENT_ID_REUSED, Reason.RESERVATION_RELEASED}
            assert not (same and known.status in {"charged", "charged at once"})

    def take_note(self, payment: ProvenPayment, answer: Accepted | Held) -> None:
        """An acceptance: it must have been allowed by the books as they were."""
        channel, payer = payment.channel_id, self.by_channel[payment.channel_id]
        ceiling = self.seen.ceilings.get(channel, 0)
        if isinstance(payment.proof, VoucherProof):
            offered = payment.proof.ceiling
            assert (channel, offered) not in self.seen.used, "each voucher proves one charge"
            self.seen.used.add((channel, offered))
        else:
            offered = payment.proof.raised.max_claimable_amount if payment.proof.raised else 0
            assert payment.amount <= payment.proof.max_amount
            self.spend(payer, payment.proof.key_id, payment.amount)
        self.seen.ceilings[channel] = max(ceiling, offered)
        assert not self.is_short(payer), "I11"
        assert self.spoken_for(channel) + payment.amount <= self.seen.ceilings[channel], "I1"
        assert self.seen.promised(payer) + payment.amount <= self.seen.funds[payer.account_id], "I2"
        if isinstance(answer, Held):
            self.seen.payments[channel, payment.payment_id] = Known(payment, "reserved")
        else:
            self.add_charge(channel, payment.amount)
            assert answer.charged == self.seen.charged[channel]
            self.seen.payments[channel, payment.payment_id] = Known(payment, "charged at once", answer)

    def judge_capture(self, known: Known, amount: int, answer: Accepted | Refusal) -> None:
        payment, channel = known.payment, known.payment.channel_id
        payer = self.by_channel[channel]
        held = payment.amount if known.status == "reserved" else 0
        room = self.seen.ceilings.get(channel, 0) - self.spoken_for(channel) + held
        free = self.seen.funds[payer.account_id] - self.seen.promised(payer) + held
        if isinstance(answer, Refusal):
            if answer.reason is Reason.AMOUNT_ABOVE_AGREED:
                assert amount > payment.amount
            elif answer.reason is Reason.INSUFFICIENT_CEILING:
                assert amount > room
                assert known.status == "expired" or payer is CAROL, "what is held on our escrow has its room"
            elif answer.reason is Reason.ACCOUNT_SHORT:
                assert self.is_short(payer)
            elif answer.reason is Reason.INSUFFICIENT_FUNDS:
                assert (known.status, amount > free) == ("expired", True)
            else:
                # A late capture needs a key that lives and has room, and room for what awaits settlement; what is held
                # in time has all that.
                assert known.status == "expired"
                assert answer.reason in LATE_REASONS
                assert self.is_true(payment._replace(amount=amount), answer), "the reason is true"
            return
        assert not self.is_short(payer), "I11"
        assert amount <= payment.amount
        assert amount <= room, "I1"
        assert known.status == "reserved" or amount <= free, "I2"
        self.give_back(known, "charged")
        if isinstance(payment.proof, SpendProof):
            self.spend(payer, payment.proof.key_id, amount)
        self.add_charge(channel, amount)
        assert answer == Accepted(amount, self.seen.charged[channel], replayed=False)
        known.answer = answer

    def is_true(self, payment: ProvenPayment, refusal: Refusal) -> bool:
        """Whether the reason of a refusal holds by the observer's books."""
        channel, amount, proof = payment.channel_id, payment.amount, payment.proof
        payer = self.by_channel[channel]
        withdrawing, finalizes_at = self.seen.withdrawing[payer.account_id]
        raised = proof.raised
        offered = raised.max_claimable_amount if raised is not None else 0
        key = None
        if isinstance(proof, SpendProof):
            key = self.books.ledger.spend_keys.get(spend_key_name(payer.account_id, proof.key_id))
        match refusal.reason:
            case Reason.PAYMENT_ID_EXPIRED:
                oldest_ms = self.books.now_ms - RULES.payment_id_retention_s * 1000
                return payment_id_ms(payment.payment_id) < max(oldest_ms, self.books.ledger.payments_forgotten_ms)
            case Reason.VOUCHER_USED:
                return (channel, offered) in self.seen.used
            case Reason.INSUFFICIENT_CEILING:
                return self.spoken_for(channel) + amount > max(self.seen.ceilings.get(channel, 0), offered)
            case Reason.INSUFFICIENT_FUNDS:
                return self.seen.promised(payer) + amount > self.seen.funds[payer.account_id]
            case Reason.ACCOUNT_SHORT:
                return self.is_short(payer)
            case Reason.WITHDRAWING:
                return bool(finalizes_at) and self.now_s + RULES.withdraw_margin_s >= finalizes_at
            case Reason.EXPOSURE_LIMIT:
                return self.seen.promised(payer) - withdrawing + amount > RULES.exposure_per_account_max
            case Reason.RESERVATION_LIMIT:
                return self.seen.open_reservations(payer) >= RULES.reservations_per_account_max
            case Reason.SPEND_KEY_UNKNOWN:
                return key is None
            case Reason.SPEND_KEY_REVOKED:
                return key is not None and key.revoked
            case Reason.SPEND_KEY_EXPIRED:
                return key is not None and self.now_s >= key.expires_at
            case Reason.AMOUNT_ABOVE_AGREED:
                return isinstance(proof, SpendProof) and amount > proof.max_amount
            case Reason.SPEND_KEY_EXHAUSTED:
                return key is not None and self.seen.spent.get(self.key_name(payer, key.key_id), 0) + amount > key.cap
            case _:
                return False

    def spoken_for(self, channel: bytes) -> int:
        charged = max(self.seen.charged.get(channel, 0), self.seen.claimed.get(channel, 0))
        return charged + self.seen.reserved(channel)

    def committed(self, payer: Payer) -> int:
        return sum(self.spoken_for(payer.channel_id(seller)) for seller in SELLERS)

    def is_short(self, payer: Payer) -> bool:
        """I11 by the observer's books: something awaits its claim, and the chain has less than is committed."""
        claimed = sum(self.seen.claimed.get(payer.channel_id(seller), 0) for seller in SELLERS)
        return self.committed(payer) > max(claimed, self.seen.funds[payer.account_id])

    def add_charge(self, channel: bytes, amount: int) -> None:
        charged = max(self.seen.charged.get(channel, 0), self.seen.claimed.get(channel, 0))
        self.seen.charged[channel] = charged + amount

    def key_name(self, payer: Payer, key_id: bytes) -> bytes:
        return spend_key_name(payer.account_id, key_id)

    def spend(self, payer: Payer, key_id: bytes, amount: int) -> None:
        name = self.key_name(payer, key_id)
        self.seen.spent[name] = self.seen.spent.get(name, 0) + amount

    def give_back(self, known: Known, status: str) -> None:
        """A reservation ends: what it held of the spend key is free again."""
        if known.status == "reserved" and isinstance(known.payment.proof, SpendProof):
            payer = self.by_channel[known.payment.channel_id]
            self.spend(payer, known.payment.proof.key_id, -known.payment.amount)
        known.status = status

    def observe(self, payer: Payer) -> None:
        """The watcher reads the account, and ends a refund whose nonce has passed in a final block."""
        account_id = payer.account_id
        alarms = self.books.run(
            lambda draft, ledger, _moment: accounts.mirror(draft, ledger, self.escrow.observe(payer))
        )
        final, head = self.escrow.at_final(payer), self.escrow.at_head(payer)
        assert payer is CAROL or not alarms, "nobody else claims more than was charged"
        for channel_id, claimed in final.claimed.items():
            self.seen.claimed[channel_id] = max(claimed, self.seen.claimed.get(channel_id, 0))
        self.seen.funds[account_id] = max(0, final.deposited - head.returned)
        self.seen.withdrawing[account_id] = (head.withdraw_amount, head.withdrawable_at)
        if account_id in self.seen.refunds:
            number, nonce, _ = self.seen.refunds[account_id]
            if final.refund_nonce > nonce:
                self.books.end_refund(payer, number)
                del self.seen.refunds[account_id]
        assert self.books.account(payer).funds == self.seen.funds[account_id]


def claim_row(receiver: bytes, total: int) -> ClaimRow:
    """A claim up to this total; whose signature allows it does not matter here."""
    return ClaimRow(receiver, total, total, b"")


class TestLedger(LedgerMachine.TestCase):
    settings = settings(max_examples=150, stateful_step_count=50)


@pytest.mark.full
class TestLedgerLong(LedgerMachine.TestCase):
    settings = settings(max_examples=5_000, stateful_step_count=100)
