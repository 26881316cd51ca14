"""Payments that leave memory: recalled when asked for, complete from `payments_since_ms` on, dropped when forgotten."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from driven import check_payments, loaded_from, opened
from hypothesis import given
from hypothesis import strategies as st

from tallystick.channels import ChannelConfig
from tallystick.payment_ids import new_payment_id, payment_id_ms
from tallystick.quantities import ZERO_ADDRESS
from tallystick_aggregator.charging.writer import WriterSettings
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.payments import (
    PackedPayment,
    PaymentKey,
    PaymentStatus,
    pack_charged,
    status_of,
    unpack_payment,
)
from tallystick_aggregator.ledger.state import Ledger, payment_key
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.eviction import TRIMMED_AT_ONCE_MAX, RecentPayments
from tallystick_aggregator.store.port import StoreUnavailableError
from tallystick_aggregator.store.sqlite.checkpoint import CheckpointSettings, Pace
from tallystick_aggregator.store.sqlite.schema import ENDING_TABLES, PARTITION_MS
from tallystick_aggregator.store.sqlite.store import SqliteStore

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
ACCOUNT, CHANNEL, KEY, PAGE = b"a" * 32, b"c" * 32, b"k" * 32, b"p" * 32
CONFIG = ChannelConfig(b"p" * 20, b"q" * 20, ZERO_ADDRESS, b"o" * 20, b"t" * 20, 86_400, bytes(32))
OPENED: list[ev.Event] = [
    ev.AccountOpened(ACCOUNT, EscrowRef("eip155:1", bytes(20)), CONFIG),
    ev.AccountMirrored(ACCOUNT, 10**9, 0, 0),
    ev.ChannelOpened(CHANNEL, ACCOUNT, b"r" * 20, 0),
    ev.CeilingRaised(CHANNEL, 10**9, b"s" * 65),
    ev.SpendKeyRegistered(ACCOUNT, KEY, bytes(32), 10**9, 2**40),
]


def id_at(ms: int, number: int = 0) -> bytes:
    return new_payment_id(ms, number.to_bytes(10, "big"))


def charge(ms: int, number: int = 0) -> ev.Charged:
    return ev.Charged(CHANNEL, id_at(ms, number), 1, PAGE, 0, KEY)


REST_S = CheckpointSettings().rest_s
RESTLESS = CheckpointSettings(rest_s=0)
SMALL = replace(RESTLESS, payments_at_once=(16, 32, 64))


async def commit(store: SqliteStore, ledger: Ledger, events: Sequence[ev.Event]) -> None:
    draft = Draft(ledger)
    for event in events:
        draft.record(event)
    await store.journal.append(draft.events)
    draft.adopt()


async def settle_down(store: SqliteStore, now_ms: int = NOW_MS) -> None:
    await store.journal.checkpoint(now_ms)
    for _ in range(100):
        store.journal.trim()


async def test_old_payments_leave_memory_and_are_recalled(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db", hot_payments_max=10, hot_age_ms_max=HOUR_MS) as store:
        ledger = await store.journal.load()
        charges = [charge(NOW_MS - minutes * 60_000, minutes) for minutes in range(120)]
        await commit(store, ledger, [*OPENED, *charges])
        everything = dict(ledger.payments)
        await settle_down(store)
        assert len(ledger.payments) == 10
        assert ledger.payments_since_ms > NOW_MS - 11 * 60_000
        await check_payments(store.journal, ledger, Ledger(payments=everything))
        assert (
            await store.journal.recall([(CHANNEL, id_at(NOW_MS - 1, 999)), (bytes(32), charges[50].payment_id)]) == {}
        )
        assert await store.journal.recall([]) == {}


async def test_a_damaged_payment_is_never_believed(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db", hot_payments_max=0) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, [*OPENED, charge(NOW_MS)])
        await settle_down(store)
        (table,) = await _partitions(store)
        await store.journal._database.write(f"UPDATE {table} SET row = zeroblob(length(row))")
        with pytest.raises(StoreUnavailableError, match="does not match its checksum"):
            await store.journal.recall([(CHANNEL, id_at(NOW_MS))])


async def test_payments_leave_memory_by_age_although_there_is_room(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db", hot_age_ms_max=HOUR_MS) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, [*OPENED, charge(NOW_MS - 2 * HOUR_MS), charge(NOW_MS)])
        await settle_down(store)
        assert [payment_id_ms(key) for key in ledger.payments] == [NOW_MS]
        assert NOW_MS - 2 * HOUR_MS < ledger.payments_since_ms <= NOW_MS


async def test_an_old_id_that_is_accepted_late_is_found_wherever_it_is(tmp_path: Path) -> None:
    """The time in an id is its maker's claim: one from before `payments_since_ms` may come at any moment."""
    path = tmp_path / "store.db"
    async with opened(path, hot_payments_max=1) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, [*OPENED, *(charge(NOW_MS + second * 1_100) for second in range(5))])
        await settle_down(store)
        since_ms = ledger.payments_since_ms
        assert since_ms > NOW_MS
        late = charge(NOW_MS - 600_000)
        key = payment_key(CHANNEL, late.payment_id)
        assert await store.journal.recall([(CHANNEL, late.payment_id)]) == {}
        await commit(store, ledger, [late])
        assert key in ledger.payments, "in memory, until it is in a table"
        payment = ledger.payments[key]
        store.journal.trim()
        assert key in ledger.payments
    ledger = await loaded_from(path)
    assert ledger.payments[key] == payment, "after a restart it comes from the log"
    async with opened(path, hot_payments_max=1) as store:
        ledger = await store.journal.load()
        await settle_down(store)
        assert key not in ledger.payments
        assert await store.journal.recall([(CHANNEL, late.payment_id)]) == {key: payment}


