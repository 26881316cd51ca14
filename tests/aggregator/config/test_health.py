"""Health is told when it changes, and a store that works again is found by a timer."""

import asyncio

import pytest
from failing_disk import Fault, MemoryDisk

from tallystick_aggregator.charging import LedgerWriter
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.runtime.health import Health, probe
from tallystick_aggregator.store.memory import MemoryJournal
from tallystick_aggregator.store.port import StoreUnavailableError


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


async def test_a_store_that_works_again_is_found_without_traffic() -> None:
    broken = True
    journal = MemoryJournal(MemoryDisk(plan=lambda _: Fault.REFUSED if broken else Fault.NONE))
    writer = LedgerWriter(await journal.load(), journal)
    serving = asyncio.create_task(writer.serve())
    with pytest.raises(StoreUnavailableError):
        await writer.run(lambda draft, _l, _m: draft.record(ev.ChainAdvanced("eip155:1", 1, bytes(32))))
    assert not writer.available
    await probe(writer)
    assert not writer.available
    broken = False
    await probe(writer)
    assert writer.available
    await probe(writer)
    writer.stop()
    await serving
    assert len(journal.disk.entries) == 1, "a store that works is left alone"
