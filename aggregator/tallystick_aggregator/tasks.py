"""Work in the background that cannot die silently (threat 29), and work that several callers share."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

PAUSE_S_MAX: Final = 30.0
"""The longest pause after failures that follow one another."""

Key = TypeVar("Key")
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


async def until_woken(woken: asyncio.Event, pause_s: float) -> None:
    """Return when the event is set, or after the pause."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(pause_s):  # wait_for could swallow the cancellation of `stop`
            await woken.wait()


class PeriodicTask:
    """Runs an action every `interval_s`, and at once when woken. A failed one is repeated, ever more slowly."""

    def __init__(
        self,
        name: str,
        action: Callable[[], Awaitable[None]],
        interval_s: float,
        *,
        passing: tuple[type[Exception], ...] = (),
        retry_s: float | None = None,
        rest_s: float = 0.0,
        wait: Callable[[asyncio.Event, float], Awaitable[None]] = until_woken,
    ) -> None:
        """`passing`: exceptions that the world brings about; they are told in one line instead of a traceback.

        `retry_s`: how soon a failed run is repeated first; None: at the interval. `rest_s`: between two runs at least,
        even if it is woken. `wait` lets a pause pass, unless it is woken before.
        """
        self.name = name
        self._action = action
        self._interval_s = interval_s
        self._passing = passing
        self._retry_s = interval_s if retry_s is None else retry_s
        self._rest_s = rest_s
        self._wait = wait
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self.problem = ""
        """What the last run failed with; empty if it did not."""

    def start(self) -> None:
        """Begin; the first run is one interval away, unless it is woken before."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """End; a run that is under way is cancelled."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def wake(self) -> None:
        """Run as soon as possible."""
        self._woken.set()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._task is not None and not self._task.done()

    async def _run(self) -> None:
        while True:
            await self._wait(self._woken, self._pause_s())
            self._woken.clear()
            await self._once()
            if self._rest_s:
                await self._wait(asyncio.Event(), self._rest_s)

    def _pause_s(self) -> float:
        if not self._failures:
            return self._interval_s
        # It grows with failures, but never beyond what the work itself is planned at.
        return max(self._retry_s, min(self._retry_s * (1 << self._failures), PAUSE_S_MAX))

    async def _once(self) -> None:
        try:
            await self._action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next run comes
            self._failures = min(self._failures + 1, 10)
            problem = f"{self.name}: {type(error).__name__}: {error}"
            if not isinstance(error, self._passing):
                _log.exception("%s failed", self.name)
            elif problem != self.problem:
                _log.warning("%s", problem)
            self.problem = problem
        else:
            if self.problem:
                _log.info("%s works again", self.name)
            self._failures = 0
            self.problem = ""


class SingleFlight(Generic[Key, Result]):
    """Does a piece of work once for all who ask for it meanwhile. Who goes away does not stop it for the others."""

    def __init__(self) -> None:
        self._under_way: dict[Key, asyncio.Task[Result]] = {}

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._under_way)

    def __contains__(self, key: Key) -> bool:
        """Whether this one is under way."""
        return key in self._under_way

    async def run(self, key: Key, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Return what the work under this key comes to; begin it unless it is under way."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(work())
            task.add_done_callback(lambda _: self._under_way.pop(key))
        return await asyncio.shield(task)


class Shared(Generic[Key, Result]):
    """Asks each question once for all who ask it meanwhile. Nobody gets an answer to a question older than its own,
    unless it says that one will do.

    One that nobody waits for any more is given up.
    """

    def __init__(self) -> None:
        self._under_way: dict[Key, asyncio.Task[Result]] = {}
        self._next: dict[Key, asyncio.Task[Result]] = {}
        self._askers: Counter[asyncio.Task[Result]] = Counter()

    async def answer(self, key: Key, ask: Callable[[], Coroutine[Any, Any, Result]], *, joins: bool = False) -> Result:
        """Return the answer to a question that is asked from now on, once the one under way is answered.

        `joins`: that of the one under way will do, if there is one.
        """
        task = self._waited_for(key) if joins else None
        task = task or self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._asked(key, ask))
            task.add_done_callback(lambda done: self._forget(key, done))
        self._askers[task] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._askers[task] -= 1
            if not self._askers[task]:
                del self._askers[task]
                if self._next.get(key) is task:
                    del self._next[key]
                task.cancel()

    def _waited_for(self, key: Key) -> asyncio.Task[Result] | None:
        """The question under way, unless all who asked it are gone: then it is being given up."""
        task = self._under_way.get(key)
        return task if task is not None and self._askers[task] else None

    async def _asked(self, key: Key, ask: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        before = self._under_way.get(key)
        if before is not None:
            await asyncio.wait([before])
        self._under_way[key] = self._next.pop(key)
        return await ask()

    def _forget(self, key: Key, done: "asyncio.Task[Result]") -> None:
        if self._under_way.get(key) is done:
            del self._under_way[key]
        if not done.cancelled():
            done.exception()  # whoever asked may be gone