async def test_ids_of_one_instant_leave_memory_together(tmp_path: Path) -> None:
    """A bound that falls between two ids of one millisecond must not cut them apart."""
    path = tmp_path / "store.db"
    async with opened(path, hot_payments_max=3) as store:
        ledger = await store.journal.load()
        charges = [charge(NOW_MS, number) for number in range(8)]
        await commit(store, ledger, [*OPENED, *charges])
        everything = dict(ledger.payments)
        await settle_down(store)
        await check_payments(store.journal, ledger, Ledger(payments=everything))
    async with opened(path, hot_payments_max=3) as store:
        ledger = await store.journal.load()
        assert len(ledger.payments) <= 3
        await check_payments(store.journal, ledger, Ledger(payments=everything))


async def test_the_payment_of_a_reservation_stays_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    handle = id_at(NOW_MS - 2 * HOUR_MS) + CHANNEL + b"h" * 16
    held = ev.Reserved(CHANNEL, handle[:16], 9, PAGE, 0, KEY, handle, NOW_MS)
    async with opened(path, hot_payments_max=0) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, [*OPENED, held, charge(NOW_MS)])
        await settle_down(store)
        assert [key for key in ledger.payments] == [handle[:48]]  # noqa: C416 - its order is its only content
    async with opened(path, hot_payments_max=0) as store:
        ledger = await store.journal.load()
        assert status_of(ledger.payments[handle[:48]]) is PaymentStatus.RESERVED
        await commit(store, ledger, [ev.Expired(handle)])
        await settle_down(store)
        assert status_of(ledger.payments[handle[:48]]) is PaymentStatus.EXPIRED, "a late capture is still possible"
        await commit(store, ledger, [ev.Captured(handle, CHANNEL, handle[:16], KEY, 5)])
        await settle_down(store)
        assert not ledger.payments
        assert not ledger.reservations
        assert not store.journal._hot._held, "it is followed like any other from now on"
        recalled = await store.journal.recall([(CHANNEL, handle[:16])])
        assert unpack_payment(handle[:48], recalled[handle[:48]]).captured == 5
        assert unpack_payment(handle[:48], recalled[handle[:48]]).handle == handle
        assert await store.journal._database.read("SELECT count(*) FROM reservations") == [(0,)]


async def test_a1_open_reservations_are_counted_again_from_a_checkpoint_and_the_log_after_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    handles = [id_at(NOW_MS + number) + CHANNEL + b"h" * 16 for number in range(3)]
    held = [ev.Reserved(CHANNEL, handle[:16], 9, PAGE, 0, KEY, handle, NOW_MS) for handle in handles]
    async with opened(path) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, [*OPENED, held[0], held[1]])
        await commit(store, ledger, [ev.Expired(handles[0])])
        await store.journal.checkpoint(NOW_MS)
        await commit(store, ledger, [held[2]])
        receiver = ledger.channels[CHANNEL].receiver
        assert ledger.open_reservations == {CHANNEL: 2, receiver: 2}
    assert (await loaded_from(path)).open_reservations == {CHANNEL: 2, receiver: 2}


