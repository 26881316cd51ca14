"""Timers: reservations expire, old payment ids are forgotten, the journal is checkpointed; a full disk stops none."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from doubles import NOW_MS, Payer, PureLedger
from running import Scripted, running

from tallystick.reasons import Reason
from tallystick_aggregator.charging import maintenance
from tallystick_aggregator.charging.maintenance import Maintenance
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Held, Refusal
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import StoreUnavailableError

RULES = Rules()


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


@pytest.fixture
async def shop(alice: Payer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scripted]:
    monkeypatch.setattr(maintenance, "EXPIRY_EVERY_S", 0.001)
    monkeypatch.setattr(maintenance, "FORGET_EVERY_S", 0.001)
    books = PureLedger(RULES)
    books.fund(alice, 10**9)
    async with running(books) as shop:
        yield shop


@pytest.fixture
def timers(shop: Scripted) -> Maintenance:
    return Maintenance(shop.writer, shop.journal, RULES)


async def test_reservations_expire_when_their_time_is_over_and_not_before(
    shop: Scripted, alice: Payer, timers: Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EXPIRED_PER_COMMIT_MAX", 2)
    old = [await shop.batcher.reserve(alice.payment(number, 10, ceiling=1_000 + number)) for number in range(5)]
    shop.now_ms += 100_000
    young = await shop.batcher.reserve(alice.payment(9, 10, ceiling=2_000))
    assert isinstance(young, Held)
    expiring = asyncio.create_task(timers.expire_reservations())
    await asyncio.sleep(0.02)
    assert shop.ledger.accounts[alice.account_id].reservations == 6

    shop.now_ms = NOW_MS + RULES.reservation_s * 1000
    await asyncio.sleep(0.05)
    expiring.cancel()

    assert shop.ledger.accounts[alice.account_id].reservations == 1
    assert shop.ledger.reservations[young.handle].expires_at > 0
    late = old[0]
    assert isinstance(late, Held)
    assert await shop.batcher.capture(late.handle, 10) == Accepted(10, 10, replayed=False)


async def test_an_expired_reservation_that_nobody_captures_is_released_for_good(
    shop: Scripted, alice: Payer, timers: Maintenance
) -> None:
    held = await shop.batcher.reserve(alice.payment(1, 10, ceiling=1_000))
    assert isinstance(held, Held)
    shop.now_ms = NOW_MS + maintenance.LATE_CAPTURE_S * 1000 + 1
    expiring = asyncio.create_task(timers.expire_reservations())
    await asyncio.sleep(0.05)
    expiring.cancel()

    assert not shop.ledger.reservations
    refused = await shop.batcher.capture(held.handle, 10)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.RESERVATION_RELEASED


async def test_old_payment_ids_are_forgotten_once_their_retention_is_over(shop: Scripted, timers: Maintenance) -> None:
    forgetting = asyncio.create_task(timers.forget_payments())
    await asyncio.sleep(0.02)
    shop.now_ms += 5_000
    await asyncio.sleep(0.02)
    forgetting.cancel()

    assert shop.ledger.payments_forgotten_ms == NOW_MS + 5_000 - RULES.payment_id_retention_s * 1000
    forgotten = [event for event in shop.journal.events if isinstance(event, ev.PaymentsForgotten)]
    assert len(forgotten) == 2, "only when there is something to forget"


async def test_a_disk_that_is_full_for_a_while_stops_no_timer(
    shop: Scripted, alice: Payer, timers: Maintenance
) -> None:
    """Threat 30: it is the timer that comes round again, not traffic."""
    await shop.batcher.reserve(alice.payment(1, 10, ceiling=1_000))
    shop.now_ms += RULES.reservation_s * 1000
    shop.journal.refusals = 5
    running_timers = [asyncio.create_task(timers.expire_reservations()), asyncio.create_task(timers.forget_payments())]
    await asyncio.sleep(0.2)

    assert not any(task.done() for task in running_timers)
    assert shop.ledger.accounts[alice.account_id].reservations == 0
    assert shop.ledger.payments_forgotten_ms > 0
    assert shop.writer.available
    for task in running_timers:
        task.cancel()


async def test_the_journal_is_checkpointed_by_backlog_and_a_failure_is_tried_again(
    shop: Scripted, timers: Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def checkpoint(now_ms: int) -> None:
        asked.append(now_ms)
        if len(asked) == 1:
            raise StoreUnavailableError("disk full")
        shop.journal.backlog = 0

    monkeypatch.setattr(shop.journal, "checkpoint", checkpoint)
    checkpointing = asyncio.create_task(timers.checkpoint())
    shop.journal.backlog = maintenance.CHECKPOINT_BACKLOG - 1
    await asyncio.sleep(0.02)
    assert not asked

    shop.journal.backlog = maintenance.CHECKPOINT_BACKLOG
    await asyncio.sleep(0.05)
    checkpointing.cancel()
    assert asked == [NOW_MS, NOW_MS]


async def test_checkpoints_that_always_fail_are_told_and_tried_less_and_less_often(
    shop: Scripted, timers: Maintenance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[float] = []

    async def checkpoint(_now_ms: int) -> None:
        asked.append(asyncio.get_running_loop().time())
        if len(asked) < 6:
            raise StoreUnavailableError("a page is damaged")
        shop.journal.backlog = 0

    monkeypatch.setattr(shop.journal, "checkpoint", checkpoint)
    monkeypatch.setattr(maintenance, "EXPIRY_EVERY_S", 0.005)
    shop.journal.backlog = maintenance.CHECKPOINT_BACKLOG
    checkpointing = asyncio.create_task(timers.checkpoint())
    async with asyncio.timeout(10):
        while len(asked) < 2:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
        assert not timers.problems(), "once may happen"
        while len(asked) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert timers.problems() == ["5 checkpoints in a row failed; 200000 events wait for one"]
        while shop.journal.backlog:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    checkpointing.cancel()
    assert not timers.problems()
    assert asked[5] - asked[4] >= 16 * 0.005
    assert caplog.text.count("a page is damaged") == 5


async def test_nothing_is_forgotten_while_every_mirror_looks_stale(shop: Scripted, timers: Maintenance) -> None:
    """A clock that is far ahead makes every block look old, and what is forgotten is gone for good."""
    mirrors = [EscrowRef("eip155:1", bytes(20)), EscrowRef("eip155:2", bytes(20))]
    for mirror in mirrors:
        advanced = ev.ChainAdvanced(mirror, 7, bytes(32))
        await shop.writer.run(lambda draft, _, __, advanced=advanced: draft.record(advanced))
    shop.now_ms += 10**10
    shop.stale_escrows = frozenset(mirrors)
    forgetting = asyncio.create_task(timers.forget_payments())
    await asyncio.sleep(0.02)
    assert shop.ledger.payments_forgotten_ms == 0

    shop.stale_escrows = frozenset(mirrors[1:])
    await asyncio.sleep(0.02)
    forgetting.cancel()
    assert shop.ledger.payments_forgotten_ms == shop.now_ms - RULES.payment_id_retention_s * 1000


async def test_the_journal_is_checkpointed_by_age_and_a_failure_does_not_make_it_younger(
    shop: Scripted, timers: Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def checkpoint(now_ms: int) -> None:
        asked.append(now_ms)
        if len(asked) == 1:
            raise StoreUnavailableError("disk full")
        shop.journal.backlog = 0

    monkeypatch.setattr(shop.journal, "checkpoint", checkpoint)
    monkeypatch.setattr(maintenance, "CHECKPOINT_EVERY_S", 0.3)
    checkpointing = asyncio.create_task(timers.checkpoint())
    await asyncio.sleep(0.05)
    shop.journal.backlog = 1
    await asyncio.sleep(0.1)
    assert not asked, "too young"

    await asyncio.sleep(0.3)
    checkpointing.cancel()
    assert len(asked) == 2
