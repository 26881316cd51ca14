"""Rule 2b: a spend key pays for its account, up to its cap, until it expires or is revoked, never more than agreed."""

import pytest
from doubles import MUSIC, NEWS, NOW_S, Payer, PureLedger, by_key, handle_of, signature_of
from msgspec.structs import replace

from tallystick.reasons import Reason
from tallystick_aggregator.ledger.accounts import SPEND_KEYS_KEPT
from tallystick_aggregator.ledger.answers import Accepted, Held, Refusal
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.state import SpendKey, spend_key_name


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


@pytest.fixture
def key(alice: Payer) -> SpendKey:
    return alice.spend_key(cap=100, expires_at=NOW_S + 60)


@pytest.fixture
def books(alice: Payer, key: SpendKey) -> PureLedger:
    books = PureLedger(Rules(spend_keys_per_account_max=3))
    books.fund(alice, 10_000, NEWS, MUSIC)
    assert books.register(alice, key) == key
    return books


def reason_of(answer: object) -> Reason:
    assert isinstance(answer, Refusal)
    return answer.reason


def spent(books: PureLedger, key: SpendKey) -> int:
    return books.ledger.spend_keys[spend_key_name(key.account_id, key.key_id)].spent


def test_one_voucher_with_headroom_carries_many_charges(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    books.charge(by_key(alice, key, 0, 1, ceiling=50))

    answers = [books.charge(by_key(alice, key, number, 1)) for number in range(1, 50)]

    assert all(isinstance(answer, Accepted) for answer in answers)
    assert books.channel(alice).ceiling == 50
    assert books.channel(alice).signature == signature_of(50)
    assert reason_of(books.charge(by_key(alice, key, 50, 1))) is Reason.INSUFFICIENT_CEILING


def test_a_key_pays_up_to_its_cap_over_all_channels(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    books.charge(by_key(alice, key, 1, 60, ceiling=1_000))

    refused = books.charge(by_key(alice, key, 2, 41, ceiling=1_000, receiver=MUSIC))
    assert reason_of(refused) is Reason.SPEND_KEY_EXHAUSTED
    assert isinstance(refused, Refusal)
    assert refused.allowed == "at most 40"
    assert isinstance(books.charge(by_key(alice, key, 3, 40, ceiling=1_000, receiver=MUSIC)), Accepted)
    assert spent(books, key) == 100


def test_a_reservation_counts_against_the_cap_until_it_is_given_back(
    books: PureLedger, alice: Payer, key: SpendKey
) -> None:
    held = by_key(alice, key, 1, 60, ceiling=1_000)
    assert isinstance(books.reserve(held), Held)
    assert reason_of(books.charge(by_key(alice, key, 2, 41))) is Reason.SPEND_KEY_EXHAUSTED

    books.capture(handle_of(held), 10)

    assert spent(books, key) == 10
    assert isinstance(books.charge(by_key(alice, key, 2, 90)), Accepted)


@pytest.mark.parametrize("way", ["release", "expire"])
def test_what_is_given_back_may_be_spent_again(books: PureLedger, alice: Payer, key: SpendKey, way: str) -> None:
    held = by_key(alice, key, 1, 100, ceiling=1_000)
    books.reserve(held)
    getattr(books, way)(handle_of(held))

    assert spent(books, key) == 0
    assert isinstance(books.charge(by_key(alice, key, 2, 100)), Accepted)


def test_a_capture_after_expiry_keeps_to_the_cap(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    """What expired was given back to the key, and may have been spent since."""
    held = by_key(alice, key, 1, 60, ceiling=1_000)
    books.reserve(held)
    books.expire(handle_of(held))
    books.charge(by_key(alice, key, 2, 50))

    assert reason_of(books.capture(handle_of(held), 51)) is Reason.SPEND_KEY_EXHAUSTED
    assert isinstance(books.capture(handle_of(held), 50), Accepted)
    assert spent(books, key) == 100


def test_a_key_pays_until_it_expires_and_not_in_that_second(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    books.now_ms = (key.expires_at * 1000) - 1
    assert isinstance(books.charge(by_key(alice, key, 1, 1, ceiling=1_000)), Accepted)

    books.now_ms += 1
    assert reason_of(books.charge(by_key(alice, key, 2, 1))) is Reason.SPEND_KEY_EXPIRED


def test_a_revoked_key_pays_nothing_from_then_on(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    books.charge(by_key(alice, key, 1, 1, ceiling=1_000))
    revoked = books.revoke(alice, key)

    assert isinstance(revoked, SpendKey)
    assert revoked.revoked
    assert reason_of(books.charge(by_key(alice, key, 2, 1))) is Reason.SPEND_KEY_REVOKED
    assert reason_of(books.reserve(by_key(alice, key, 3, 1))) is Reason.SPEND_KEY_REVOKED


def test_what_a_key_reserved_before_its_revocation_is_captured(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    held = by_key(alice, key, 1, 60, ceiling=1_000)
    books.reserve(held)
    books.revoke(alice, key)

    assert isinstance(books.capture(handle_of(held), 60), Accepted)


def test_an_unknown_key_pays_nothing(books: PureLedger, alice: Payer) -> None:
    assert reason_of(books.charge(by_key(alice, alice.spend_key(7), 1, 1, ceiling=1_000))) is Reason.SPEND_KEY_UNKNOWN


def test_a_key_of_another_account_pays_nothing(books: PureLedger, alice: Payer) -> None:
    bob = Payer("bob")
    books.fund(bob, 1_000)
    stolen = bob.spend_key()
    books.register(bob, stolen)

    assert reason_of(books.charge(by_key(alice, stolen, 1, 1, ceiling=1_000))) is Reason.SPEND_KEY_UNKNOWN


def test_a_seller_takes_at_most_what_was_agreed(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    refused = books.charge(by_key(alice, key, 1, 11, max_amount=10, ceiling=1_000))

    assert reason_of(refused) is Reason.AMOUNT_ABOVE_AGREED
    assert isinstance(refused, Refusal)
    assert (refused.got, refused.allowed) == ("11", "at most 10")
    assert isinstance(books.charge(by_key(alice, key, 2, 9, max_amount=10, ceiling=1_000)), Accepted)


def test_several_keys_of_one_account_have_caps_of_their_own(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    second = alice.spend_key(1, cap=5)
    books.register(alice, second)
    books.charge(by_key(alice, key, 1, 100, ceiling=1_000))

    assert isinstance(books.charge(by_key(alice, second, 2, 5)), Accepted)
    assert reason_of(books.charge(by_key(alice, second, 3, 1))) is Reason.SPEND_KEY_EXHAUSTED


# Registering and revoking.


def test_registering_the_same_key_again_answers_alike_and_keeps_what_was_spent(
    books: PureLedger, alice: Payer, key: SpendKey
) -> None:
    books.charge(by_key(alice, key, 1, 60, ceiling=1_000))

    again = books.register(alice, key)

    assert isinstance(again, SpendKey)
    assert again.spent == 60


@pytest.mark.parametrize("change", [{"secret": bytes(32)}, {"cap": 99}, {"expires_at": NOW_S + 61}])
def test_a_taken_key_id_is_refused_to_other_terms(
    books: PureLedger, alice: Payer, key: SpendKey, change: dict[str, int]
) -> None:
    assert reason_of(books.register(alice, replace(key, **change))) is Reason.SPEND_KEY_CONFLICT  # type: ignore[arg-type]


def test_a_revoked_key_stays_revoked_when_registered_again(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    books.revoke(alice, key)

    again = books.register(alice, key)

    assert isinstance(again, SpendKey)
    assert again.revoked
    assert reason_of(books.charge(by_key(alice, key, 1, 1, ceiling=10))) is Reason.SPEND_KEY_REVOKED


def test_a_key_that_has_expired_already_is_not_registered(books: PureLedger, alice: Payer) -> None:
    assert reason_of(books.register(alice, alice.spend_key(9, expires_at=NOW_S))) is Reason.SPEND_KEY_EXPIRED


def test_keys_per_account_are_limited_until_they_expire(books: PureLedger, alice: Payer) -> None:
    books.register(alice, alice.spend_key(1, expires_at=NOW_S + 10))
    books.register(alice, alice.spend_key(2))
    assert reason_of(books.register(alice, alice.spend_key(3))) is Reason.SPEND_KEY_LIMIT

    books.now_ms += 10_000
    assert isinstance(books.register(alice, alice.spend_key(3)), SpendKey)


def test_w2_revoked_keys_do_not_count_against_the_limit(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    for number in range(1, 4 * books.rules.spend_keys_per_account_max):
        books.revoke(alice, key)
        key = alice.spend_key(number)
        assert isinstance(books.register(alice, key), SpendKey)


def test_w4_a_keys_cap_is_raised_by_its_payer_and_what_it_spent_stands(
    books: PureLedger, alice: Payer, key: SpendKey
) -> None:
    books.charge(by_key(alice, key, 1, 100, ceiling=1_000))
    assert reason_of(books.charge(by_key(alice, key, 2, 1))) is Reason.SPEND_KEY_EXHAUSTED

    raised = books.register(alice, replace(key, cap=150))

    assert isinstance(raised, SpendKey)
    assert (raised.cap, raised.spent) == (150, 100)
    assert isinstance(books.charge(by_key(alice, key, 3, 50)), Accepted)
    assert reason_of(books.charge(by_key(alice, key, 4, 1))) is Reason.SPEND_KEY_EXHAUSTED
    assert books.replayed() == books.ledger


def test_w4_a_revoked_or_expired_key_is_not_raised(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    books.revoke(alice, key)
    assert reason_of(books.register(alice, replace(key, cap=150))) is Reason.SPEND_KEY_REVOKED

    short = alice.spend_key(1, expires_at=NOW_S + 10)
    books.register(alice, short)
    books.now_ms += 10_000
    assert reason_of(books.register(alice, replace(short, cap=short.cap + 1))) is Reason.SPEND_KEY_EXPIRED


def test_a_key_needs_an_account(books: PureLedger) -> None:
    mallory = Payer("mallory")

    assert reason_of(books.register(mallory, mallory.spend_key())) is Reason.ACCOUNT_UNKNOWN


def test_revoking_again_answers_alike_and_an_unknown_key_is_refused(
    books: PureLedger, alice: Payer, key: SpendKey
) -> None:
    books.revoke(alice, key)
    events = len(books.events)

    assert isinstance(books.revoke(alice, key), SpendKey)
    assert len(books.events) == events
    assert reason_of(books.revoke(alice, alice.spend_key(9))) is Reason.SPEND_KEY_UNKNOWN


# Forgetting: a key goes once none of its payments can come again, and the account registers another.


def ids_of(books: PureLedger, payer: Payer) -> list[bytes]:
    return [key.key_id for key in books.ledger.spend_keys_of(payer.account_id)]


def renew(books: PureLedger, alice: Payer, key: SpendKey, after_s: int = 1) -> SpendKey:
    """Register another key, so many seconds after all payments of this one are forgotten."""
    forgotten_s = key.expires_at + books.rules.payment_id_skew_s + after_s
    books.now_ms = (forgotten_s + books.rules.payment_id_retention_s) * 1000
    books.forget_payments(forgotten_s * 1000)
    registered = books.register(alice, alice.spend_key(99, expires_at=books.now_ms // 1000 + 60))
    assert isinstance(registered, SpendKey)
    return registered


def test_a_key_is_forgotten_with_its_payments_when_another_is_registered(
    books: PureLedger, alice: Payer, key: SpendKey
) -> None:
    books.charge(by_key(alice, key, 1, 60, ceiling=1_000))
    kept = alice.spend_key(1)
    books.register(alice, kept)

    newest = renew(books, alice, key)

    assert ids_of(books, alice) == [kept.key_id, newest.key_id]
    assert reason_of(books.revoke(alice, key)) is Reason.SPEND_KEY_UNKNOWN
    assert books.replayed() == books.ledger


def test_a_key_is_kept_as_long_as_its_payments_may_come_again(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    newest = renew(books, alice, key, after_s=0)

    assert ids_of(books, alice) == [key.key_id, newest.key_id]


def test_a_forgotten_key_cannot_come_back_on_its_old_terms(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    books.revoke(alice, key)
    renew(books, alice, key)

    assert reason_of(books.register(alice, key)) is Reason.SPEND_KEY_EXPIRED


@pytest.mark.parametrize("way", ["release", "expire"])
def test_a_reservation_outlives_its_forgotten_key(books: PureLedger, alice: Payer, key: SpendKey, way: str) -> None:
    """As after a long stop, when the timers come round late."""
    held = by_key(alice, key, 1, 60, ceiling=1_000)
    books.reserve(held)
    renew(books, alice, key)

    getattr(books, way)(handle_of(held))

    assert books.channel(alice).reserved == 0
    assert books.replayed() == books.ledger


def test_a_forgotten_key_captures_nothing_after_expiry(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    held = by_key(alice, key, 1, 60, ceiling=1_000)
    books.reserve(held)
    renew(books, alice, key)
    books.expire(handle_of(held))

    assert reason_of(books.capture(handle_of(held), 10)) is Reason.SPEND_KEY_UNKNOWN


def test_short_lived_keys_fill_the_ledger_only_so_far(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    most = SPEND_KEYS_KEPT * books.rules.spend_keys_per_account_max
    for number in range(1, most):
        books.now_ms += 1_000
        assert isinstance(books.register(alice, alice.spend_key(number, expires_at=books.now_ms // 1000 + 1)), SpendKey)

    books.now_ms += 1_000
    refused = books.register(alice, alice.spend_key(most, expires_at=books.now_ms // 1000 + 1))

    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.got) == (Reason.SPEND_KEY_LIMIT, str(most + 1))
    renew(books, alice, key)
    assert len(ids_of(books, alice)) == 1


def test_a_key_shows_its_secret_to_nobody(key: SpendKey) -> None:
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)
