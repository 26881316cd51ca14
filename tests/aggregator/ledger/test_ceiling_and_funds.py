"""Rules 3 and 4: never above the ceiling (I1), never above the account's funds over all its channels (I2), never when
a withdrawal is near or the mirror is stale (I9)."""

import pytest
from doubles import (
    ESCROW_REF,
    MUSIC,
    NEWS,
    NOW_S,
    Payer,
    PureLedger,
    by_key,
    by_voucher,
    handle_of,
    signature_of,
)

from tallystick.reasons import Reason
from tallystick_aggregator.ledger import decide
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, Rules
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.invariants import short_accounts
from tallystick_aggregator.ledger.state import Ledger

MARGIN_S = Rules().withdraw_margin_s


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


# Rule 3, I1.


def test_a_charge_may_reach_the_ceiling_and_not_pass_it(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 60, 100))

    refused = refusal_of(books.charge(by_voucher(alice, 2, 41, 99)))

    assert (refused.reason, refused.got, refused.allowed) == (Reason.INSUFFICIENT_CEILING, "100", "at least 101")
    assert books.charge(by_voucher(alice, 3, 40, 99)) == Accepted(40, 100, replayed=False)


def test_the_refusal_tells_the_totals_that_the_payer_needs_to_sign_higher(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 60, 100))
    books.reserve(by_voucher(alice, 2, 30, 101))

    totals = refusal_of(books.charge(by_voucher(alice, 3, 20, 102))).totals

    assert totals is not None
    assert (totals.channel_id, totals.receiver) == (alice.channel_id(), NEWS)
    assert (totals.ceiling, totals.charged, totals.reserved, totals.claimed) == (101, 60, 30, 0)


def test_what_is_reserved_counts_against_the_ceiling(books: PureLedger, alice: Payer) -> None:
    books.reserve(by_voucher(alice, 1, 60, 100))

    assert refusal_of(books.charge(by_voucher(alice, 2, 41, 99))).reason is Reason.INSUFFICIENT_CEILING
    assert isinstance(books.charge(by_voucher(alice, 3, 40, 99)), Accepted)


def test_a_refused_charge_raises_no_ceiling(books: PureLedger, alice: Payer) -> None:
    """A ceiling goes up with a charge that uses it, not before."""
    refusal_of(books.charge(by_voucher(alice, 1, 1_001, 5_000)))

    assert books.channel(alice).ceiling == 0
    assert books.channel(alice).signature == b""


def test_the_ceiling_is_the_highest_verified(books: PureLedger, alice: Payer) -> None:
    for number, ceiling in enumerate([100, 300, 200]):
        books.charge(by_voucher(alice, number, 1, ceiling))

    assert (books.channel(alice).ceiling, books.channel(alice).signature) == (300, signature_of(300))


def test_a_voucher_that_comes_with_a_spend_proof_raises_the_ceiling(books: PureLedger, alice: Payer) -> None:
    key = alice.spend_key()
    books.register(alice, key)

    refusal_of(books.charge(by_key(alice, key, 1, 10)))
    assert isinstance(books.charge(by_key(alice, key, 2, 10, ceiling=10)), Accepted)
    refusal_of(books.charge(by_key(alice, key, 3, 10, ceiling=5)))
    assert books.channel(alice).ceiling == 10


# Rule 4, I2 (threat 2).


def test_one_deposit_is_not_promised_to_two_sellers(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 700, 5_000))

    refused = refusal_of(books.charge(by_voucher(alice, 2, 301, 5_000, receiver=MUSIC)))

    assert (refused.reason, refused.allowed) == (Reason.INSUFFICIENT_FUNDS, "at most 300")
    assert isinstance(books.charge(by_voucher(alice, 3, 300, 5_000, receiver=MUSIC)), Accepted)
    assert refusal_of(books.charge(by_voucher(alice, 4, 1, 5_001))).reason is Reason.INSUFFICIENT_FUNDS


def test_charges_of_one_draft_see_each_other(books: PureLedger, alice: Payer) -> None:
    """A batch is decided in one draft: I2 holds inside of it, and each charge tells its own total."""
    payments = [by_voucher(alice, number, 300, 5_000 + number) for number in range(5)]

    def decision(draft: Draft, _ledger: Ledger, moment: DecisionContext) -> list[Accepted | Refusal]:
        return [decide.charge(draft, payment, moment, books.rules) for payment in payments]

    answers = books.run(decision)

    assert answers[:3] == [Accepted(300, total, replayed=False) for total in (300, 600, 900)]
    assert [refusal_of(answer).reason for answer in answers[3:]] == [Reason.INSUFFICIENT_FUNDS] * 2
    assert [books.charge(payment) for payment in payments[:3]] == [
        answer._replace(replayed=True) for answer in answers[:3] if isinstance(answer, Accepted)
    ]


@pytest.mark.parametrize("what", ["reserved", "withdrawing", "refunding"])
def test_money_that_is_spoken_for_cannot_be_charged(books: PureLedger, alice: Payer, what: str) -> None:
    if what == "reserved":
        assert isinstance(books.reserve(by_voucher(alice, 1, 400, 5_000, receiver=MUSIC)), Held)
    elif what == "withdrawing":
        books.mirror(alice, balance=1_000, withdrawing=400, finalizes_at=NOW_S + 80_000)
    else:
        books.start_refund(alice, 400)

    assert refusal_of(books.charge(by_voucher(alice, 2, 601, 5_000))).reason is Reason.INSUFFICIENT_FUNDS
    assert isinstance(books.charge(by_voucher(alice, 3, 600, 5_000)), Accepted)


