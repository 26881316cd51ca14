"""Background work that fails is repeated and told of; work that several ask for at once is done once."""

import asyncio
from collections.abc import Callable

import pytest

from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.tasks import PeriodicTask, Shared, SingleFlight


class Pauses:
    """Lets pauses pass at once, notes how long they were, and ends the task after so many."""

    def __init__(self, most: int, see: Callable[[], None] = lambda: None) -> None:
        self.passed: list[float] = []
        self.over = asyncio.Event()
        self._most = most
        self._see = see

    async def __call__(self, _woken: asyncio.Event, pause_s: float) -> None:
        """See `tasks.until_woken`."""
        self._see()
        if len(self.passed) == self._most:
            self.over.set()
            await asyncio.Event().wait()
        self.passed.append(pause_s)


async def test_a_failing_action_is_told_repeated_and_forgiven(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Exception] = [ValueError("a bug"), ChainUnavailableError("down")]
    problems: list[str] = []

    async def action() -> None:
        if failures:
            raise failures.pop(0)

    pauses = Pauses(4, lambda: problems.append(task.problem))
    task = PeriodicTask("work", action, 0.01, passing=(ChainUnavailableError,), wait=pauses)
    task.start()
    await pauses.over.wait()
    assert problems == ["", "work: ValueError: a bug", "work: ChainUnavailableError: down", "", ""]
    assert task.alive
    await task.stop()
    assert not task.alive
    assert "Traceback" in caplog.text
    assert "work: ChainUnavailableError: down" in caplog.text


async def test_an_action_that_keeps_failing_is_repeated_ever_more_slowly() -> None:
    async def action() -> None:
        raise RuntimeError

    pauses = Pauses(8)
    task = PeriodicTask("work", action, 1.0, wait=pauses)
    task.start()
    await pauses.over.wait()
    await task.stop()
    assert pauses.passed == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_work_planned_at_long_intervals_is_not_put_off_by_failures() -> None:
    async def action() -> None:
        raise RuntimeError

    pauses = Pauses(3)
    task = PeriodicTask("work", action, 60.0, wait=pauses)
    task.start()
    await pauses.over.wait()
    await task.stop()
    assert pauses.passed == [60, 60, 60]


async def test_rare_work_that_failed_is_repeated_soon() -> None:
    failures = [RuntimeError(), RuntimeError()]

    async def action() -> None:
        if failures:
            raise failures.pop()

    pauses = Pauses(5)
    task = PeriodicTask("work", action, 600.0, retry_s=1.0, wait=pauses)
    task.start()
    await pauses.over.wait()
    await task.stop()
    assert pauses.passed == [600, 2, 4, 600, 600]


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


async def test_stopping_ends_an_action_that_hangs_and_waits_for_its_end() -> None:
    begun = asyncio.Event()
    ended: list[bool] = []

    async def action() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    task = PeriodicTask("work", action, 3_600)
    task.start()
    task.wake()
    async with asyncio.timeout(5):
        await begun.wait()
        await task.stop()
    assert ended == [True]
    assert not task.problem


async def test_what_several_ask_for_at_once_is_done_once_though_one_goes_away() -> None:
    may_end = asyncio.Event()
    begun = 0

    async def work() -> int:
        nonlocal begun
        begun += 1
        await may_end.wait()
        return begun

    flights = SingleFlight[str, int]()
    first, second = (asyncio.create_task(flights.run("a", work)) for _ in range(2))
    await asyncio.sleep(0)
    assert "a" in flights
    first.cancel()
    may_end.set()
    assert await second == 1
    await asyncio.sleep(0)
    assert len(flights) == 0
    assert await flights.run("a", work) == 2


async def test_woken_work_rests_before_it_is_done_again() -> None:
    runs: list[int] = []

    async def action() -> None:
        runs.append(1)
        task.wake()

    pauses = Pauses(4)
    task = PeriodicTask("work", action, 9.0, rest_s=0.5, wait=pauses)
    task.start()
    await pauses.over.wait()
    await task.stop()
    assert (pauses.passed, len(runs)) == ([9.0, 0.5, 9.0, 0.5], 2)


