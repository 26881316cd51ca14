"""A refund returns only what nobody else was promised, and counts from before it is signed until it is final
(threats 25 and 35)."""

import pytest
from doubles import ESCROW_REF, MUSIC, NEWS, NOW_S, Payer, PureLedger, by_voucher, handle_of, refund_id_of

from tallystick.reasons import Reason
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.events import RefundStarted
from tallystick_aggregator.ledger.state import PendingRefund


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


@pytest.fixture
def books(alice: Payer) -> PureLedger:
    books = PureLedger()
    books.fund(alice, 1_000, NEWS, MUSIC)
    return books


def refusal_of(answer: object) -> Refusal:
    assert isinstance(answer, Refusal)
    return answer


def test_a_refund_is_journaled_as_started_before_anybody_can_sign_it(books: PureLedger, alice: Payer) -> None:
    started = books.start_refund(alice, 400, number=7)

    assert started == RefundStarted(alice.account_id, refund_id_of(7), 7, 400)
    assert books.events[-1] == started
    assert books.account(alice).refund == PendingRefund(refund_id_of(7), 7, 400)
    assert (books.account(alice).refunding, books.account(alice).available) == (400, 600)


def test_a_refund_of_zero_asks_for_all_that_is_available(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 100, 5_000))
    books.reserve(by_voucher(alice, 2, 20, 5_000, receiver=MUSIC))
    books.mirror(alice, balance=1_000, withdrawing=3, finalizes_at=NOW_S + 80_000)

    started = books.start_refund(alice, 0)

    assert isinstance(started, RefundStarted)
    assert started.amount == 877
    assert refusal_of(books.charge(by_voucher(alice, 3, 1, 5_001))).reason is Reason.INSUFFICIENT_FUNDS


def test_nothing_that_is_promised_is_refunded(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 100, 5_000))
    books.reserve(by_voucher(alice, 2, 20, 5_000, receiver=MUSIC))

    refused = refusal_of(books.start_refund(alice, 881))

    assert (refused.reason, refused.allowed) == (Reason.REFUND_EXCEEDS_AVAILABLE, "at most 880")
    assert books.account(alice).refunding == 0
    assert isinstance(books.start_refund(alice, 880), RefundStarted)


@pytest.mark.parametrize("amount", [0, 1])
def test_an_empty_account_has_nothing_to_refund(books: PureLedger, alice: Payer, amount: int) -> None:
    books.mirror(alice, balance=0)

    assert refusal_of(books.start_refund(alice, amount)).reason is Reason.REFUND_EXCEEDS_AVAILABLE


def test_one_refund_at_a_time(books: PureLedger, alice: Payer) -> None:
    books.start_refund(alice, 100, number=1)

    assert refusal_of(books.start_refund(alice, 100, number=2)).reason is Reason.REFUND_PENDING
    books.end_refund(alice, number=1)
    assert isinstance(books.start_refund(alice, 100, number=2), RefundStarted)


def test_a_signed_refund_that_is_held_back_cannot_be_spent_again(books: PureLedger, alice: Payer) -> None:
    """Threat 35: the payer has the signature, does not use it; the money stays set aside until the nonce is final."""
    books.start_refund(alice, 1_000)

    assert refusal_of(books.charge(by_voucher(alice, 1, 1, 5_000))).reason is Reason.INSUFFICIENT_FUNDS
    books.end_refund(alice)
    assert isinstance(books.charge(by_voucher(alice, 1, 1, 5_000)), Accepted)


def test_a_refund_that_lands_is_never_counted_less_than_once(books: PureLedger, alice: Payer) -> None:
    """The balance falls at the head while the nonce is not final yet: for a while it counts twice, never not at all."""
    books.start_refund(alice, 400)
    books.mirror(alice, balance=600, final_balance=1_000)
    assert books.account(alice).available == 200

    books.end_refund(alice)
    assert books.account(alice).available == 600


def test_ending_another_refund_changes_nothing(books: PureLedger, alice: Payer) -> None:
    books.start_refund(alice, 400, number=1)
    books.end_refund(alice, number=2)

    assert books.account(alice).refunding == 400


def test_a_refund_ends_once(books: PureLedger, alice: Payer) -> None:
    books.start_refund(alice, 400)
    books.end_refund(alice)
    books.end_refund(alice)

    assert (books.account(alice).refunding, books.account(alice).refund) == (0, None)


def test_what_is_reserved_before_a_refund_is_captured_after_it(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 300, 5_000)
    books.reserve(payment)
    books.start_refund(alice, 700)

    assert isinstance(books.capture(handle_of(payment), 300), Accepted)


def test_no_refund_is_signed_on_a_stale_mirror(books: PureLedger, alice: Payer) -> None:
    books.stale_escrows = frozenset({ESCROW_REF})

    assert refusal_of(books.start_refund(alice, 1)).reason is Reason.CHAIN_STALE


def test_an_unknown_account_is_refunded_nothing(books: PureLedger) -> None:
    assert refusal_of(books.start_refund(Payer("mallory"), 1)).reason is Reason.ACCOUNT_UNKNOWN
