"""Payments that memory let go of are answered from the journal, as if they were still there (I4)."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from doubles import NOW_MS, OTHER_PAGE, Payer, PureLedger, payment_id_of
from running import Scripted, running

from tallystick.reasons import Reason
from tallystick_aggregator.charging import UncheckedPayment
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.payments import PackedPayment, PaymentKey
from tallystick_aggregator.store.port import StoreUnavailableError

RULES = Rules()
LATER_MS = NOW_MS + 3_600_000


@pytest.fixture
async def shop(alice: Payer, bob: Payer) -> AsyncIterator[Scripted]:
    """Alice pays by vouchers, Bob by a spend key."""
    books = PureLedger()
    books.fund(alice, 10**9)
    books.fund(bob, 10**9)
    books.register(bob, bob.spend_key(expires_at=LATER_MS))
    async with running(books) as shop:
        yield shop


def an_hour_later(shop: Scripted) -> None:
    """The journal has written everything down, and memory answers for newer ids only."""
    shop.now_ms = LATER_MS
    shop.journal.archive_payments(shop.ledger, LATER_MS)


def payment_of(payer: Payer, number: int = 1) -> UncheckedPayment:
    key = payer.spend_key(expires_at=LATER_MS) if payer.name == "bob" else None
    return payer.payment(number, 10, ceiling=1_000 + number, key=key)


@pytest.mark.parametrize("who", ["alice", "bob"])
async def test_an_old_payment_sent_again_gets_its_first_answer(shop: Scripted, who: str) -> None:
    """Although its voucher is used: it was this very charge that used it."""
    payer = Payer(who)
    payment = payment_of(payer)
    first = await shop.batcher.charge([payment])
    await shop.batcher.charge([payment_of(payer, 2)])
    an_hour_later(shop)
    assert not shop.ledger.payments

    assert await shop.batcher.charge([payment]) == [Accepted(10, 10, replayed=True)]
    assert await shop.batcher.reserve(payment) == Accepted(10, 10, replayed=True)
    assert first == [Accepted(10, 10, replayed=False)]
    assert len(shop.charges) == 2


async def test_an_old_payment_whose_voucher_was_bad_and_not_needed_gets_its_first_answer(shop: Scripted) -> None:
    """Although its voucher would be needed now: the ceiling is used up."""
    bob, key = Payer("bob"), Payer("bob").spend_key(expires_at=LATER_MS)
    await shop.batcher.charge([bob.payment(1, 1, ceiling=100, key=key)])
    payment = bob.payment(2, 50, ceiling=200, key=key)._replace(signature=b"\1" * 64 + b"\x1b")
    assert await shop.batcher.charge([payment]) == [Accepted(50, 51, replayed=False)]
    await shop.batcher.charge([bob.payment(3, 49, key=key)])
    an_hour_later(shop)

    assert await shop.batcher.charge([payment]) == [Accepted(50, 51, replayed=True)]


@pytest.mark.parametrize("who", ["alice", "bob"])
async def test_old_payments_of_a_channel_sent_again_together_get_their_first_answers(shop: Scripted, who: str) -> None:
    """They are decided as one run (`ledger.runs`), which must ask what was recalled too."""
    payments = [payment_of(Payer(who), number) for number in (1, 2, 3)]
    await shop.batcher.charge(payments)
    an_hour_later(shop)

    again = await shop.batcher.charge(payments)

    assert again == [Accepted(10, 10 * number, replayed=True) for number in (1, 2, 3)]
    assert len(shop.charges) == 3


@pytest.mark.parametrize("who", ["alice", "bob"])
async def test_an_old_payment_id_for_another_request_is_refused(shop: Scripted, who: str) -> None:
    payer = Payer(who)
    await shop.batcher.charge([payment_of(payer)])
    an_hour_later(shop)
    key = payer.spend_key(expires_at=LATER_MS) if who == "bob" else None

    (refused,) = await shop.batcher.charge([payer.payment(1, 10, ceiling=1_001, key=key, request=OTHER_PAGE)])

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.PAYMENT_ID_REUSED


async def test_an_old_used_voucher_still_proves_nothing_else(shop: Scripted, alice: Payer) -> None:
    """A copy under an old payment id of its own that was never seen."""
    await shop.batcher.charge([payment_of(alice)])
    an_hour_later(shop)

    (refused,) = await shop.batcher.charge([payment_of(alice)._replace(payment_id=payment_id_of(7))])

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.VOUCHER_USED


async def test_an_old_id_that_nobody_knows_is_charged_once(shop: Scripted, alice: Payer) -> None:
    """It was made an hour ago and is on its way since: within retention, so it counts."""
    an_hour_later(shop)

    assert await shop.batcher.charge([payment_of(alice)]) == [Accepted(10, 10, replayed=False)]
    assert await shop.batcher.charge([payment_of(alice)]) == [Accepted(10, 10, replayed=True)]
    assert len(shop.charges) == 1


async def test_settled_reservations_are_recalled_by_their_handles(shop: Scripted, alice: Payer) -> None:
    captured = await shop.batcher.reserve(payment_of(alice, 1))
    released = await shop.batcher.reserve(payment_of(alice, 2))
    assert isinstance(captured, Held)
    assert isinstance(released, Held)
    await shop.batcher.capture(captured.handle, 7)
    await shop.batcher.release(released.handle)
    an_hour_later(shop)

    assert await shop.batcher.capture(captured.handle, 7) == Accepted(7, 7, replayed=True)
    assert await shop.batcher.release(released.handle) == Done(replayed=True)
    refused = await shop.batcher.capture(released.handle, 7)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.RESERVATION_RELEASED
    guessed = await shop.batcher.capture(captured.handle[:48] + bytes(16), 7)
    assert isinstance(guessed, Refusal)
    assert guessed.reason is Reason.RESERVATION_UNKNOWN


async def test_only_old_ids_that_memory_does_not_know_are_recalled(shop: Scripted, alice: Payer) -> None:
    await shop.batcher.charge([payment_of(alice)])
    an_hour_later(shop)
    new = alice.payment(2, 10, ceiling=2_000, ms=LATER_MS)
    held = await shop.batcher.reserve(alice.payment(3, 10, ceiling=2_001, ms=LATER_MS))
    assert isinstance(held, Held)
    shop.journal.recalled.clear()

    await shop.batcher.charge([new])
    await shop.batcher.charge([new])
    await shop.batcher.capture(held.handle, 1)
    assert not shop.journal.recalled

    old = payment_of(alice)
    await shop.batcher.charge([old, new])
    assert shop.journal.recalled == [(old.channel_id, old.payment_id)]


async def test_a_payment_that_cannot_be_looked_up_fails_alone(
    shop: Scripted, alice: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged row is one payment's trouble, not its neighbours', and no reason to stop serving."""
    await shop.batcher.charge([payment_of(alice)])
    an_hour_later(shop)
    recall, damaged = shop.journal.recall, payment_of(alice).payment_id

    async def failing(payments: Sequence[tuple[bytes, bytes]]) -> Mapping[PaymentKey, PackedPayment]:
        if any(payment_id == damaged for _, payment_id in payments):
            raise StoreUnavailableError("a row is damaged")
        return await recall(payments)

    monkeypatch.setattr(shop.journal, "recall", failing)
    shop.journal.hold()
    first = asyncio.create_task(shop.batcher.charge([alice.payment(9, 10, ceiling=9_000, ms=LATER_MS)]))
    await shop.journal.appending.wait()
    refused = asyncio.create_task(shop.batcher.reserve(payment_of(alice)))
    neighbour = asyncio.create_task(shop.batcher.reserve(payment_of(alice, 2)))
    await shop.settle_down()
    shop.journal.let_go()

    answer = await refused
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.STORE_UNAVAILABLE
    assert isinstance(await neighbour, Held)
    assert isinstance((await first)[0], Accepted)
    assert shop.writer.available


