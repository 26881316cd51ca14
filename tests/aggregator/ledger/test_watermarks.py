"""Rule 2c, of `batch-settlement`: a voucher is the next step of its channel, one request at a time, answered once."""

import pytest
from doubles import MUSIC, NEWS, Payer, PureLedger, handle_of, in_step

from tallystick.charges import Charge
from tallystick.reasons import Reason
from tallystick_aggregator.ledger import decide
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.commands import ProvenPayment, Rules, WatermarkProof

RESERVATION_S = Rules().reservation_s


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


@pytest.fixture
def books(alice: Payer) -> PureLedger:
    books = PureLedger()
    books.fund(alice, 1_000, NEWS, MUSIC)
    return books


def capture(
    books: PureLedger, payment: ProvenPayment, amount: int, *, ceiling: int | None = None
) -> Accepted | Refusal:
    """Capture the payment as the scheme asks for it."""
    assert isinstance(payment.proof, WatermarkProof)
    charge = Charge(
        payment.channel_id,
        payment.payment_id,
        payment.amount,
        payment.request_hash,
        payment.proof.ceiling if ceiling is None else ceiling,
    )
    return books.run(lambda draft, _ledger, moment: decide.capture_in_step(draft, charge, amount, moment, books.rules))


def reason_of(answer: object) -> Reason:
    assert isinstance(answer, Refusal)
    return answer.reason


def take(books: PureLedger, payment: ProvenPayment, amount: int) -> None:
    assert isinstance(books.reserve(payment), Held)
    assert isinstance(capture(books, payment, amount), Accepted)


def test_a_voucher_over_what_was_charged_and_the_price_is_taken(books: PureLedger, alice: Payer) -> None:
    take(books, in_step(alice, 1, 40, 40), 40)
    take(books, in_step(alice, 2, 30, 70), 30)
    channel = books.channel(alice)
    assert (channel.charged, channel.reserved, channel.ceiling) == (70, 0, 70)
    assert len(channel.used) == 1, "no ceiling is remembered but 0, and that once"


@pytest.mark.parametrize("ceiling", [0, 39, 41, 70, 2**128 - 1])
def test_any_other_voucher_is_refused_and_told_what_was_charged(books: PureLedger, alice: Payer, ceiling: int) -> None:
    take(books, in_step(alice, 1, 30, 30), 30)
    refused = books.reserve(in_step(alice, 2, 40, ceiling if ceiling != 70 else 71))
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.allowed) == (Reason.CUMULATIVE_AMOUNT_MISMATCH, "70")
    assert refused.totals is not None
    assert (refused.totals.charged, refused.totals.ceiling) == (30, 30)


def test_the_next_step_is_over_what_was_charged_not_over_what_was_signed(books: PureLedger, alice: Payer) -> None:
    take(books, in_step(alice, 1, 100, 100), 15)
    assert reason_of(books.reserve(in_step(alice, 2, 100, 200))) is Reason.CUMULATIVE_AMOUNT_MISMATCH
    take(books, in_step(alice, 3, 10, 25), 10)
    channel = books.channel(alice)
    assert (channel.charged, channel.ceiling) == (25, 100), "the highest voucher is the one to claim with"


def test_one_request_at_a_time_holds_a_channel_and_others_go_on(books: PureLedger, alice: Payer) -> None:
    assert isinstance(books.reserve(in_step(alice, 1, 40, 40)), Held)
    busy = books.reserve(in_step(alice, 2, 40, 40))
    assert reason_of(busy) is Reason.CHANNEL_BUSY
    assert isinstance(busy, Refusal)
    assert busy.reason.retry
    assert isinstance(books.reserve(in_step(alice, 3, 40, 40, receiver=MUSIC)), Held)


def test_a_request_that_charges_nothing_holds_the_channel_too(books: PureLedger, alice: Payer) -> None:
    assert isinstance(books.reserve(in_step(alice, 1, 0, 0)), Held)
    assert reason_of(books.reserve(in_step(alice, 2, 40, 40))) is Reason.CHANNEL_BUSY


def test_a_cancelled_request_lets_the_same_voucher_come_again(books: PureLedger, alice: Payer) -> None:
    first = in_step(alice, 1, 40, 40)
    books.reserve(first)
    assert books.release(handle_of(first)) == Done(replayed=False)
    take(books, in_step(alice, 2, 40, 40), 40)
    assert reason_of(capture(books, first, 40)) is Reason.CUMULATIVE_AMOUNT_MISMATCH


def test_what_was_captured_is_not_answered_again(books: PureLedger, alice: Payer) -> None:
    payment = in_step(alice, 1, 40, 40)
    take(books, payment, 40)
    assert reason_of(capture(books, payment, 40)) is Reason.CUMULATIVE_AMOUNT_MISMATCH
    free = in_step(alice, 2, 0, 40)
    take(books, free, 0)
    assert reason_of(capture(books, free, 0)) is Reason.PENDING_ID_MISMATCH
    assert books.channel(alice).charged == 40


def test_only_the_voucher_that_is_held_is_captured(books: PureLedger, alice: Payer) -> None:
    payment = in_step(alice, 1, 40, 40)
    books.reserve(payment)
    assert reason_of(capture(books, payment, 40, ceiling=50)) is Reason.CUMULATIVE_AMOUNT_MISMATCH
    for other in (in_step(alice, 2, 40, 40), in_step(alice, 1, 30, 30)):
        assert reason_of(capture(books, other, 30)) is Reason.PENDING_ID_MISMATCH
    assert reason_of(capture(books, payment, 41)) is Reason.AMOUNT_ABOVE_AGREED
    assert isinstance(capture(books, payment, 40), Accepted)


@pytest.mark.parametrize("meanwhile", ["nothing", "charged", "held"])
def test_a_late_capture_stands_only_if_nothing_came_between(books: PureLedger, alice: Payer, meanwhile: str) -> None:
    late = in_step(alice, 1, 40, 40)
    books.reserve(late)
    books.now_ms += RESERVATION_S * 1000
    books.expire(handle_of(late))
    if meanwhile == "charged":
        take(books, in_step(alice, 2, 40, 40), 40)
    elif meanwhile == "held":
        assert isinstance(books.reserve(in_step(alice, 2, 40, 40)), Held)
    answer = capture(books, late, 40)
    if meanwhile == "nothing":
        assert isinstance(answer, Accepted)
    else:
        assert reason_of(answer) is (
            Reason.CUMULATIVE_AMOUNT_MISMATCH if meanwhile == "charged" else Reason.CHANNEL_BUSY
        )


def test_what_the_receiver_claimed_by_itself_is_the_next_steps_baseline(books: PureLedger, alice: Payer) -> None:
    take(books, in_step(alice, 1, 100, 100), 10)
    books.mirror(alice, balance=900, claimed={alice.channel_id(NEWS): 100})
    assert reason_of(books.reserve(in_step(alice, 2, 40, 50))) is Reason.CUMULATIVE_AMOUNT_MISMATCH
    take(books, in_step(alice, 3, 40, 140), 40)


def test_no_step_goes_beyond_the_deposit(books: PureLedger, alice: Payer) -> None:
    take(books, in_step(alice, 1, 990, 990), 990)
    assert reason_of(books.reserve(in_step(alice, 2, 11, 1_001))) is Reason.INSUFFICIENT_FUNDS
