"""Rule 2a: a voucher proves one charge, in any order with its neighbours; a stranger's or a copied one proves none."""

import random

import pytest
from doubles import MUSIC, NEWS, Payer, PureLedger, by_voucher, signature_of

from tallystick.reasons import Reason
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.batch import charge_all
from tallystick_aggregator.ledger.ceilings import NO_CEILING, USED_CEILINGS_KEPT, USED_CEILINGS_MAX
from tallystick_aggregator.ledger.commands import DecisionContext, VoucherProof
from tallystick_aggregator.ledger.draft import Draft


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


@pytest.fixture
def books(alice: Payer) -> PureLedger:
    books = PureLedger()
    books.fund(alice, 10**9, NEWS, MUSIC)
    return books


def test_a_voucher_pays_for_one_charge_only(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 10, 100))

    refused = books.charge(by_voucher(alice, 2, 10, 100))

    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.field, refused.got) == (Reason.VOUCHER_USED, "ceiling", "100")
    assert refused.totals is not None
    assert (refused.totals.ceiling, refused.totals.charged) == (100, 10)
    assert books.channel(alice).charged == 10


def test_a_voucher_that_made_a_reservation_is_used_too_even_after_its_release(books: PureLedger, alice: Payer) -> None:
    held = books.reserve(by_voucher(alice, 1, 10, 100))
    assert not isinstance(held, Refusal)
    books.release(next(iter(books.ledger.reservations)))

    refused = books.charge(by_voucher(alice, 2, 10, 100))

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.VOUCHER_USED


def test_the_voucher_of_a_refused_charge_is_still_unused(books: PureLedger, alice: Payer) -> None:
    assert isinstance(books.charge(by_voucher(alice, 1, 101, 100)), Refusal)
    assert isinstance(books.charge(by_voucher(alice, 2, 100, 100)), Accepted)


def test_a_lower_unused_voucher_proves_a_charge_and_lowers_nothing(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 10, 100))

    assert books.charge(by_voucher(alice, 2, 10, 50)) == Accepted(10, 20, replayed=False)
    assert books.channel(alice).ceiling == 100
    assert books.channel(alice).signature == signature_of(100), "the stored signature is the ceiling's (I5)"


def test_a_channel_of_the_same_account_has_its_own_used_vouchers(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 10, 100))

    assert isinstance(books.charge(by_voucher(alice, 2, 10, 100, receiver=MUSIC)), Accepted)


def test_a_voucher_of_zero_proves_a_charge_of_zero_once(books: PureLedger, alice: Payer) -> None:
    assert books.charge(by_voucher(alice, 1, 0, 0)) == Accepted(0, 0, replayed=False)

    refused = books.charge(by_voucher(alice, 2, 0, 0))

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.VOUCHER_USED


@pytest.mark.parametrize("in_flight", [2, 20, 24, USED_CEILINGS_KEPT])
@pytest.mark.parametrize("seed", range(5))
def test_requests_in_flight_in_any_order_all_succeed(
    books: PureLedger, alice: Payer, in_flight: int, seed: int
) -> None:
    """A client that has n requests in flight signs ceilings for all n before it knows of any answer."""
    payments = [by_voucher(alice, number, 7, 7 * in_flight + number) for number in range(in_flight)]
    random.Random(seed).shuffle(payments)

    assert all(isinstance(books.charge(payment), Accepted) for payment in payments)
    assert books.channel(alice).charged == 7 * in_flight


def test_the_memory_of_used_vouchers_is_bounded_and_forgets_to_the_safe_side(books: PureLedger, alice: Payer) -> None:
    count = 4 * USED_CEILINGS_MAX
    for number in range(count):
        assert isinstance(books.charge(by_voucher(alice, number, 1, 2 * (count + number))), Accepted)

    channel = books.channel(alice)
    assert USED_CEILINGS_KEPT <= len(channel.used) <= USED_CEILINGS_MAX
    assert channel.used.floor < 2 * (2 * count - USED_CEILINGS_KEPT), "at least so many of the newest are kept"

    for used in range(2 * count, 4 * count, 2):
        assert channel.has_used(used)
    below_floor = channel.used.floor - 1
    refused = books.charge(by_voucher(alice, count, 1, below_floor))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.VOUCHER_USED, "what was forgotten counts as used, so does all below it"
    assert books.charge(by_voucher(alice, count, 1, channel.used.floor + 1)) == Accepted(1, count + 1, replayed=False)


def test_nothing_counts_as_used_before_the_first_charge(books: PureLedger, alice: Payer) -> None:
    channel = books.channel(alice)

    assert channel.used.floor == NO_CEILING
    assert not channel.has_used(0)


def test_a_voucher_for_an_unknown_channel_opens_none(books: PureLedger) -> None:
    refused = books.charge(by_voucher(Payer("mallory"), 1, 10, 100))

    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.field) == (Reason.CHANNEL_UNKNOWN, "channel_id")
    assert Payer("mallory").channel_id() not in books.ledger.channels


@pytest.mark.parametrize("count", [1, 2])
def test_a_ceiling_that_nobody_verified_proves_nothing(books: PureLedger, alice: Payer, count: int) -> None:
    """The screening never lets one through; if it did, the same voucher could prove a second charge."""
    assert isinstance(books.charge(by_voucher(alice, 0, 1, 100)), Accepted)
    unverified = [by_voucher(alice, 1 + n, 1, 200 + n) for n in range(count)]
    payments = [payment._replace(proof=VoucherProof(200 + n, None)) for n, payment in enumerate(unverified)]
    draft = Draft(books.ledger)

    with pytest.raises(AssertionError, match="is verified"):
        charge_all(draft, payments, DecisionContext(books.now_ms), books.rules)
    assert not draft.events


def test_an_account_with_a_spend_key_takes_vouchers_as_proof_no_more(books: PureLedger, alice: Payer) -> None:
    """Its vouchers become public on chain, so a stranger may have copied them."""
    key = alice.spend_key()
    books.register(alice, key)
    books.revoke(alice, key)

    for refused in (books.charge(by_voucher(alice, 1, 10, 100)), books.reserve(by_voucher(alice, 2, 10, 101))):
        assert isinstance(refused, Refusal)
        assert refused.reason is Reason.SPEND_KEY_REQUIRED
    assert books.channel(alice).ceiling == 0
