"""Whether the aggregator serves, looked at once a second and told to whoever asks the gRPC health service.

NOT_SERVING while the store cannot be written, a background task is down, or the mirror of a chain is stale.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

LOOK_EVERY_S: Final = 1.0

log = logging.getLogger(__name__)

Problems = Callable[[], Sequence[str]]
"""Tells what is wrong now, each in a few words."""


class TellHealth(Protocol):
    """What is told."""

    def __call__(self, *, serving: bool) -> Awaitable[None]:
        """Tell whether the aggregator serves."""
        ...


class Health:
    """Watches the parts and tells when their health as a whole changes."""

    def __init__(self, parts: Sequence[Problems], tell: TellHealth) -> None:
        self._parts = parts
        self._tell = tell
        self._told: bool | None = None
        self.problems: list[str] = []
        """As of the last look."""

    async def look(self) -> None:
        """Look once."""
        before, self.problems = self.problems, [problem for part in self._parts for problem in part()]
        serving = not self.problems
        if serving != self._told:
            self._told = serving
            await self._tell(serving=serving)
        if self.problems != before:
            if serving:
                log.info("serving again")
            else:
                log.warning("not serving: %s", "; ".join(self.problems))

    async def watch(self) -> None:
        """Look every second until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)