async def test_a_reservation_that_begins_and_ends_between_checkpoints_leaves_no_row(tmp_path: Path) -> None:
    handle = id_at(NOW_MS) + CHANNEL + b"h" * 16
    async with opened(tmp_path / "store.db") as store:
        ledger = await store.journal.load()
        held = ev.Reserved(CHANNEL, handle[:16], 9, PAGE, 0, KEY, handle, NOW_MS)
        await commit(store, ledger, [*OPENED, held])
        await commit(store, ledger, [ev.Released(handle)])
        await store.journal.checkpoint(NOW_MS)
        assert await store.journal._database.read("SELECT count(*) FROM reservations") == [(0,)]
        assert status_of(ledger.payments[handle[:48]]) is PaymentStatus.RELEASED


@pytest.mark.parametrize("payments_at_once", [1, 1_024])
async def test_the_payment_of_a_reservation_that_began_and_ended_leaves_memory_and_is_not_held(
    tmp_path: Path, payments_at_once: int
) -> None:
    """Also where a checkpoint follows its changes one by one."""
    handle = id_at(NOW_MS) + CHANNEL + b"h" * 16
    async with opened(
        tmp_path / "store.db", hot_payments_max=0, checkpoints=CheckpointSettings(payments_at_once=(payments_at_once,))
    ) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, [*OPENED, ev.Reserved(CHANNEL, handle[:16], 9, PAGE, 0, KEY, handle, NOW_MS)])
        await commit(store, ledger, [ev.Released(handle)])
        await settle_down(store)
        assert not ledger.payments
        assert not store.journal._hot._held
        assert len(await store.journal.recall([(CHANNEL, handle[:16])])) == 1


async def test_a_large_commit_is_followed_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path / "store.db", checkpoints=CheckpointSettings(payments_at_once=(8,))) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, [*OPENED, *(charge(NOW_MS, number) for number in range(100))])
        followed = list[int]()
        monkeypatch.setattr(store.journal._hot, "wrote_payments", lambda payments: followed.append(len(payments)))
        await store.journal.checkpoint(NOW_MS)
    assert followed == [8] * 12 + [4]


