"""Rule 1 (I4): a payment id is charged once; the same again gets the same answer; an old one is never charged anew."""

import pytest
from doubles import MUSIC, NEWS, NOW_MS, OTHER_PAGE, Payer, PureLedger, by_key, by_voucher, handle_of

from tallystick.reasons import Reason
from tallystick_aggregator.ledger import decide
from tallystick_aggregator.ledger.answers import Accepted, Held, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, Rules
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger

RULES = Rules()
RETENTION_MS = RULES.payment_id_retention_s * 1000
SKEW_MS = RULES.payment_id_skew_s * 1000


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


@pytest.fixture
def books(alice: Payer) -> PureLedger:
    books = PureLedger()
    books.fund(alice, 1_000, NEWS, MUSIC)
    return books


def test_the_same_payment_again_gets_the_first_answer(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 10, 100)
    assert books.charge(payment) == Accepted(10, 10, replayed=False)
    books.charge(by_voucher(alice, 2, 5, 101))

    assert books.charge(payment) == Accepted(10, 10, replayed=True)
    assert books.channel(alice).charged == 15


def test_the_first_answer_comes_again_whatever_proof_comes_along(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 10, 100))

    assert books.charge(by_voucher(alice, 1, 10, 200)) == Accepted(10, 10, replayed=True)
    assert books.channel(alice).ceiling == 100


@pytest.mark.parametrize(
    ("again", "field"),
    [({"request": OTHER_PAGE, "amount": 10}, "request_hash"), ({"amount": 11}, "amount"), ({"amount": 0}, "amount")],
)
def test_a_known_id_for_something_else_is_refused(
    books: PureLedger, alice: Payer, again: dict[str, int | bytes], field: str
) -> None:
    books.charge(by_voucher(alice, 1, 10, 100))

    refused = books.charge(by_voucher(alice, 1, ceiling=200, **again))  # type: ignore[arg-type]

    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.field) == (Reason.PAYMENT_ID_REUSED, field)
    assert books.channel(alice).charged == 10


def test_the_same_id_on_another_channel_is_another_payment(books: PureLedger, alice: Payer) -> None:
    books.charge(by_voucher(alice, 1, 10, 100))

    assert books.charge(by_voucher(alice, 1, 10, 100, receiver=MUSIC)) == Accepted(10, 10, replayed=False)


def test_a_refused_payment_leaves_its_id_free(books: PureLedger, alice: Payer) -> None:
    assert isinstance(books.charge(by_voucher(alice, 1, 10, 9)), Refusal)

    assert books.charge(by_voucher(alice, 1, 10, 100)) == Accepted(10, 10, replayed=False)


@pytest.mark.parametrize("ms", [NOW_MS - RETENTION_MS, NOW_MS, NOW_MS + SKEW_MS])
def test_an_id_within_retention_and_skew_is_charged(books: PureLedger, alice: Payer, ms: int) -> None:
    assert isinstance(books.charge(by_voucher(alice, 1, 10, 100, ms=ms)), Accepted)


@pytest.mark.parametrize(
    ("ms", "reason"),
    [
        (NOW_MS - RETENTION_MS - 1, Reason.PAYMENT_ID_EXPIRED),
        (0, Reason.PAYMENT_ID_EXPIRED),
        (NOW_MS + SKEW_MS + 1, Reason.PAYMENT_ID_INVALID),
        (2**48 - 1, Reason.PAYMENT_ID_INVALID),
    ],
)
def test_an_id_out_of_time_is_never_charged(books: PureLedger, alice: Payer, ms: int, reason: Reason) -> None:
    payment = by_voucher(alice, 1, 10, 100, ms=ms)
    before = len(books.events)

    for refused in (books.charge(payment), books.reserve(payment)):
        assert isinstance(refused, Refusal)
        assert (refused.reason, refused.field) == (reason, "payment_id")
    assert len(books.events) == before