async def test_what_cannot_be_looked_up_is_refused_and_may_be_sent_again(
    shop: Scripted, alice: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.batcher.charge([payment_of(alice)])
    an_hour_later(shop)

    async def failing(_payments: Sequence[tuple[bytes, bytes]]) -> Mapping[PaymentKey, PackedPayment]:
        raise StoreUnavailableError("the disk fell silent")

    with monkeypatch.context() as patched:
        patched.setattr(shop.journal, "recall", failing)
        (refused,) = await shop.batcher.charge([payment_of(alice)])
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.STORE_UNAVAILABLE

    assert await shop.batcher.charge([payment_of(alice)]) == [Accepted(10, 10, replayed=True)]


async def test_a_forgotten_payment_is_expired_and_not_blamed_on_its_voucher(shop: Scripted, alice: Payer) -> None:
    """Told that its voucher is used, a client whose answer was lost would sign a new one and pay again."""
    await shop.batcher.charge([payment_of(alice)])
    shop.now_ms = NOW_MS + RULES.payment_id_retention_s * 1000 + 1
    await shop.writer.run(lambda draft, _ledger, _moment: draft.record(ev.PaymentsForgotten(NOW_MS + 1)))
    forgotten = shop.ledger.payments.copy()
    shop.ledger.payments.clear()

    for refused in (*await shop.batcher.charge([payment_of(alice)]), await shop.batcher.reserve(payment_of(alice))):
        assert isinstance(refused, Refusal)
        assert refused.reason is Reason.PAYMENT_ID_EXPIRED
    shop.ledger.payments.update(forgotten)
