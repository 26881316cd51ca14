"""Timers: reservations expire, old payment ids are forgotten, the journal is checkpointed; a full disk stops none."""

from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import pytest
from doubles import NOW_MS, Payer, PureLedger
from running import Scripted, running

from tallystick.reasons import Reason
from tallystick_aggregator.charging.maintenance import Maintenance, MaintenanceSettings
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Held, Refusal
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import StoreUnavailableError

RULES = Rules()
SETTINGS = MaintenanceSettings(expired_per_commit_max=2)


@pytest.fixture
async def shop(alice: Payer) -> AsyncIterator[Scripted]:
    books = PureLedger(RULES)
    books.fund(alice, 10**9)
    async with running(books) as shop:
        yield shop


class Clock:
    """A clock that a test moves."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timers(shop: Scripted, clock: Clock) -> Maintenance:
    return Maintenance(shop.writer, shop.journal, RULES, SETTINGS, clock=clock)


class Checkpoints:
    """The journal's checkpoints: so many fail first, and what waits is gone with the first good one."""

    def __init__(self, shop: Scripted, failures: int, clock: Callable[[], float]) -> None:
        self.asked: list[tuple[int, float]] = []
        self._shop, self._failures, self._clock = shop, failures, clock
        shop.journal.checkpoint = self  # type: ignore[method-assign]

    async def __call__(self, now_ms: int) -> None:
        self.asked.append((now_ms, self._clock()))
        if len(self.asked) <= self._failures:
            raise StoreUnavailableError("a page is damaged")
        self._shop.journal.backlog = 0


async def test_reservations_expire_when_their_time_is_over_and_not_before(
    shop: Scripted, alice: Payer, timers: Maintenance
) -> None:
    old = [await shop.batcher.reserve(alice.payment(number, 10, ceiling=1_000 + number)) for number in range(5)]
    shop.now_ms += 100_000
    young = await shop.batcher.reserve(alice.payment(9, 10, ceiling=2_000))
    assert isinstance(young, Held)
    await timers.expire_reservations()
    assert shop.ledger.accounts[alice.account_id].reservations == 6

    shop.now_ms = NOW_MS + RULES.reservation_s * 1000
    await timers.expire_reservations()

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
    shop.now_ms = NOW_MS + SETTINGS.late_capture_s * 1000 + 1
    await timers.expire_reservations()

    assert not shop.ledger.reservations
    refused = await shop.batcher.capture(held.handle, 10)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.RESERVATION_RELEASED


async def test_old_payment_ids_are_forgotten_once_their_retention_is_over(shop: Scripted, timers: Maintenance) -> None:
    await timers.forget_payments()
    await timers.forget_payments()
    shop.now_ms += 5_000
    await timers.forget_payments()
    await timers.forget_payments()

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
    for _ in range(4):
        await timers.expire_reservations()
        await timers.forget_payments()

    assert shop.ledger.accounts[alice.account_id].reservations == 0
    assert shop.ledger.payments_forgotten_ms > 0
    assert shop.writer.available


async def test_the_journal_is_checkpointed_by_backlog_and_a_failure_is_tried_again(
    shop: Scripted, timers: Maintenance, clock: Clock
) -> None:
    checkpoints = Checkpoints(shop, 1, clock)
    shop.journal.backlog = SETTINGS.checkpoint_backlog - 1
    await timers.checkpoint()
    assert not checkpoints.asked

    shop.journal.backlog = SETTINGS.checkpoint_backlog
    for _ in range(5):
        await timers.checkpoint()
        clock.now += 1
    assert [now_ms for now_ms, _ in checkpoints.asked] == [NOW_MS, NOW_MS]


async def test_checkpoints_that_always_fail_are_told_and_tried_less_and_less_often(
    shop: Scripted, timers: Maintenance, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(shop, 9, clock)
    shop.journal.backlog = SETTINGS.checkpoint_backlog
    while shop.journal.backlog:
        await timers.checkpoint()
        failures = len(checkpoints.asked)
        if failures < 3:
            assert not timers.problems(), "once or twice may happen"
        elif failures < 10:
            told = [f"{failures} checkpoints in a row failed; {SETTINGS.checkpoint_backlog} events wait for one"]
            assert timers.problems() == told
        clock.now += 1
    assert not timers.problems()
    pauses = [int(after - before) for (_, before), (_, after) in pairwise(checkpoints.asked)]
    assert pauses == [2, 4, 8, 16, 32, 64, 64, 64, 64]
    assert caplog.text.count("a page is damaged") == 9


async def test_checkpoints_that_fail_for_days_are_still_tried_and_told(
    shop: Scripted, timers: Maintenance, clock: Clock
) -> None:
    checkpoints = Checkpoints(shop, 2_000, clock)
    shop.journal.backlog = SETTINGS.checkpoint_backlog
    while shop.journal.backlog:
        await timers.checkpoint()
        clock.now += SETTINGS.checkpoint_pause_s_max
    assert len(checkpoints.asked) == 2_001
    assert not timers.problems()


async def test_nothing_is_forgotten_while_every_mirror_looks_stale(shop: Scripted, timers: Maintenance) -> None:
    """A clock that is far ahead makes every block look old, and what is forgotten is gone for good."""
    mirrors = [EscrowRef("eip155:1", bytes(20)), EscrowRef("eip155:2", bytes(20))]
    for mirror in mirrors:
        advanced = ev.ChainAdvanced(mirror, 7, bytes(32))
        await shop.writer.run(lambda draft, _, __, advanced=advanced: draft.record(advanced))
    shop.now_ms += 10**10
    shop.stale_escrows = frozenset(mirrors)
    await timers.forget_payments()
    assert shop.ledger.payments_forgotten_ms == 0

    shop.stale_escrows = frozenset(mirrors[1:])
    await timers.forget_payments()
    assert shop.ledger.payments_forgotten_ms == shop.now_ms - RULES.payment_id_retention_s * 1000


async def test_the_journal_is_checkpointed_by_age_and_a_failure_does_not_make_it_younger(
    shop: Scripted, timers: Maintenance, clock: Clock
) -> None:
    checkpoints = Checkpoints(shop, 1, clock)
    shop.journal.backlog = 1
    clock.now += SETTINGS.checkpoint_every_s - 1
    await timers.checkpoint()
    assert not checkpoints.asked, "too young"

    for _ in range(5):
        clock.now += 1
        await timers.checkpoint()
    assert len(checkpoints.asked) == 2
