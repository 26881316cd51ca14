"""Rule 2b: a spend key pays for its account, up to its cap, until it expires or is revoked, never more than agreed."""

import pytest
from doubles import MUSIC, NEWS, NOW_S, Payer, PureLedger, by_key, handle_of, signature_of
from msgspec.structs import replace

from tallystick.reasons import Reason
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


@pytest.mark.parametrize("change", [{"secret": bytes(32)}, {"cap": 101}, {"expires_at": NOW_S + 61}])
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


def test_keys_per_account_are_limited_until_they_expire(books: PureLedger, alice: Payer, key: SpendKey) -> None:
    books.register(alice, alice.spend_key(1, expires_at=NOW_S + 10))
    books.register(alice, alice.spend_key(2))
    assert reason_of(books.register(alice, alice.spend_key(3))) is Reason.SPEND_KEY_LIMIT

    books.revoke(alice, key)
    assert reason_of(books.register(alice, alice.spend_key(3))) is Reason.SPEND_KEY_LIMIT, "taking back makes no room"

    books.now_ms += 10_000
    assert isinstance(books.register(alice, alice.spend_key(3)), SpendKey)


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


def test_a_key_shows_its_secret_to_nobody(key: SpendKey) -> None:
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)