def test_a_claim_frees_nothing(books: PureLedger, alice: Payer) -> None:
    """Claims change neither side of I2."""
    books.charge(by_voucher(alice, 1, 700, 5_000))
    books.mirror(alice, balance=300, claimed={alice.channel_id(): 700})

    assert books.account(alice).funds == 1_000
    assert refusal_of(books.charge(by_voucher(alice, 2, 301, 5_001))).reason is Reason.INSUFFICIENT_FUNDS
    assert isinstance(books.charge(by_voucher(alice, 3, 300, 5_001)), Accepted)


def test_an_account_without_a_deposit_pays_nothing(alice: Payer) -> None:
    books = PureLedger()
    books.fund(alice, 0)

    assert refusal_of(books.charge(by_voucher(alice, 1, 1, 10))).reason is Reason.INSUFFICIENT_FUNDS


def test_a_top_up_lets_the_refused_payment_through(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 1_500, 5_000)
    assert refusal_of(books.charge(payment)).reason.retry
    books.mirror(alice, balance=1_500)

    assert books.charge(payment) == Accepted(1_500, 1_500, replayed=False)


def test_funds_that_shrank_below_what_is_promised_stop_everything_and_break_nothing(
    books: PureLedger, alice: Payer
) -> None:
    """A reorg may take a deposit back: what was accepted stands, nothing new is."""
    books.charge(by_voucher(alice, 1, 700, 5_000))
    books.mirror(alice, balance=100)

    refused = refusal_of(books.charge(by_voucher(alice, 2, 1, 5_001)))

    assert (refused.reason, refused.got, refused.allowed) == (Reason.ACCOUNT_SHORT, "700", "at most 100")
    assert books.channel(alice).charged == 700


# I11.


def test_r8_an_account_that_is_short_takes_neither_charges_nor_captures_until_it_is_not(
    books: PureLedger, alice: Payer
) -> None:
    held, small = by_voucher(alice, 1, 600, 5_000), by_voucher(alice, 2, 30, 4_999)
    books.reserve(held)
    books.reserve(small)
    books.mirror(alice, balance=629)
    account = books.account(alice)
    assert short_accounts(books.ledger, [account.id]) == {account.id: (630, 629)}

    for refused in (
        books.capture(handle_of(held), 600),
        books.charge(by_voucher(alice, 3, 0, 5_001)),
        books.reserve(by_voucher(alice, 4, 1, 5_002)),
    ):
        assert (refusal_of(refused).reason, refusal_of(refused).reason.retry) == (Reason.ACCOUNT_SHORT, True)
        assert (refusal_of(refused).got, refusal_of(refused).allowed) == ("630", "at most 629")

    assert isinstance(books.release(handle_of(small)), Done), "what is given back may make it whole"
    assert short_accounts(books.ledger, [account.id]) == {}
    assert isinstance(books.capture(handle_of(held), 600), Accepted)


def test_r8_a_late_capture_of_an_account_that_is_short_is_refused(books: PureLedger, alice: Payer) -> None:
    held, charged = by_voucher(alice, 1, 100, 5_000), by_voucher(alice, 2, 500, 4_999)
    books.reserve(held)
    books.charge(charged)
    books.expire(handle_of(held))
    books.mirror(alice, balance=499)

    assert refusal_of(books.capture(handle_of(held), 1)).reason is Reason.ACCOUNT_SHORT


# I9 (threat 5).


@pytest.mark.parametrize(
    ("finalizes_in_s", "taken"), [(MARGIN_S + 1, True), (MARGIN_S, False), (1, False), (-9, False)]
)
def test_no_charge_when_a_withdrawal_may_finalise_within_the_margin(
    books: PureLedger, alice: Payer, finalizes_in_s: int, *, taken: bool
) -> None:
    """Although the funds would do: what is charged now might not be claimed in time."""
    books.mirror(alice, balance=1_000, withdrawing=1, finalizes_at=NOW_S + finalizes_in_s)

    for answer in (books.charge(by_voucher(alice, 1, 1, 100)), books.reserve(by_voucher(alice, 2, 1, 101))):
        assert isinstance(answer, Accepted | Held) is taken
        if not taken:
            assert refusal_of(answer).reason is Reason.WITHDRAWING


def test_a_cancelled_withdrawal_lets_charges_through_again(books: PureLedger, alice: Payer) -> None:
    books.mirror(alice, balance=1_000, withdrawing=1_000, finalizes_at=NOW_S + 1)
    refusal_of(books.charge(by_voucher(alice, 1, 1, 100)))
    books.mirror(alice, balance=1_000)

    assert isinstance(books.charge(by_voucher(alice, 1, 1, 100)), Accepted)


def test_no_charge_while_the_mirror_of_the_network_is_stale(books: PureLedger, alice: Payer) -> None:
    books.stale_escrows = frozenset({ESCROW_REF})

    for answer in (books.charge(by_voucher(alice, 1, 1, 100)), books.reserve(by_voucher(alice, 2, 1, 101))):
        assert refusal_of(answer).reason is Reason.CHAIN_STALE
    books.stale_escrows = frozenset({"eip155:1"})
    assert isinstance(books.charge(by_voucher(alice, 1, 1, 100)), Accepted)


def test_a_stale_mirror_does_not_hold_up_what_is_reserved_or_known(books: PureLedger, alice: Payer) -> None:
    held, charged = by_voucher(alice, 1, 10, 100), by_voucher(alice, 2, 10, 101)
    books.reserve(held)
    books.charge(charged)
    books.stale_escrows = frozenset({ESCROW_REF})

    assert isinstance(books.capture(handle_of(held), 10), Accepted)
    assert books.charge(charged) == Accepted(10, 10, replayed=True)