async def test_a_reservation_that_ends_after_its_checkpoint_is_gone_after_the_next(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    handle = id_at(NOW_MS) + CHANNEL + b"h" * 16
    async with opened(path) as store:
        ledger = await store.journal.load()
        held = ev.Reserved(CHANNEL, handle[:16], 9, PAGE, 0, KEY, handle, NOW_MS)
        await commit(store, ledger, [*OPENED, held])
        await store.journal.checkpoint(NOW_MS)
        await commit(store, ledger, [ev.Released(handle)])
        await store.journal.checkpoint(NOW_MS)
        assert await store.journal._database.read("SELECT count(*) FROM reservations") == [(0,)]
    assert not (await loaded_from(path)).reservations


async def test_a_forgotten_spend_key_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    old, new = b"o" * 32, b"n" * 32
    async with opened(path) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, [*OPENED, ev.SpendKeyRegistered(ACCOUNT, old, bytes(32), 10**9, NOW_MS // 1000)])
        await store.journal.checkpoint(NOW_MS)
        forgotten = [ev.SpendKeyForgotten(ACCOUNT, old), ev.SpendKeyRegistered(ACCOUNT, new, bytes(32), 1, 2**40)]
        await commit(store, ledger, forgotten)
    async with opened(path) as store:
        ledger = await store.journal.load()
        await store.journal.checkpoint(NOW_MS)
        assert await store.journal._database.read("SELECT count(*) FROM spend_keys") == [(2,)]
        assert list(ledger.spend_key_names[ACCOUNT]) == [ACCOUNT + KEY, ACCOUNT + new]
    loaded = await loaded_from(path)
    assert (loaded.spend_keys, loaded.spend_key_names) == (ledger.spend_keys, ledger.spend_key_names)


@pytest.mark.parametrize("table", ENDING_TABLES)
async def test_ended_rows_that_a_crash_has_left_are_cleared_at_the_start(tmp_path: Path, table: str) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, OPENED)
        await store.journal.checkpoint(NOW_MS)
        await store.journal._database.write(f"INSERT INTO {table} (key, seq, row) VALUES (zeroblob(64), 1, NULL)")
    async with opened(path) as store:
        assert await store.journal._database.read(f"SELECT count(*) FROM {table} WHERE row IS NULL") == [(0,)]


async def _partitions(store: SqliteStore) -> set[str]:
    rows = await store.journal._database.read("SELECT name FROM sqlite_schema WHERE name GLOB 'payments_[0-9]*'")
    return {name for (name,) in rows}


async def test_partitions_are_dropped_once_all_their_payments_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first = NOW_MS // PARTITION_MS
    times = [(first + number) * PARTITION_MS + 5 for number in range(4)]
    async with opened(path, hot_payments_max=0) as store:
        ledger = await store.journal.load()
        charges = [charge(ms, number) for ms in times for number in range(1_500)]
        await commit(store, ledger, [*OPENED, *charges])
        await settle_down(store)
        assert await _partitions(store) == {f"payments_{first + number}" for number in range(4)}
        await commit(store, ledger, [ev.PaymentsForgotten(times[2])])
        await store.journal.checkpoint(NOW_MS)
        assert await _partitions(store) == {f"payments_{first + number}" for number in (2, 3)}
        gone, kept = charges[0], charges[2 * 1_500]
        found = await store.journal.recall([(CHANNEL, gone.payment_id), (CHANNEL, kept.payment_id)])
        assert found.keys() == {payment_key(CHANNEL, kept.payment_id)}
    async with opened(path) as store:
        ledger = await store.journal.load()
        assert ledger.payments_forgotten_ms == ledger.payments_since_ms == times[2]
        assert len(ledger.payments) == 2 * 1_500
        assert ledger.channels[CHANNEL].charged == len(charges), "what was charged stays charged"


async def test_charges_go_on_beside_a_checkpoint_and_a_dropped_partition(tmp_path: Path) -> None:
    old, new = NOW_MS - 10 * HOUR_MS, NOW_MS
    async with opened(tmp_path / "store.db", hot_payments_max=100) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, OPENED)
        for start in range(0, 20_000, 500):
            await commit(store, ledger, [charge(old + number, number) for number in range(start, start + 500)])
        await commit(store, ledger, [ev.PaymentsForgotten(old + 9 * HOUR_MS)])
        beside = asyncio.create_task(store.journal.checkpoint(new))
        commits = 0
        while not beside.done():
            await commit(store, ledger, [charge(new, commits)])
            store.journal.trim()
            commits += 1
        await beside
        assert commits > 40
        assert await _partitions(store) == set()
        await store.journal.checkpoint(new)
    ledger = await loaded_from(tmp_path / "store.db")
    assert ledger.channels[CHANNEL].charged == 20_000 + commits
    assert len(ledger.payments) == commits


async def test_dropping_a_partition_goes_on_in_the_next_checkpoint_once_as_much_waits(tmp_path: Path) -> None:
    old, new = NOW_MS - 10 * HOUR_MS, NOW_MS
    async with opened(tmp_path / "store.db", checkpoints=CheckpointSettings(payments_at_once=(10,))) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, [*OPENED, *(charge(old, number) for number in range(200))])
        await store.journal.checkpoint(new)
        await commit(store, ledger, [ev.PaymentsForgotten(new - HOUR_MS)])

        async def more() -> None:
            for number in range(2):
                await commit(store, ledger, [charge(new, number)])

        await asyncio.gather(store.journal.checkpoint(new), more())
        (left,) = await _partitions(store)
        assert await store.journal._database.read(f"SELECT count(*) > 100 FROM {left}") == [(1,)]
        await store.journal.checkpoint(new)
        assert left not in await _partitions(store)


async def test_portions_are_small_and_far_between_unless_more_than_a_third_of_one_comes_meanwhile() -> None:
    rests = list[float]()

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    appended = 10**6
    pace = Pace(lambda: appended, 0.01, CheckpointSettings(), sleep=sleep)
    sizes = list[tuple[int, int]]()
    for between in (0, 0, 1, 341, 342, 0, 0, 0, 682, 683, 10**6, 0, 0, 0, 3, 0):
        sizes.append(tuple(pace.size))
        appended += between
        await pace.rest()
    small, middle, large, all_at_once = (1_024, 64), (2_048, 64), (4_096, 64), (4_096, 256)
    assert sizes == [small] * 5 + [middle] * 5 + [large] + [all_at_once] * 4 + [small]
    assert rests[:3] == [0, 0, 0], "where nobody comes, nobody waits"
    assert rests[3:] == [REST_S] * 7 + [0] * 5 + [REST_S], "none between the largest"

    sizes.clear()
    rests.clear()
    for _ in range(4):
        appended += 10**6
        await pace.rest(look=False)
        sizes.append(tuple(pace.size))
    await pace.rest()
    sizes.append(tuple(pace.size))
    assert sizes == [small] * 5, "what writes nothing says nothing, then or later"
    assert rests == [REST_S] * 5


