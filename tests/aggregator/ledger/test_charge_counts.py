"""Charge counts of `batch-settlement`: each charge in step is attested by one claim, and counted until it is final."""

import pytest
from doubles import NEWS, Payer, PureLedger, handle_of, in_step

from tallystick.charges import Charge
from tallystick_aggregator.ledger import accounts, decide
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Held
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Attested, Ledger

ALICE = Payer("alice")
CHANNEL_ID = ALICE.channel_id(NEWS)


@pytest.fixture
def books() -> PureLedger:
    books = PureLedger()
    books.fund(ALICE, 1_000)
    return books


def take(books: PureLedger, number: int, amount: int) -> None:
    """Charge one step."""
    ceiling = books.channel(ALICE).charged + amount
    payment = in_step(ALICE, number, amount, ceiling)
    assert isinstance(books.reserve(payment), Held)
    charge = Charge(payment.channel_id, payment.payment_id, amount, payment.request_hash, ceiling)
    answer = books.run(lambda draft, _, moment: decide.capture_in_step(draft, charge, amount, moment, books.rules))
    assert isinstance(answer, Accepted)


def attest(books: PureLedger, total: int, before: int) -> int:
    """Journal a claim as it is planned; returns what it attests."""
    charges = books.channel(ALICE).to_attest(before)
    books.run(lambda draft, _ledger, _moment: accounts.attest_charges(draft, CHANNEL_ID, total, before, charges))
    return charges


def claimed(books: PureLedger, total: int) -> None:
    books.run(lambda draft, _ledger, _moment: draft.record(ev.ChannelClaimed(CHANNEL_ID, total)))


def counts(books: PureLedger) -> tuple[int, tuple[tuple[int, int], ...]]:
    channel = books.channel(ALICE)
    return channel.charges, channel.attesting


def test_each_charge_counts_also_one_of_nothing_and_what_is_given_back_does_not(books: PureLedger) -> None:
    take(books, 1, 30)
    take(books, 2, 0)
    cancelled = in_step(ALICE, 3, 10, 40)
    books.reserve(cancelled)
    books.run(lambda draft, _ledger, _moment: decide.release(draft, handle_of(cancelled)))
    assert counts(books) == (2, ())
    assert books.channel(ALICE).charge_count == 2


def test_a_claim_that_is_confirmed_takes_off_what_it_attests_and_no_more(books: PureLedger) -> None:
    take(books, 1, 30)
    take(books, 2, 30)
    assert attest(books, 60, 0) == 2
    take(books, 3, 10)
    assert counts(books) == (1, (Attested(60, 2),))
    assert books.channel(ALICE).charge_count == 3, "what is not confirmed still counts"
    claimed(books, 60)
    assert counts(books) == (1, ())


def test_a_claim_that_follows_one_under_way_attests_only_what_is_new(books: PureLedger) -> None:
    take(books, 1, 30)
    assert attest(books, 30, 0) == 1
    take(books, 2, 30)
    assert attest(books, 60, 30) == 1
    claimed(books, 30)
    assert counts(books) == (0, (Attested(60, 1),))
    claimed(books, 60)
    assert books.channel(ALICE).charge_count == 0


def test_what_a_claim_attested_that_never_landed_is_attested_by_the_next(books: PureLedger) -> None:
    take(books, 1, 30)
    attest(books, 30, 0)
    take(books, 2, 30)
    assert attest(books, 60, 0) == 2
    assert counts(books) == (0, (Attested(60, 2),))


def test_the_halves_of_a_claim_that_would_revert_attest_alike(books: PureLedger) -> None:
    take(books, 1, 30)
    assert [attest(books, 30, 0) for _ in range(3)] == [1, 1, 1]
    assert counts(books) == (0, (Attested(30, 1),))


def test_a_claim_that_the_receiver_was_ahead_of_attests_nothing(books: PureLedger) -> None:
    take(books, 1, 30)
    claimed(books, 30)
    books.run(lambda draft, _ledger, _moment: accounts.attest_charges(draft, CHANNEL_ID, 30, 0, 1))
    assert counts(books) == (1, ())


def test_a_claim_never_attests_more_than_is_counted(books: PureLedger) -> None:
    take(books, 1, 30)
    books.run(lambda draft, _ledger, _moment: accounts.attest_charges(draft, CHANNEL_ID, 30, 0, 5))
    assert counts(books) == (0, (Attested(30, 1),))


def test_a_charge_of_another_scheme_is_not_counted(books: PureLedger) -> None:
    payment = in_step(ALICE, 1, 30, 30)
    books.reserve(payment)
    books.run(lambda draft, _, moment: decide.capture(draft, handle_of(payment), 30, moment, books.rules))
    assert counts(books) == (0, ())


def test_events_of_before_charges_were_counted_replay_without_a_count(books: PureLedger) -> None:
    take(books, 1, 30)
    ledger = Ledger()
    draft = Draft(ledger)
    draft.replay(ev.Captured(*event) if isinstance(event, ev.CapturedInStep) else event for event in books.events)
    draft.adopt()
    channel = ledger.known_channel(CHANNEL_ID)
    assert (channel.charged, channel.charge_count) == (30, 0)
