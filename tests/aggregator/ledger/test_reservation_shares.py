"""A seller's share of what may be reserved: one that verifies and never settles blocks itself alone (threat 37)."""

import pytest
from doubles import MUSIC, NEWS, Payer, PureLedger, by_key, by_voucher, handle_of

from tallystick.reasons import Reason
from tallystick_aggregator.ledger.answers import Held, Refusal
from tallystick_aggregator.ledger.commands import Rules

ALICE, BOB = Payer("alice"), Payer("bob")
FUNDS = 100_000


def books_with(**limits: int) -> PureLedger:
    books = PureLedger(Rules(**limits))
    books.fund(ALICE, FUNDS, NEWS, MUSIC)
    books.fund(BOB, FUNDS, NEWS, MUSIC)
    return books


def told(answer: object) -> tuple[str, str, str]:
    assert isinstance(answer, Refusal), answer
    assert answer.reason is Reason.RESERVATION_LIMIT
    assert answer.reason.retry
    return answer.field, answer.got, answer.allowed


def test_a1_a_seller_that_never_settles_blocks_itself_alone() -> None:
    """A thousand tiny payments verified and never settled: the payer's other sellers notice nothing."""
    rules = Rules()
    books = books_with()
    held = [books.reserve(by_voucher(ALICE, number, 10, 10_000 + number)) for number in range(1_000)]
    assert sum(isinstance(answer, Held) for answer in held) == rules.reservations_per_channel_max
    most = rules.reservations_per_channel_max
    assert told(held[-1]) == ("reservations", str(most + 1), f"at most {most}")
    assert isinstance(books.reserve(by_voucher(ALICE, 2_000, 10, 10_000, receiver=MUSIC)), Held)
    assert isinstance(books.reserve(by_voucher(BOB, 2_000, 10, 10_000)), Held), "nor do the seller's other payers"


def test_a1_the_default_share_of_a_seller_is_a_small_part_of_the_accounts() -> None:
    rules = Rules()
    assert 10 * rules.reservations_per_channel_max <= rules.reservations_per_account_max
    assert rules.reservations_per_channel_max < rules.reservations_per_receiver_max


@pytest.mark.parametrize("by", ["voucher", "spend key"])
def test_a1_settling_releasing_and_expiry_give_the_share_back(by: str) -> None:
    books = books_with(reservations_per_channel_max=3)
    key = ALICE.spend_key()
    if by == "spend key":
        books.register(ALICE, key)
    payments = [
        by_voucher(ALICE, number, 1, 100 + number)
        if by == "voucher"
        else by_key(ALICE, key, number, 1, ceiling=100 + number)
        for number in range(8)
    ]
    for payment in payments[:3]:
        assert isinstance(books.reserve(payment), Held)
    told(books.reserve(payments[3]))
    books.capture(handle_of(payments[0]), 1)
    books.release(handle_of(payments[1]))
    books.expire(handle_of(payments[2]))
    for payment in payments[4:7]:
        assert isinstance(books.reserve(payment), Held)
    assert told(books.reserve(payments[7])) == ("reservations", "4", "at most 3")
    books.capture(handle_of(payments[2]), 1)  # a late capture gives back nothing twice
    told(books.reserve(payments[7]))


def test_a1_a_seller_is_limited_over_all_accounts_too() -> None:
    books = books_with(reservations_per_channel_max=2, reservations_per_receiver_max=3)
    assert isinstance(books.reserve(by_voucher(ALICE, 1, 1, 101)), Held)
    assert isinstance(books.reserve(by_voucher(ALICE, 2, 1, 102)), Held)
    assert isinstance(books.reserve(by_voucher(BOB, 3, 1, 103)), Held)
    assert told(books.reserve(by_voucher(BOB, 4, 1, 104))) == ("reservations", "4", "at most 3")
    assert isinstance(books.reserve(by_voucher(BOB, 5, 1, 105, receiver=MUSIC)), Held)


def test_a1_the_amount_that_a_seller_holds_can_be_limited_as_well() -> None:
    books = books_with(reserved_per_channel_max=100)
    assert isinstance(books.reserve(by_voucher(ALICE, 1, 60, 10_000)), Held)
    assert told(books.reserve(by_voucher(ALICE, 2, 41, 10_001))) == ("amount", "41", "at most 40")
    assert isinstance(books.reserve(by_voucher(ALICE, 3, 40, 10_002)), Held)
    assert isinstance(books.reserve(by_voucher(ALICE, 4, 100, 10_000, receiver=MUSIC)), Held)


def test_a1_what_is_open_is_counted_alike_by_whoever_replays_the_events() -> None:
    """`replayed` equals memory; `check_invariants` holds the counts against the reservations after each step."""
    books = books_with()
    payments = [by_voucher(ALICE, number, 1, 100 + number) for number in range(4)]
    for payment in payments:
        books.reserve(payment)
    books.capture(handle_of(payments[0]), 1)
    assert (
        books.replayed().open_reservations
        == books.ledger.open_reservations
        == {
            ALICE.channel_id(): 3,
            NEWS: 3,
        }
    )
    for payment in payments[1:]:
        books.release(handle_of(payment))
    assert books.ledger.open_reservations == {}
