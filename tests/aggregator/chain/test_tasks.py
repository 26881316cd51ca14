"""Background work that fails is repeated and told of."""

import asyncio

import pytest

from tallystick_aggregator.chain.periodic import PeriodicTask
from tallystick_aggregator.chain.port import ChainUnavailableError
from waiting import until


async def test_a_failing_action_is_told_repeated_and_forgiven(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Exception] = [ValueError("a bug"), ChainUnavailableError("down")]
    runs: list[int] = []

    async def action() -> None:
        runs.append(1)
        if failures:
            raise failures.pop(0)

    task = PeriodicTask("work", action, 0.01, passing=(ChainUnavailableError,))
    task.start()
    await until(lambda: "a bug" in task.problem)
    await until(lambda: "down" in task.problem)
    await until(lambda: len(runs) >= 4)
    assert task.problem == ""
    assert task.alive
    await task.stop()
    assert not task.alive
    assert "Traceback" in caplog.text
    assert "work: ChainUnavailableError: down" in caplog.text


async def test_waking_does_not_wait_for_the_interval() -> None:
    done = asyncio.Event()

    async def action() -> None:
        done.set()

    task = PeriodicTask("work", action, 3_600)
    task.start()
    task.wake()
    async with asyncio.timeout(5):
        await done.wait()
    await task.stop()


async def test_stopping_ends_an_action_that_hangs() -> None:
    begun = asyncio.Event()

    async def action() -> None:
        begun.set()
        await asyncio.sleep(3_600)

    task = PeriodicTask("work", action, 0.01)
    task.start()
    await begun.wait()
    async with asyncio.timeout(5):
        await task.stop()
