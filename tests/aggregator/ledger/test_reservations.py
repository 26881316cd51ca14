"""A charge in two steps: held by `Verify`, captured or released once by `Settle`, given back when its time runs out."""

import pytest
from doubles import ESCROW_REF, MUSIC, NEWS, NOW_MS, NOW_S, Payer, PureLedger, by_key, by_voucher, handle_of

from tallystick.reasons import Reason
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.commands import Rules

RESERVATION_S = Rules().reservation_s


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


@pytest.fixture
def books(alice: Payer) -> PureLedger:
    books = PureLedger(Rules(reservations_per_account_max=3))
    books.fund(alice, 1_000, NEWS, MUSIC)
    return books


def reason_of(answer: object) -> Reason:
    assert isinstance(answer, Refusal)
    return answer.reason


def test_a_reservation_holds_its_amount_until_its_time(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)

    assert books.reserve(payment) == Held(handle_of(payment), NOW_S + RESERVATION_S, replayed=False)

    channel, account = books.channel(alice), books.account(alice)
    assert (channel.charged, channel.reserved, channel.ceiling) == (0, 40, 100)
    assert (account.reserved, account.reservations, account.available) == (40, 1, 960)


@pytest.mark.parametrize("amount", [0, 15, 40])
def test_a_capture_takes_all_or_less_and_gives_the_rest_back(books: PureLedger, alice: Payer, amount: int) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)

    assert books.capture(handle_of(payment), amount) == Accepted(amount, amount, replayed=False)

    channel, account = books.channel(alice), books.account(alice)
    assert (channel.charged, channel.reserved) == (amount, 0)
    assert (account.reserved, account.reservations, account.available) == (0, 0, 1_000 - amount)


def test_a_capture_never_takes_more_than_was_reserved(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)

    refused = books.capture(handle_of(payment), 41)

    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.got, refused.allowed) == (Reason.AMOUNT_ABOVE_AGREED, "41", "at most 40")
    assert isinstance(books.capture(handle_of(payment), 40), Accepted), "the refused one has not used it up"


def test_the_same_capture_again_gets_the_same_answer_and_another_amount_none(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)
    books.capture(handle_of(payment), 15)
    books.charge(by_voucher(alice, 2, 5, 101))

    assert books.capture(handle_of(payment), 15) == Accepted(15, 15, replayed=True)
    assert reason_of(books.capture(handle_of(payment), 16)) is Reason.PAYMENT_ID_REUSED
    assert books.channel(alice).charged == 20


def test_a_release_gives_everything_back_and_is_final(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)

    assert books.release(handle_of(payment)) == Done(replayed=False)
    assert books.release(handle_of(payment)) == Done(replayed=True)
    assert reason_of(books.capture(handle_of(payment), 1)) is Reason.RESERVATION_RELEASED
    assert (books.channel(alice).charged, books.account(alice).available) == (0, 1_000)


def test_a_charge_is_final_so_a_captured_reservation_is_not_released(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)
    books.capture(handle_of(payment), 40)

    assert reason_of(books.release(handle_of(payment))) is Reason.PAYMENT_ID_REUSED
    assert books.channel(alice).charged == 40


def test_open_reservations_are_limited_per_account(books: PureLedger, alice: Payer) -> None:
    """Threat 37: over all of its channels; settling one makes room."""
    payments = [by_voucher(alice, number, 1, 100 + number, receiver=(NEWS, MUSIC)[number % 2]) for number in range(4)]
    assert all(isinstance(books.reserve(payment), Held) for payment in payments[:3])

    refused = books.reserve(payments[3])
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.allowed) == (Reason.RESERVATION_LIMIT, "at most 3")
    assert isinstance(books.charge(by_voucher(alice, 9, 1, 200)), Accepted), "charges at once are not limited"

    books.release(handle_of(payments[0]))
    assert isinstance(books.reserve(payments[3]), Held)


def test_reservations_of_nothing_count_too(books: PureLedger, alice: Payer) -> None:
    payments = [by_voucher(alice, number, 0, 100 + number) for number in range(4)]
    for payment in payments[:3]:
        assert isinstance(books.reserve(payment), Held)

    assert reason_of(books.reserve(payments[3])) is Reason.RESERVATION_LIMIT
    for payment in payments[:3]:
        books.capture(handle_of(payment), 0)
    assert books.account(alice).reservations == 0


def test_expiry_gives_back_what_is_held(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)
    books.expire(handle_of(payment))

    account = books.account(alice)
    assert (books.channel(alice).reserved, account.reserved, account.reservations) == (0, 0, 0)
    assert account.available == 1_000


def test_a_capture_after_expiry_still_works_while_ceiling_and_funds_allow(books: PureLedger, alice: Payer) -> None:
    """Threat 9: the handler was slower than its reservation."""
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)
    books.expire(handle_of(payment))

    assert books.capture(handle_of(payment), 40) == Accepted(40, 40, replayed=False)
    assert books.capture(handle_of(payment), 40) == Accepted(40, 40, replayed=True)
    assert (books.channel(alice).charged, books.channel(alice).reserved) == (40, 0)


