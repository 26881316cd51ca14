"""Threat 28: everything is bounded; what does not fit is refused at once; no caller leaves work behind unseen."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from doubles import Payer, PureLedger
from running import Scripted, running

from tallystick.reasons import Reason
from tallystick_aggregator.charging import UncheckedPayment, batcher
from tallystick_aggregator.charging.batcher import BatcherSettings
from tallystick_aggregator.charging.writer import WriterSettings
from tallystick_aggregator.ledger.answers import Accepted, Held, Refusal
from tallystick_aggregator.runtime import app
from tallystick_aggregator.store.eviction import TRIMMED_AT_ONCE_MAX
from tallystick_aggregator.store.sqlite.checkpoint import CheckpointSettings

WAITING_MAX = 100


@pytest.fixture
def batching() -> BatcherSettings:
    return BatcherSettings(waiting_max=WAITING_MAX)


@pytest.fixture
async def shop(alice: Payer, batching: BatcherSettings) -> AsyncIterator[Scripted]:
    books = PureLedger()
    books.fund(alice, 10**9)
    books.register(alice, alice.spend_key())
    async with running(books, batching) as shop:
        yield shop


def payments_of(alice: Payer, count: int, start: int = 0) -> list[UncheckedPayment]:
    key = alice.spend_key()
    return [alice.payment(number, 1, ceiling=100_000, key=key) for number in range(start, start + count)]


def is_overloaded(answer: object) -> bool:
    return isinstance(answer, Refusal) and answer.reason is Reason.OVERLOADED and answer.reason.retry


async def test_what_does_not_fit_is_refused_at_once_and_may_come_again(shop: Scripted, alice: Payer) -> None:
    shop.journal.hold()
    inside = asyncio.create_task(shop.batcher.charge(payments_of(alice, WAITING_MAX)))
    await shop.settle_down()
    assert shop.batcher.inside == WAITING_MAX

    (refused,) = await asyncio.wait_for(shop.batcher.charge(payments_of(alice, 1, start=500)), 1)
    assert is_overloaded(refused)
    assert is_overloaded(await asyncio.wait_for(shop.batcher.reserve(payments_of(alice, 1, start=501)[0]), 1))

    shop.journal.let_go()
    assert all(isinstance(answer, Accepted) for answer in await inside)
    assert shop.batcher.inside == 0
    assert isinstance((await shop.batcher.charge(payments_of(alice, 1, start=500)))[0], Accepted)
    assert isinstance(await shop.batcher.reserve(payments_of(alice, 1, start=501)[0]), Held)


async def test_nothing_is_taken_while_too_much_waits_for_a_checkpoint(shop: Scripted, alice: Payer) -> None:
    paid, first, second = payments_of(alice, 3)
    await shop.batcher.charge([paid])
    before = len(shop.journal.commits)
    shop.journal.backlog = WriterSettings().backlog_max
    for answer in (*await shop.batcher.charge([first]), await shop.batcher.reserve(second)):
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.STORE_UNAVAILABLE
        assert answer.reason.retry
        assert (
            answer.message == "The payment could not be stored: too much waits for a checkpoint. Send the same again."
        )
    assert await shop.batcher.charge([paid]) == [Accepted(1, 1, replayed=True)]
    assert app._store_problems(shop.writer) == ["too much waits for a checkpoint"]
    assert len(shop.journal.commits) == before
    assert shop.batcher.inside == 0

    shop.journal.backlog -= 1
    assert isinstance((await shop.batcher.charge([first]))[0], Accepted)
    assert isinstance(await shop.batcher.reserve(second), Held)


def test_portions_and_what_is_trimmed_are_twice_the_largest_commit() -> None:
    largest = WriterSettings().commit_weight_max
    assert CheckpointSettings().payments_at_once[-1] >= 2 * largest
    assert 2 * largest <= TRIMMED_AT_ONCE_MAX


async def test_a_batch_that_does_not_fit_is_refused_as_a_whole(shop: Scripted, alice: Payer) -> None:
    answers = await shop.batcher.charge(payments_of(alice, WAITING_MAX + 1))

    assert len(answers) == WAITING_MAX + 1
    assert all(map(is_overloaded, answers))
    assert not shop.charges


async def test_callers_that_go_away_free_no_room_before_their_work_is_done(shop: Scripted, alice: Payer) -> None:
    """Or a client that sends and hangs up, again and again, would fill the memory."""
    shop.journal.hold()
    first = asyncio.create_task(shop.batcher.charge(payments_of(alice, 1)))
    await shop.journal.appending.wait()
    gone = [asyncio.create_task(shop.batcher.charge(payments_of(alice, 9, start=9 * n))) for n in range(1, 12)]
    await shop.settle_down()
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)

    assert shop.batcher.inside == 1 + 99
    assert is_overloaded((await shop.batcher.charge(payments_of(alice, 1, start=900)))[0])

    shop.journal.let_go()
    await first
    await shop.settle_down()
    assert shop.batcher.inside == 0


@pytest.mark.parametrize("batching", [BatcherSettings(waiting_max=WAITING_MAX, screenings_max=1)])
async def test_a_flood_that_hangs_up_at_once_is_never_worked_on(shop: Scripted, alice: Payer) -> None:
    shop.journal.hold()
    first = asyncio.create_task(shop.batcher.charge(payments_of(alice, 1)))
    await shop.journal.appending.wait()
    for number in range(1, 500):
        task = asyncio.create_task(shop.batcher.charge(payments_of(alice, 3, start=3 * number)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(shop.batcher._waiting) <= WAITING_MAX
        assert shop.batcher.inside <= WAITING_MAX

    shop.journal.let_go()
    await first
    await shop.settle_down()
    assert len(shop.charges) == 1
    assert (shop.batcher.inside, len(shop.batcher._waiting)) == (0, 0)


async def test_reservations_that_hang_up_leave_nothing_waiting(shop: Scripted, alice: Payer) -> None:
    shop.journal.hold()
    first = asyncio.create_task(shop.batcher.charge(payments_of(alice, 1)))
    await shop.journal.appending.wait()
    for payment in payments_of(alice, 50, start=10):
        task = asyncio.create_task(shop.batcher.reserve(payment))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    shop.journal.let_go()
    await first
    await shop.settle_down()

    assert not shop.ledger.reservations, "nobody has a handle to settle them by"
    assert not shop.writer._waiting


@pytest.mark.parametrize("batching", [BatcherSettings(waiting_max=WAITING_MAX, batch_max=10)])
async def test_batches_are_screened_in_portions(shop: Scripted, alice: Payer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop is held for one portion at a time."""
    sizes: list[int] = []
    screening = batcher.Screening

    def counting(ledger, payments, *rest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN202
        sizes.append(len(payments))
        return screening(ledger, payments, *rest)

    monkeypatch.setattr(batcher, "Screening", counting)
    batches = [payments_of(alice, 4, start=4 * number) for number in range(20)]

    answers = await asyncio.gather(*map(shop.batcher.charge, batches))

    assert all(isinstance(answer, Accepted) for batch in answers for answer in batch)
    assert max(sizes) <= 10
    assert sum(sizes) == 80


async def test_nobody_starves_behind_a_flood_of_others(shop: Scripted, alice: Payer) -> None:
    """What came first is answered first."""
    order: list[int] = []

    async def send(number: int) -> None:
        await shop.batcher.charge(payments_of(alice, 5, start=5 * number))
        order.append(number)

    await asyncio.gather(*(send(number) for number in range(20)))

    assert order == sorted(order)
