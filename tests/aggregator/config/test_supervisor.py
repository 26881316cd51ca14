import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from tallystick_aggregator.charging import LedgerWriter
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.runtime.health import Health, keep_probing
from tallystick_aggregator.runtime.supervisor import Supervisor
from tallystick_aggregator.store.memory import Fault, MemoryDisk, MemoryJournal
from tallystick_aggregator.store.port import StoreUnavailableError


async def until(condition: object, timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.002)


async def test_a_task_that_dies_is_told_restarted_and_well_again_after_a_while() -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise RuntimeError("died")
        await asyncio.sleep(3_600)

    supervisor = Supervisor(pause_s=0.03, recovered_s=0.1)
    supervisor.start("work", work)
    await until(lambda: supervisor.problems)
    assert list(supervisor.problems) == ["work: ended (RuntimeError)"]
    await until(lambda: runs == 2)
    assert supervisor.problems
    await until(lambda: not supervisor.problems)
    await supervisor.stop()


async def test_a_task_that_returns_has_ended_too() -> None:
    async def work() -> None:
        pass

    supervisor = Supervisor(pause_s=10)
    supervisor.start("work", work)
    await until(lambda: supervisor.problems)
    assert list(supervisor.problems) == ["work: ended"]
    await supervisor.stop()


async def test_a_task_that_keeps_dying_is_restarted_ever_more_slowly() -> None:
    started: list[float] = []

    async def work() -> None:
        started.append(asyncio.get_running_loop().time())
        raise RuntimeError

    supervisor = Supervisor(pause_s=0.01)
    supervisor.start("work", work)
    await until(lambda: len(started) == 5)
    await supervisor.stop()
    pauses = [after - before for before, after in pairwise(started)]
    assert all(pause >= 0.009 * 2**number for number, pause in enumerate(pauses))


async def test_stopping_ends_all_tasks_and_waits_for_their_ends() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(3_600)
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    supervisor = Supervisor()
    supervisor.start("first", lambda: work("first"))
    supervisor.start("second", lambda: work("second"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await supervisor.stop()
    assert ended == ["second", "first"]
    assert not supervisor.problems


class Told:
    """Remembers what health told."""

    def __init__(self) -> None:
        self.serving: list[bool] = []

    async def __call__(self, *, serving: bool) -> None:
        self.serving.append(serving)


async def test_health_turns_with_the_problems_of_its_parts_and_is_told_only_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problems: list[str] = []
    advisories: list[str] = []
    told = Told()
    health = Health([lambda: problems, list[str]], told, [lambda: advisories])
    await health.look()
    advisories.append("eip155:1: a fee above the cap")
    await health.look()
    problems.append("the store cannot be written")
    await health.look()
    await health.look()
    problems.clear()
    await health.look()
    assert told.serving == [True, False, True]
    assert caplog.text.count("a fee above the cap") == 1
    assert caplog.text.count("not serving: the store cannot be written") == 1


async def test_a_store_that_works_again_is_found_without_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick_aggregator.runtime.health.PROBE_EVERY_S", 0.01)
    broken = True
    journal = MemoryJournal(MemoryDisk(plan=lambda _: Fault.REFUSED if broken else Fault.NONE))
    writer = LedgerWriter(await journal.load(), journal)
    serving = asyncio.create_task(writer.serve())
    probing = asyncio.create_task(keep_probing(writer))
    with pytest.raises(StoreUnavailableError):
        await writer.run(
            lambda draft, _l, _m: draft.record(ev.ChainAdvanced(EscrowRef("eip155:1", bytes(20)), 1, bytes(32)))
        )
    assert not writer.available
    await asyncio.sleep(0.05)
    assert not writer.available
    broken = False
    await until(lambda: writer.available)
    probing.cancel()
    writer.stop()
    await serving
    events: Sequence[bytes] = journal.disk.entries
    assert len(events) == 1