def test_a_capture_after_expiry_is_refused_when_the_ceiling_was_used_otherwise(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)
    books.expire(handle_of(payment))
    books.charge(by_voucher(alice, 2, 61, 99))

    assert reason_of(books.capture(handle_of(payment), 40)) is Reason.INSUFFICIENT_CEILING
    assert isinstance(books.capture(handle_of(payment), 39), Accepted), "less than asked may still fit"


def test_a_capture_after_expiry_is_refused_when_the_funds_were_used_otherwise(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)
    books.expire(handle_of(payment))
    books.charge(by_voucher(alice, 2, 961, 5_000, receiver=MUSIC))

    assert reason_of(books.capture(handle_of(payment), 40)) is Reason.INSUFFICIENT_FUNDS


def test_a_capture_after_expiry_is_refused_once_its_spend_key_is_dead(books: PureLedger, alice: Payer) -> None:
    """Its payer counts on that: what a dead key has not spent is free again."""
    revoked, expired = alice.spend_key(1), alice.spend_key(2, expires_at=NOW_S + 60)
    for number, key in enumerate((revoked, expired)):
        books.register(alice, key)
        payment = by_key(alice, key, number, 40, ceiling=500 + number)
        books.reserve(payment)
        books.expire(handle_of(payment))
    books.revoke(alice, revoked)
    books.now_ms += 61_000

    for number, reason in enumerate((Reason.SPEND_KEY_REVOKED, Reason.SPEND_KEY_EXPIRED)):
        payment = by_key(alice, (revoked, expired)[number], number, 40)
        assert reason_of(books.capture(handle_of(payment), 40)) is reason


def test_a_capture_after_expiry_waits_for_a_fresh_mirror(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)
    books.expire(handle_of(payment))
    books.stale_escrows = frozenset({ESCROW_REF})

    assert reason_of(books.capture(handle_of(payment), 40)) is Reason.CHAIN_STALE


def test_a_capture_between_the_time_and_the_timer_is_a_plain_one(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)
    books.now_ms += (RESERVATION_S + 1) * 1000

    assert isinstance(books.capture(handle_of(payment), 40), Accepted)


def test_a_release_after_expiry_forbids_the_late_capture(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)
    books.expire(handle_of(payment))

    assert books.release(handle_of(payment)) == Done(replayed=False)
    assert reason_of(books.capture(handle_of(payment), 40)) is Reason.RESERVATION_RELEASED
    assert books.account(alice).available == 1_000


def test_expiring_twice_gives_back_once(books: PureLedger, alice: Payer) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)
    books.expire(handle_of(payment))
    books.expire(handle_of(payment))

    assert (books.channel(alice).reserved, books.account(alice).reservations) == (0, 0)


@pytest.mark.parametrize("settled", [False, True])
def test_a_guessed_handle_settles_nothing(books: PureLedger, alice: Payer, *, settled: bool) -> None:
    """Channel and payment id are no secrets; the 16 bytes after them are."""
    payment = by_voucher(alice, 1, 40, 100)
    books.reserve(payment)
    if settled:
        books.capture(handle_of(payment), 40)
    guessed = handle_of(payment)[:-1] + bytes([handle_of(payment)[-1] ^ 1])

    assert reason_of(books.capture(guessed, 40)) is Reason.RESERVATION_UNKNOWN
    assert reason_of(books.release(guessed)) is Reason.RESERVATION_UNKNOWN


@pytest.mark.parametrize("secret", [bytes(16), b""])
def test_a_direct_charge_has_no_handle_that_opens_it(books: PureLedger, alice: Payer, secret: bytes) -> None:
    payment = by_voucher(alice, 1, 40, 100)
    books.charge(payment)
    handle = payment.payment_id + payment.channel_id + secret

    assert reason_of(books.capture(handle, 40)) is Reason.RESERVATION_UNKNOWN
    assert reason_of(books.release(handle)) is Reason.RESERVATION_UNKNOWN


def test_an_expired_reservation_is_forgotten_with_its_payment(books: PureLedger, alice: Payer) -> None:
    """Or memory would hold every reservation that was never settled."""
    dead, held = by_voucher(alice, 1, 40, 100), by_voucher(alice, 2, 40, 101)
    young = by_voucher(alice, 3, 5, 102, ms=NOW_MS + 1)
    for payment in (dead, held, young):
        books.reserve(payment)
    books.expire(handle_of(dead))
    books.expire(handle_of(young))

    books.forget_payments(NOW_MS + 1)

    assert books.ledger.reservations.keys() == {handle_of(held), handle_of(young)}
    assert books.replayed() == books.ledger, "replay prunes them too"
    for amount in (0, 40):
        assert reason_of(books.capture(handle_of(dead), amount)) is Reason.RESERVATION_UNKNOWN
    assert reason_of(books.release(handle_of(dead))) is Reason.RESERVATION_UNKNOWN
    assert isinstance(books.capture(handle_of(young), 5), Accepted)
