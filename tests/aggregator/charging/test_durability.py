"""I3: nobody hears of anything, and memory holds nothing, that is not on disk; what fails, fails closed and alone."""

import asyncio
from collections.abc import AsyncIterator
from copy import deepcopy

import pytest
from doubles import ESCROW_REF, MUSIC, NEWS, NOW_MS, Payer, PureLedger, ScriptedJournal
from running import Scripted, running

from tallystick.reasons import Reason
from tallystick_aggregator.charging import LedgerWriter, UncheckedPayment
from tallystick_aggregator.charging.batcher import BatcherSettings
from tallystick_aggregator.charging.writer import WriterSettings
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.store.port import StoreUnavailableError, StoreUncertainError


@pytest.fixture
async def shop(alice: Payer, batching: BatcherSettings, writing: WriterSettings) -> AsyncIterator[Scripted]:
    books = PureLedger()
    books.fund(alice, 10**9, NEWS, MUSIC)
    async with running(books, batching, writing) as shop:
        yield shop


def payment_of(alice: Payer, number: int = 1) -> UncheckedPayment:
    return alice.payment(number, 10, ceiling=1_000 + number)


def forget(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> str:
    draft.record(ev.PaymentsForgotten(1))
    return "done"


# Nothing before it is on disk.


async def test_no_answer_leaves_before_the_append_has_returned(shop: Scripted, alice: Payer) -> None:
    held = await shop.batcher.reserve(payment_of(alice, 50))
    held_too = await shop.batcher.reserve(payment_of(alice, 51))
    assert isinstance(held, Held)
    assert isinstance(held_too, Held)
    before = deepcopy(shop.ledger)
    shop.journal.hold()
    asking = [
        asyncio.create_task(coroutine)
        for coroutine in (
            shop.batcher.charge([payment_of(alice)]),
            shop.batcher.reserve(payment_of(alice, 2)),
            shop.batcher.capture(held.handle, 5),
            shop.batcher.release(held_too.handle),
            shop.writer.run(forget),
        )
    ]
    await shop.settle_down()

    assert shop.journal.appending.is_set()
    assert not any(task.done() for task in asking)
    assert shop.ledger == before, "nor does memory run ahead"

    shop.journal.let_go()
    charged, reserved, captured, released, forgotten = await asyncio.gather(*asking)
    assert captured == Accepted(5, 5, replayed=False)
    assert charged == [Accepted(10, 15, replayed=False)]
    assert isinstance(reserved, Held)
    assert released == Done(replayed=False)
    assert forgotten == "done"


async def test_a_replay_waits_for_the_disk_too(shop: Scripted, alice: Payer) -> None:
    shop.journal.hold()
    first = asyncio.create_task(shop.batcher.charge([payment_of(alice)]))
    await shop.journal.appending.wait()
    again = asyncio.create_task(shop.batcher.charge([payment_of(alice)]))
    await shop.settle_down()

    assert not again.done()
    shop.journal.let_go()
    assert (await again)[0] == Accepted(10, 10, replayed=True)
    await first


async def test_what_changes_nothing_is_answered_without_a_commit(shop: Scripted, alice: Payer) -> None:
    commits = len(shop.journal.commits)

    await shop.batcher.charge([alice.payment(1, 2_000, ceiling=1_000)])
    await shop.batcher.capture(bytes(64), 1)
    await shop.writer.run(lambda _draft, _ledger, _moment: None)

    assert len(shop.journal.commits) == commits


async def test_the_journal_holds_what_memory_holds_after_every_commit(shop: Scripted, alice: Payer) -> None:
    for number in range(10):
        await shop.batcher.charge([payment_of(alice, number)])
        assert await shop.journal.load() == shop.ledger


# When the disk fails.


async def test_what_cannot_be_stored_is_refused_and_may_be_sent_again(shop: Scripted, alice: Payer) -> None:
    held = await shop.batcher.reserve(payment_of(alice, 50))
    assert isinstance(held, Held)
    before = deepcopy(shop.ledger)
    shop.journal.refusals = 10**6

    answers = [
        *(await shop.batcher.charge([payment_of(alice), payment_of(alice, 2)])),
        await shop.batcher.reserve(payment_of(alice, 3)),
        await shop.batcher.capture(held.handle, 10),
        await shop.batcher.release(held.handle),
    ]

    for refused in answers:
        assert isinstance(refused, Refusal)
        assert refused.reason is Reason.STORE_UNAVAILABLE
        assert refused.reason.retry
    assert shop.ledger == before
    assert not shop.writer.available

    shop.journal.refusals = 0
    assert await shop.batcher.charge([payment_of(alice), payment_of(alice, 2)]) == [
        Accepted(10, 10, replayed=False),
        Accepted(10, 20, replayed=False),
    ]
    assert await shop.batcher.capture(held.handle, 10) == Accepted(10, 30, replayed=False)
    assert shop.writer.available


async def test_a_failed_commit_refuses_those_in_it_and_nobody_after(shop: Scripted, alice: Payer) -> None:
    shop.journal.hold()
    shop.journal.refusals = 1
    first = asyncio.create_task(shop.batcher.charge([payment_of(alice)]))
    await shop.journal.appending.wait()
    second = asyncio.create_task(shop.batcher.charge([payment_of(alice, 2)]))
    await shop.settle_down()
    shop.journal.let_go()

    (refused,), (accepted,) = await asyncio.gather(first, second)
    assert isinstance(refused, Refusal)
    assert accepted == Accepted(10, 10, replayed=False), "nothing of the failed one is counted"


async def test_the_writer_is_available_again_only_after_a_good_commit(shop: Scripted, alice: Payer) -> None:
    shop.journal.refusals = 1
    await shop.batcher.charge([payment_of(alice)])

    await shop.batcher.capture(bytes(64), 1)
    await shop.writer.run(lambda _draft, _ledger, _moment: None)
    assert not shop.writer.available, "what needed no disk proves nothing about it"

    await shop.writer.run(forget)
    assert shop.writer.available


async def test_an_uncertain_store_gives_no_answer_and_the_retry_finds_out(shop: Scripted, alice: Payer) -> None:
    """Neither accepted nor refused may be said: the write may be on disk."""
    held = await shop.batcher.reserve(payment_of(alice, 50))
    assert isinstance(held, Held)
    before = deepcopy(shop.ledger)
    shop.journal.error = StoreUncertainError("the disk fell silent")
    for asking in (
        shop.batcher.charge([payment_of(alice)]),
        shop.batcher.reserve(payment_of(alice, 2)),
        shop.batcher.capture(held.handle, 10),
        shop.batcher.release(held.handle),
    ):
        shop.journal.refusals = 1
        with pytest.raises(StoreUncertainError):
            await asking
    assert shop.ledger == before

    assert await shop.batcher.charge([payment_of(alice)]) == [Accepted(10, 10, replayed=False)]


async def test_a_writer_that_broke_refuses_everybody_then_and_later(alice: Payer) -> None:
    """Whatever it was, it is no answer about money; the process has to start again from the disk."""
    books = PureLedger()
    books.fund(alice, 1_000)
    journal = ScriptedJournal()
    journal.error, journal.refusals = RuntimeError("a bug"), 1
    broken = LedgerWriter(books.ledger, journal, clock_ms=lambda: NOW_MS)
    serving = asyncio.create_task(broken.serve())
    journal.hold()
    caught = broken.submit(forget)
    await journal.appending.wait()
    waiting = broken.submit(forget)
    journal.let_go()

    for asked in (caught, waiting):
        with pytest.raises(StoreUnavailableError):
            await asked
    with pytest.raises(RuntimeError, match="a bug"):
        await serving
    with pytest.raises(StoreUnavailableError):
        await broken.submit(forget)
    assert books.ledger.payments_forgotten_ms == 0


# One bad decision among good ones.


async def test_a_decision_that_raises_fails_alone_and_leaves_nothing(shop: Scripted, alice: Payer) -> None:
    def half_made(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> None:
        draft.record(ev.PaymentsForgotten(77))
        raise ZeroDivisionError

    shop.journal.hold()
    first = asyncio.create_task(shop.batcher.charge([payment_of(alice)]))
    await shop.journal.appending.wait()
    good = asyncio.create_task(shop.batcher.charge([payment_of(alice, 2)]))
    await shop.settle_down()
    bad = [shop.writer.submit(half_made) for _ in range(3)]
    also_good = asyncio.create_task(shop.batcher.charge([payment_of(alice, 3)]))
    await shop.settle_down()
    shop.journal.let_go()

    for failed in bad:
        with pytest.raises(ZeroDivisionError):
            await failed
    assert await first == [Accepted(10, 10, replayed=False)]
    assert await good == [Accepted(10, 20, replayed=False)]
    assert await also_good == [Accepted(10, 30, replayed=False)]
    assert shop.ledger.payments_forgotten_ms == 0
    assert not any(isinstance(event, ev.PaymentsForgotten) for event in shop.journal.events)


# Callers that go away.


async def test_a_caller_that_goes_away_while_it_is_stored_is_charged_once(shop: Scripted, alice: Payer) -> None:
    shop.journal.hold()
    gone = asyncio.create_task(shop.batcher.charge([payment_of(alice)]))
    await shop.journal.appending.wait()
    gone.cancel()
    await shop.settle_down()
    shop.journal.let_go()
    await shop.settle_down()

    assert await shop.batcher.charge([payment_of(alice)]) == [Accepted(10, 10, replayed=True)]
    assert len(shop.charges) == 1


async def test_what_waits_for_a_caller_that_went_away_never_happens(shop: Scripted, alice: Payer) -> None:
    """Its neighbours in the batch are not disturbed."""
    held = await shop.batcher.reserve(payment_of(alice, 50))
    assert isinstance(held, Held)
    shop.journal.hold()
    first = asyncio.create_task(shop.batcher.charge([payment_of(alice)]))
    await shop.journal.appending.wait()
    leaving = [
        asyncio.create_task(shop.batcher.reserve(payment_of(alice, 3))),
        asyncio.create_task(shop.batcher.capture(held.handle, 10)),
        asyncio.create_task(shop.writer.run(forget)),
    ]
    staying = asyncio.create_task(shop.batcher.charge([payment_of(alice, 4)]))
    await shop.settle_down()
    for task in leaving:
        task.cancel()
    await shop.settle_down()
    shop.journal.let_go()

    assert await first == [Accepted(10, 10, replayed=False)]
    assert await staying == [Accepted(10, 20, replayed=False)]
    assert shop.ledger.reservations.keys() == {held.handle}
    assert shop.ledger.payments_forgotten_ms == 0
    assert await shop.batcher.release(held.handle) == Done(replayed=False)


# The moment of a decision.


async def test_a_decision_is_taken_at_the_moment_of_its_commit(shop: Scripted, alice: Payer) -> None:
    """The mirror went stale while the payment waited."""
    shop.journal.hold()
    first = asyncio.create_task(shop.batcher.charge([payment_of(alice)]))
    await shop.journal.appending.wait()
    second = asyncio.create_task(shop.batcher.charge([payment_of(alice, 2)]))
    await shop.settle_down()
    shop.stale_escrows = frozenset({ESCROW_REF})
    shop.journal.let_go()

    assert await first == [Accepted(10, 10, replayed=False)]
    (refused,) = await second
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.CHAIN_STALE


@pytest.mark.parametrize("writing", [WriterSettings(commit_weight_max=100)])
@pytest.mark.parametrize("batching", [BatcherSettings(batch_max=60)])
async def test_a_commit_carries_a_bounded_number_of_payments(shop: Scripted, alice: Payer) -> None:
    shop.journal.hold()
    tasks = [asyncio.create_task(shop.batcher.charge([payment_of(alice, 0)]))]
    await shop.journal.appending.wait()
    for batch in range(4):
        numbers = range(1 + batch * 60, 61 + batch * 60)
        payments = [alice.payment(number, 1, ceiling=1_000 + number) for number in numbers]
        tasks.append(asyncio.create_task(shop.batcher.charge(payments)))
        await asyncio.sleep(0)
    await shop.settle_down()
    async with asyncio.timeout(10):
        while len(shop.writer._waiting) < 4:  # noqa: ASYNC110 - threads check the signatures
            await asyncio.sleep(0.001)
    shop.journal.let_go()
    answers = [answer for batch in await asyncio.gather(*tasks) for answer in batch]

    assert all(isinstance(answer, Accepted) for answer in answers)
    sizes = [sum(isinstance(event, ev.Charged) for event in commit) for commit in shop.journal.commits]
    assert sizes[-5:] == [1, 60, 60, 60, 60]


@pytest.mark.parametrize("writing", [WriterSettings(decided_at_once=2)])
async def test_others_have_their_turn_while_a_large_commit_is_decided(shop: Scripted) -> None:
    order: list[str] = []

    def deciding(draft: Draft, _ledger: Ledger, moment: DecisionContext) -> None:
        order.append("decided")
        asyncio.get_running_loop().call_soon(order.append, "another")
        draft.record(ev.ChainAdvanced(ESCROW_REF, moment.now_ms, bytes(32)))

    await asyncio.gather(*(shop.writer.submit(deciding) for _ in range(4)))

    assert order[:6] == ["decided", "decided", "another", "another", "decided", "decided"]
    assert len(shop.journal.commits[-1]) == 4


async def test_stopping_answers_all_that_waits_and_takes_nothing_new(alice: Payer) -> None:
    books = PureLedger()
    books.fund(alice, 1_000)
    journal = ScriptedJournal()
    stopping = LedgerWriter(books.ledger, journal, clock_ms=lambda: NOW_MS)
    serving = asyncio.create_task(stopping.serve())
    journal.hold()
    stored = stopping.submit(forget)
    await journal.appending.wait()
    waiting = stopping.submit(forget)

    stopping.stop()
    with pytest.raises(StoreUnavailableError):
        await stopping.submit(forget)
    journal.let_go()
    assert (await stored, await waiting) == ("done", "done")
    await asyncio.wait_for(serving, 5)