def test_an_id_from_before_the_pruning_is_refused_although_its_retention_has_not_passed(
    books: PureLedger, alice: Payer
) -> None:
    books.forget_payments(NOW_MS - 5)

    refused = books.charge(by_voucher(alice, 1, 10, 100, ms=NOW_MS - 6))

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.PAYMENT_ID_EXPIRED
    assert books.charge(by_voucher(alice, 2, 10, 100, ms=NOW_MS - 5)) == Accepted(10, 10, replayed=False)


def test_a_charge_is_replayed_after_its_retention_as_long_as_it_is_known(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 10, 100)
    books.charge(payment)
    books.now_ms += RETENTION_MS + 1

    assert books.charge(payment) == Accepted(10, 10, replayed=True)


def test_once_forgotten_and_pruned_an_id_is_expired_and_never_charged_anew(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 10, 100)
    books.charge(payment)
    books.now_ms += RETENTION_MS + 1
    books.forget_payments(NOW_MS + 1)
    books.ledger.payments.clear()  # what the journal's pruning does to memory

    refused = books.charge(payment)

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.PAYMENT_ID_EXPIRED
    assert books.channel(alice).charged == 10


def test_the_replay_of_a_charge_needs_no_room_and_no_living_key(books: PureLedger, alice: Payer) -> None:
    key = alice.spend_key(cap=10)
    books.register(alice, key)
    payment = by_key(alice, key, 1, 10, ceiling=10)
    books.charge(payment)
    books.revoke(alice, key)
    books.mirror(alice, balance=0)

    assert books.charge(payment) == Accepted(10, 10, replayed=True)


def test_a_reserved_id_cannot_be_charged_at_once(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 10, 100)
    books.reserve(payment)

    refused = books.charge(payment)

    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.got) == (Reason.PAYMENT_ID_REUSED, "reserved")
    assert books.channel(alice).charged == 0


def test_a_charged_id_that_is_reserved_again_gets_the_charge_as_its_answer(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 10, 100)
    books.charge(payment)

    assert books.reserve(payment) == Accepted(10, 10, replayed=True)
    assert books.channel(alice).reserved == 0


def test_a_replayed_reservation_tells_no_handle(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 10, 100)
    first = books.reserve(payment)
    assert isinstance(first, Held)
    assert first.handle == handle_of(payment)

    assert books.reserve(payment) == Held(b"", 0, replayed=True)
    assert books.channel(alice).reserved == 10


@pytest.mark.parametrize("again", [{"request": OTHER_PAGE, "amount": 10}, {"amount": 9}])
def test_a_reserved_id_for_something_else_is_refused(
    books: PureLedger, alice: Payer, again: dict[str, int | bytes]
) -> None:
    books.reserve(by_voucher(alice, 1, 10, 100))

    refused = books.reserve(by_voucher(alice, 1, ceiling=200, **again))  # type: ignore[arg-type]

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.PAYMENT_ID_REUSED


@pytest.mark.parametrize("amount", [10, 4])
def test_a_captured_id_sent_as_a_charge_is_answered_by_the_capture(
    books: PureLedger, alice: Payer, amount: int
) -> None:
    """Whether it names the amount that was reserved or the one that was captured."""
    payment = by_voucher(alice, 1, 10, 100)
    books.reserve(payment)
    books.capture(handle_of(payment), 4)

    assert books.charge(payment._replace(amount=amount)) == Accepted(4, 4, replayed=True)


def test_a_released_id_is_never_charged_or_reserved_again(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 10, 100)
    books.reserve(payment)
    books.release(handle_of(payment))

    for refused in (books.charge(payment), books.reserve(payment)):
        assert isinstance(refused, Refusal)
        assert refused.reason is Reason.RESERVATION_RELEASED
    assert books.channel(alice).charged == 0


def test_a_recalled_payment_is_replayed_as_one_in_memory_is(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 10, 100)
    books.charge(payment)
    (known,) = books.ledger.payments.values()
    books.ledger.payments.clear()

    def decision(draft: Draft, _ledger: Ledger, moment: DecisionContext) -> Accepted | Refusal:
        draft.recall(payment.channel_id, payment.payment_id, known)
        return decide.charge(draft, payment, moment, books.rules)

    assert books.run(decision) == Accepted(10, 10, replayed=True)
    assert not books.ledger.payments, "what was recalled to be answered stays out of memory"