async def test_a_question_is_shared_by_all_who_ask_before_it_is_asked_and_by_nobody_who_asks_later() -> None:
    asked: list[asyncio.Future[int]] = []

    async def ask() -> int:
        asked.append(asyncio.get_running_loop().create_future())
        return await asked[-1]

    shared = Shared[None, int]()
    early = [asyncio.create_task(shared.answer(None, ask)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    late = [asyncio.create_task(shared.answer(None, ask)) for _ in range(3)]
    late[0].cancel()
    await asyncio.sleep(0)
    assert len(asked) == 1, "one question at a time"
    asked[0].set_result(1)
    assert await asyncio.gather(*early) == [1, 1, 1]
    while len(asked) < 2:  # noqa: ASYNC110 - it is asked within a turn or two of the loop
        await asyncio.sleep(0)
    asked[1].set_result(2)
    assert await asyncio.gather(*late[1:]) == [2, 2]


async def test_who_takes_an_answer_of_a_moment_ago_joins_the_question_that_is_under_way() -> None:
    asked: list[asyncio.Future[int]] = []

    async def ask() -> int:
        asked.append(asyncio.get_running_loop().create_future())
        return await asked[-1]

    shared = Shared[None, int]()
    first = asyncio.create_task(shared.answer(None, ask, joins=True))
    while not asked:  # noqa: ASYNC110 - it is asked within a turn or two of the loop
        await asyncio.sleep(0)
    joined = asyncio.create_task(shared.answer(None, ask, joins=True))
    fresh = asyncio.create_task(shared.answer(None, ask))
    await asyncio.sleep(0)
    asked[0].set_result(1)
    assert await asyncio.gather(first, joined) == [1, 1]
    while len(asked) < 2:  # noqa: ASYNC110 - likewise
        await asyncio.sleep(0)
    asked[1].set_result(2)
    assert await fresh == 2


async def test_nobody_joins_a_question_that_is_being_given_up() -> None:
    asked: list[asyncio.Future[int]] = []

    async def ask() -> int:
        asked.append(asyncio.get_running_loop().create_future())
        return await asked[-1]

    shared = Shared[None, int]()
    gone = asyncio.create_task(shared.answer(None, ask))
    while not asked:  # noqa: ASYNC110 - it is asked within a turn or two of the loop
        await asyncio.sleep(0)
    gone.cancel()
    joining = asyncio.create_task(shared.answer(None, ask, joins=True))
    while len(asked) < 2:  # noqa: ASYNC110 - likewise
        await asyncio.sleep(0)
    asked[1].set_result(2)
    assert await joining == 2


async def test_a_question_that_failed_is_asked_again_by_the_next_one() -> None:
    outcomes: list[Exception | int] = [ChainUnavailableError("down"), 5]

    async def ask() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    shared = Shared[None, int]()
    with pytest.raises(ChainUnavailableError):
        await shared.answer(None, ask)
    assert await shared.answer(None, ask) == 5


async def test_a_question_that_nobody_waits_for_any_more_is_given_up_and_asked_again_by_the_next_one() -> None:
    asked: list[asyncio.Future[int]] = []

    async def ask() -> int:
        asked.append(asyncio.get_running_loop().create_future())
        return await asked[-1]

    shared = Shared[None, int]()
    gone = [asyncio.create_task(shared.answer(None, ask)) for _ in range(2)]
    await asyncio.wait(gone, timeout=0.01)
    waiting = asyncio.create_task(shared.answer(None, ask))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.wait(gone)
    while len(asked) < 2:  # noqa: ASYNC110 - it is asked within a turn or two of the loop
        await asyncio.sleep(0)
    assert asked[0].cancelled()
    waiting.cancel()
    late = asyncio.create_task(shared.answer(None, ask))
    while len(asked) < 3:  # noqa: ASYNC110 - likewise
        await asyncio.sleep(0)
    asked[2].set_result(7)
    assert await late == 7