async def at_once(_seconds: float) -> None:
    """Rest without resting."""


@pytest.mark.parametrize(
    ("states_per_event", "between", "states", "rest_s"),
    [
        (1, 21, 64, REST_S),
        (1, 22, 256, 0),
        (3, 7, 64, REST_S),
        (3, 8, 256, 0),
        (3, 1_000, 256, 0),
        (0.03, 682, 64, REST_S),
    ],
)
async def test_portions_of_state_are_larger_the_more_of_it_changes_with_each_event(
    states_per_event: float, between: int, states: int, rest_s: float
) -> None:
    appended = 0
    pace = Pace(lambda: appended, states_per_event, CheckpointSettings(), sleep=at_once)
    appended += between
    await pace.rest()
    assert pace.size.states == states
    assert pace.rest_s == rest_s


def test_changes_count_all_rows_of_state() -> None:
    ledger = Ledger()
    draft = Draft(ledger)
    handle = id_at(NOW_MS) + CHANNEL + b"h" * 16
    for event in (*OPENED, ev.Reserved(CHANNEL, handle[:16], 9, PAGE, 0, KEY, handle, NOW_MS), charge(NOW_MS, 1)):
        draft.record(event)
    draft.adopt()
    assert ledger.changes.states == 4, "an account, a channel, a spend key and a reservation"


async def commit_after_each_write(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, make_commit: Callable[[], Awaitable[None]]
) -> tuple[int, int]:
    """Checkpoint while a commit comes between any two statements: on a disk of any speed the same.

    Returns the backlog before and after.
    """
    journal, write = store.journal, store.journal._database.write
    before = journal.backlog
    committing = False

    async def write_then_commit(sql: str, parameters: Sequence[Any] = ()) -> int:
        nonlocal committing
        written = await write(sql, parameters)
        if not committing:
            committing = True
            await make_commit()
            committing = False
        return written

    monkeypatch.setattr(journal._database, "write", write_then_commit)
    await asyncio.wait_for(journal.checkpoint(NOW_MS), 60)
    monkeypatch.undo()
    return before, journal.backlog


async def test_a_checkpoint_beside_full_commits_leaves_a_smaller_backlog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "store.db", checkpoints=RESTLESS) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, OPENED)
        numbers = count()

        async def charge_many() -> None:
            await commit(
                store, ledger, [charge(NOW_MS, n) for n in islice(numbers, WriterSettings().commit_weight_max)]
            )

        for _ in range(40):
            await charge_many()
        before, after = await commit_after_each_write(store, monkeypatch, charge_many)
        assert after < before


async def test_a_checkpoint_beside_charges_on_a_channel_each_leaves_a_smaller_backlog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(
        tmp_path / "store.db",
        checkpoints=replace(SMALL, states_at_once=(1, 32)),
    ) as store:
        ledger = await store.journal.load()
        numbers = count()

        async def open_and_charge(customers: int = 5) -> None:
            for number in islice(numbers, customers):
                account, channel = number.to_bytes(32, "big"), number.to_bytes(32, "little")
                opened = (
                    ev.AccountOpened(account, EscrowRef("eip155:1", bytes(20)), CONFIG),
                    ev.ChannelOpened(channel, account, b"r" * 20, 0),
                    ev.Charged(channel, id_at(NOW_MS, number), 1, PAGE, 1, b""),
                )
                await commit(store, ledger, opened)

        await open_and_charge(300)
        before, after = await commit_after_each_write(store, monkeypatch, open_and_charge)
        assert after < before


async def test_a_checkpoint_beside_charges_with_ids_of_all_times_leaves_a_smaller_backlog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "store.db", checkpoints=SMALL) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, OPENED)
        numbers = count()

        async def charge_some(charges: int = 2) -> None:
            scattered = ((NOW_MS - n % 9 * PARTITION_MS, n) for n in islice(numbers, charges))
            await commit(store, ledger, [charge(ms, n) for ms, n in scattered])

        await charge_some(400)
        before, after = await commit_after_each_write(store, monkeypatch, charge_some)
        assert after < before


