"""Background tasks that cannot die silently: one that ends is told, and restarted after a pause.

(`chain.tasks.PeriodicTask` does the same for work that is one call repeated; here are the tasks that run on their own.)
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 30.0
RECOVERED_S: Final = 5.0
"""A restarted task that has run for so long counts as well again."""

log = logging.getLogger(__name__)


class Supervisor:
    """Runs tasks until it is stopped."""

    def __init__(self, *, pause_s: float = PAUSE_S_MIN, recovered_s: float = RECOVERED_S) -> None:
        self._pause_s = pause_s
        self._recovered_s = recovered_s
        self._tasks: list[asyncio.Task[None]] = []
        self._problems: dict[str, str] = {}

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run this until stopped."""
        self._tasks.append(asyncio.create_task(self._keep(name, run), name=name))

    @property
    def problems(self) -> Sequence[str]:
        """What is wrong now; empty if all tasks run."""
        return [f"{name}: {problem}" for name, problem in self._problems.items()]

    async def stop(self) -> None:
        """Cancel all tasks, the newest first, and wait for their ends."""
        while self._tasks:
            task = self._tasks.pop()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        pause_s = self._pause_s
        while True:
            task = asyncio.ensure_future(run())
            try:
                done, _ = await asyncio.wait([task], timeout=self._recovered_s)
                if not done:
                    self._problems.pop(name, None)
                    pause_s = self._pause_s
                    await asyncio.wait([task])
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise
            self._problems[name] = self._tell(name, task)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _tell(self, name: str, task: "asyncio.Future[None]") -> str:
        error = None if task.cancelled() else task.exception()
        log.error("the task %r ended", name, exc_info=error)
        return f"ended ({type(error).__name__})" if error else "ended"
