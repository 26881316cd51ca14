"""What sellers would lose to an empty escrow is bounded, per account and per seller, and counted right."""

import pytest
from doubles import MUSIC, NEWS, Payer, PureLedger, by_voucher, handle_of

from tallystick.reasons import Reason
from tallystick_aggregator.ledger.answers import Accepted, Held, Refusal
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.state import exposure_key


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


def books_of(alice: Payer, rules: Rules) -> PureLedger:
    books = PureLedger(rules)
    books.fund(alice, 10_000, NEWS, MUSIC)
    return books


def test_an_account_may_owe_up_to_its_limit_over_all_sellers(alice: Payer) -> None:
    books = books_of(alice, Rules(exposure_per_account_max=100))
    books.charge(by_voucher(alice, 1, 60, 1_000))
    assert isinstance(books.reserve(by_voucher(alice, 2, 30, 1_000, receiver=MUSIC)), Held)

    refused = books.charge(by_voucher(alice, 3, 11, 1_001))

    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.allowed) == (Reason.EXPOSURE_LIMIT, "at most 10")
    assert isinstance(books.charge(by_voucher(alice, 4, 10, 1_001)), Accepted)


def test_a_seller_may_be_owed_up_to_its_limit_by_all_payers(alice: Payer) -> None:
    books = books_of(alice, Rules(exposure_per_receiver_max=100))
    bob = Payer("bob")
    books.fund(bob, 10_000)
    books.charge(by_voucher(alice, 1, 60, 1_000))

    refused = books.charge(by_voucher(bob, 2, 41, 1_000))

    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.allowed) == (Reason.EXPOSURE_LIMIT, "at most 40")
    assert isinstance(books.charge(by_voucher(bob, 3, 40, 1_000)), Accepted)
    assert isinstance(books.charge(by_voucher(alice, 4, 100, 1_000, receiver=MUSIC)), Accepted)


def test_a_settlement_makes_room_again(alice: Payer) -> None:
    books = books_of(alice, Rules(exposure_per_account_max=100, exposure_per_receiver_max=100))
    books.charge(by_voucher(alice, 1, 100, 1_000))
    assert isinstance(books.charge(by_voucher(alice, 2, 1, 1_001)), Refusal)
    books.mirror(alice, balance=9_900, claimed={alice.channel_id(): 100})

    assert books.account(alice).exposure == 0
    assert isinstance(books.charge(by_voucher(alice, 2, 100, 1_001)), Accepted)


def test_no_limit_is_set_by_zero(alice: Payer) -> None:
    books = books_of(alice, Rules())

    assert isinstance(books.charge(by_voucher(alice, 1, 10_000, 10_000)), Accepted)


def test_reservations_count_against_a_sellers_limit_and_what_is_given_back_does_not(alice: Payer) -> None:
    books = books_of(alice, Rules(exposure_per_receiver_max=100))
    held = by_voucher(alice, 1, 60, 1_000)
    assert isinstance(books.reserve(held), Held)
    refused = books.reserve(by_voucher(alice, 2, 41, 1_001))
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.allowed) == (Reason.EXPOSURE_LIMIT, "at most 40")

    books.capture(handle_of(held), 50)

    assert isinstance(books.reserve(by_voucher(alice, 2, 50, 1_001)), Held)


@pytest.mark.parametrize("limit", ["exposure_per_account_max", "exposure_per_receiver_max"])
def test_a_late_capture_keeps_to_the_limits(alice: Payer, limit: str) -> None:
    books = books_of(alice, Rules(**{limit: 100}))
    held = by_voucher(alice, 1, 60, 1_000)
    books.reserve(held)
    books.expire(handle_of(held))
    books.charge(by_voucher(alice, 2, 50, 1_001))

    refused = books.capture(handle_of(held), 51)

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.EXPOSURE_LIMIT
    assert isinstance(books.capture(handle_of(held), 50), Accepted)


def test_exposure_counts_charges_less_claims_and_a_sellers_reservations_too(alice: Payer) -> None:
    books = books_of(alice, Rules())
    key = exposure_key(NEWS, alice.config.token)
    held = by_voucher(alice, 2, 30, 1_001)
    books.charge(by_voucher(alice, 1, 60, 1_000))
    books.reserve(held)
    assert (books.account(alice).exposure, books.ledger.receiver_exposure[key]) == (60, 90)

    books.capture(handle_of(held), 20)
    books.mirror(alice, balance=9_950, claimed={alice.channel_id(): 50})

    assert (books.account(alice).exposure, books.ledger.receiver_exposure[key]) == (30, 30)
