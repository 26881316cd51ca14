"""A draft leaves no trace until it is adopted; a ledger is what its events make it; damage does not go unnoticed."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NoReturn, get_args

import pytest
from doubles import MUSIC, NEWS, NOW_S, Payer, PureLedger, by_key, by_voucher, handle_of, replay

from tallystick_aggregator.ledger import accounts, decide
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.invariants import InvariantError, check_invariants
from tallystick_aggregator.ledger.payments import Payment, PaymentStatus, pack_payment
from tallystick_aggregator.ledger.state import Ledger, payment_key


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


@pytest.fixture
def busy(alice: Payer) -> PureLedger:
    """A ledger that has seen a bit of everything."""
    books = PureLedger()
    bob = Payer("bob")
    books.fund(alice, 1_000, NEWS, MUSIC)
    books.fund(bob, 1_000, NEWS)
    books.charge(by_voucher(alice, 1, 10, 100))
    for number in (2, 3, 4, 5):
        books.reserve(by_voucher(alice, number, 20, 100 + number))
    books.capture(handle_of(by_voucher(alice, 2, 0, 0)), 15)
    books.release(handle_of(by_voucher(alice, 3, 0, 0)))
    books.expire(handle_of(by_voucher(alice, 4, 0, 0)))
    key = bob.spend_key()
    books.register(bob, key)
    books.charge(by_key(bob, key, 6, 30, ceiling=500))
    books.start_refund(bob, 100)
    books.mirror(alice, balance=990, claimed={alice.channel_id(): 10}, withdrawing=5, finalizes_at=NOW_S + 80_000)
    return books


def test_a_dropped_draft_leaves_no_trace(busy: PureLedger, alice: Payer) -> None:
    before = deepcopy(busy.ledger)
    draft = Draft(busy.ledger)
    busy.now_ms += 1
    for number in range(10, 20):
        decide.charge(draft, by_voucher(alice, number, 1, 100 + number), busy.moment, busy.rules)
    decide.release(draft, handle_of(by_voucher(alice, 5, 0, 0)))
    assert draft.events

    assert busy.ledger == before


def test_replay_makes_the_same_ledger_after_every_prefix(busy: PureLedger) -> None:
    ledger = Ledger()
    for count, event in enumerate(busy.events, 1):
        draft = Draft(ledger)
        draft.replay([event])
        draft.adopt()
        assert ledger == replay(busy.events[:count])
        check_invariants(ledger)
    assert ledger == busy.ledger


def test_adopted_objects_are_not_shared_with_a_later_draft(busy: PureLedger, alice: Payer) -> None:
    channel = busy.channel(alice)
    before = deepcopy(channel)
    busy.charge(by_voucher(alice, 30, 1, 130))

    assert channel == before
    assert busy.channel(alice) is not channel


class Unwalkable(dict[bytes, Any]):
    """A dict that may be looked into and added to, but not walked through."""

    def __iter__(self) -> NoReturn:
        raise AssertionError("a commit must not cost more because there are more accounts")

    keys = values = items = __iter__


def test_a_commit_costs_no_more_where_there_is_more(busy: PureLedger, alice: Payer) -> None:
    ledger = busy.ledger
    for name in ("accounts", "channels", "channel_ids", "spend_keys", "spend_key_names", "payments", "reservations"):
        setattr(ledger, name, Unwalkable(getattr(ledger, name)))

    draft = Draft(ledger)
    decide.charge(draft, by_voucher(alice, 40, 1, 140), busy.moment, busy.rules)
    held = by_voucher(alice, 41, 1, 141)
    decide.reserve(draft, held, handle_of(held), busy.moment, busy.rules)
    accounts.open_channel(draft, alice.account_id, bytes(32), bytes(20), 0, busy.rules)
    draft.adopt()

    assert len(ledger.channels) == 4


def test_every_kind_of_event_can_be_applied() -> None:
    assert Draft._apply.keys() == set(get_args(ev.Event))


def damage_ceiling(ledger: Ledger, alice: Payer) -> None:
    ledger.channels[alice.channel_id()].ceiling = 1


def damage_negative(ledger: Ledger, alice: Payer) -> None:
    ledger.channels[alice.channel_id(MUSIC)].charged = -1


def damage_committed(ledger: Ledger, alice: Payer) -> None:
    ledger.accounts[alice.account_id].committed -= 1


def damage_reserved(ledger: Ledger, alice: Payer) -> None:
    ledger.accounts[alice.account_id].reserved += 1


def damage_claimed(ledger: Ledger, alice: Payer) -> None:
    ledger.accounts[alice.account_id].claimed += 1


def damage_reservations(ledger: Ledger, alice: Payer) -> None:
    ledger.accounts[alice.account_id].reservations += 1


def damage_exposure(ledger: Ledger, _alice: Payer) -> None:
    ledger.receiver_exposure[next(iter(ledger.receiver_exposure))] += 1


def damage_exposure_lost(ledger: Ledger, _alice: Payer) -> None:
    ledger.receiver_exposure.clear()


def damage_held(ledger: Ledger, _alice: Payer) -> None:
    del ledger.reservations[handle_of(by_voucher(Payer("alice"), 5, 0, 0))]


def damage_payment(ledger: Ledger, _alice: Payer) -> None:
    payment = by_voucher(Payer("alice"), 5, 0, 0)
    key = payment_key(payment.channel_id, payment.payment_id)
    ledger.payments[key] = pack_payment(key, Payment(20, bytes(32), PaymentStatus.RELEASED, 0, 0, b""))


def damage_refunding(ledger: Ledger, alice: Payer) -> None:
    ledger.accounts[alice.account_id].refunding += 1


@pytest.mark.parametrize(
    "damage",
    [
        damage_ceiling,
        damage_negative,
        damage_committed,
        damage_reserved,
        damage_claimed,
        damage_reservations,
        damage_exposure,
        damage_exposure_lost,
        damage_held,
        damage_payment,
        damage_refunding,
    ],
)
def test_damage_is_noticed(busy: PureLedger, alice: Payer, damage: Callable[[Ledger, Payer], None]) -> None:
    check_invariants(busy.ledger)
    damage(busy.ledger, alice)

    with pytest.raises(InvariantError):
        check_invariants(busy.ledger)
