"""Waits for what a test looks at: with a short poll and a bound, because it has no event of its own."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

POLL_S: Final = 0.01

Found = TypeVar("Found")


async def until(condition: Callable[[], Found | Awaitable[Found]], timeout_s: float = 10) -> Found:
    """Wait until this is true, and return what it is then. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found  # type: ignore[return-value]  # awaited, if it could be
            await asyncio.sleep(POLL_S)


def wait_until(condition: Callable[[], Found], timeout_s: float, otherwise: Callable[[], str]) -> Found:
    """The same for tests without an event loop. Raises AssertionError with what `otherwise` says."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, otherwise()
        time.sleep(POLL_S)
    return found