async def test_a_checkpoint_beside_many_small_commits_leaves_a_shorter_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "store.db", checkpoints=replace(RESTLESS, log_entries_at_once_min=1)) as store:
        ledger = await store.journal.load()
        await commit(store, ledger, OPENED)
        numbers = count()

        async def charge_some(commits: int = 3) -> None:
            for number in islice(numbers, commits):
                await commit(store, ledger, [charge(NOW_MS, number)])

        await charge_some(500)
        await commit_after_each_write(store, monkeypatch, charge_some)
        assert await store.journal._database.read("SELECT count(*) < 500 FROM log") == [(1,)]


# Which payments stay in memory, as a pure thing.


class Tracked:
    """A ledger's payments and the object that follows them, with what a store's tables would have."""

    def __init__(self, count_max: int, age_ms_max: int) -> None:
        self.hot = RecentPayments(count_max, age_ms_max)
        self.ledger = Ledger()
        self.tables = dict[PaymentKey, PackedPayment]()

    def accept(self, ms: int, number: int) -> None:
        self.ledger.payments[payment_key(CHANNEL, id_at(ms, number))] = pack_charged(1, PAGE, number)

    def checkpoint(self, now_ms: int) -> None:
        new = {key: payment for key, payment in self.ledger.payments.items() if key not in self.tables}
        self.tables |= new
        self.hot.wrote_payments(new.items())
        self.hot.choose(now_ms)


STEP = st.one_of(
    st.tuples(st.just("accept"), st.integers(-5_000, 5_000)),
    st.tuples(st.just("checkpoint"), st.integers(0, 10_000)),
    st.tuples(st.just("trim"), st.just(0)),
)


@given(st.lists(STEP, max_size=60), st.integers(0, 5), st.sampled_from([0, 1_000, 10**9]))
def test_memory_answers_for_everything_since_and_tables_for_the_rest(
    steps: list[tuple[str, int]], count_max: int, age_ms_max: int
) -> None:
    tracked, accepted = Tracked(count_max, age_ms_max), set[bytes]()
    for number, (step, value) in enumerate(steps):
        if step == "accept":
            tracked.accept(NOW_MS + value, number)
            accepted |= tracked.ledger.payments.keys()
        elif step == "checkpoint":
            tracked.checkpoint(NOW_MS + value)
        else:
            tracked.hot.trim(tracked.ledger)
        for key in accepted:
            if payment_id_ms(key) >= tracked.ledger.payments_since_ms:
                assert key in tracked.ledger.payments
            else:
                assert key in tracked.ledger.payments or key in tracked.tables
    tracked.checkpoint(NOW_MS)
    while tracked.hot.leaving:
        tracked.hot.trim(tracked.ledger)
    assert len(tracked.ledger.payments) <= count_max


def test_memory_is_trimmed_in_bounded_steps() -> None:
    tracked = Tracked(0, 0)
    for number in range(3 * TRIMMED_AT_ONCE_MAX):
        tracked.accept(NOW_MS, number)
    tracked.checkpoint(NOW_MS + 10_000)
    left = []
    while tracked.hot.leaving:
        tracked.hot.trim(tracked.ledger)
        left.append(len(tracked.ledger.payments))
    assert left == [2 * TRIMMED_AT_ONCE_MAX, TRIMMED_AT_ONCE_MAX, 0]
    tracked.hot.trim(tracked.ledger)
    assert tracked.ledger.payments_since_ms > NOW_MS


@pytest.mark.parametrize("hot", [0, 1, 2, 3])
async def test_a_start_brings_no_more_into_memory_than_is_allowed(tmp_path: Path, hot: int) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        ledger = await store.journal.load()
        spread = [charge(NOW_MS + number * PARTITION_MS // 2, number) for number in range(3)]
        await commit(store, ledger, [*OPENED, *spread])
        everything = dict(ledger.payments)
        await store.journal.checkpoint(NOW_MS)
    async with opened(path, hot_payments_max=hot) as store:
        ledger = await store.journal.load()
        assert len(ledger.payments) == hot
        await check_payments(store.journal, ledger, Ledger(payments=everything))
