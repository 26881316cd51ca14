"""Whether the aggregator serves, looked at every `LOOK_EVERY_S` and told by gRPC's health service and by /healthz.

NOT_SERVING while the store cannot be written, a background task is down, or the mirror of a chain is stale. What only
slows settlement down (an endpoint that does not answer, a fee above the cap, a withdrawal that is not claimed in time)
is logged, and SettlementService alone is NOT_SERVING: charges go on from the mirrored balances (threat 16).
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from tallystick_aggregator.charging import LedgerWriter
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.events import PaymentsForgotten
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.store.port import StoreUnavailableError

LOOK_EVERY_S: Final = 1.0
PROBE_EVERY_S: Final = 2.0

log = logging.getLogger(__name__)

Problems = Callable[[], Sequence[str]]
"""Tells what is wrong now, each in a few words."""


class TellHealth(Protocol):
    """What is told."""

    def __call__(self, *, serving: bool) -> Awaitable[None]:
        """Tell whether the aggregator serves."""
        ...


class TellSettling(Protocol):
    """What is told of settlement by itself."""

    def __call__(self, *, settling: bool) -> Awaitable[None]:
        """Tell whether what is charged gets claimed."""
        ...


async def _tell_nobody(*, settling: bool) -> None:
    del settling


class Health:
    """Watches the parts and tells when their health as a whole, or that of settlement, changes."""

    def __init__(
        self,
        parts: Sequence[Problems],
        tell: TellHealth,
        advisories: Sequence[Problems] = (),
        *,
        settlement: Sequence[Problems] = (),
        tell_settling: TellSettling = _tell_nobody,
    ) -> None:
        """`advisories` tell what is wrong without keeping the aggregator from serving, `settlement` what keeps sellers
        from being paid.
        """
        self._parts = parts
        self._advisories = advisories
        self._settlement = settlement
        self._tell = tell
        self._tell_settling = tell_settling
        self._told: tuple[bool, bool] | None = None
        self._advised: set[str] = set()
        self.problems: list[str] = []
        """What keeps the aggregator from serving, as of the last look."""

    async def look(self) -> None:
        """Look once."""
        before, self.problems = self.problems, [problem for part in self._parts for problem in part()]
        serving = not self.problems
        settling = serving and not any(part() for part in self._settlement)
        if (serving, settling) != self._told:
            if self._told is None or serving != self._told[0]:
                await self._tell(serving=serving)
            self._told = serving, settling
            await self._tell_settling(settling=settling)
        if self.problems != before:
            if serving:
                log.info("serving again")
            else:
                log.warning("not serving: %s", "; ".join(self.problems))
        advised = {problem for part in self._advisories for problem in part()}
        for problem in sorted(advised - self._advised):
            log.warning("%s", problem)
        self._advised = advised


async def probe(writer: LedgerWriter) -> None:
    """Try a store that is unavailable: its recovery must not wait for traffic (threat 30)."""
    if not writer.available:
        with contextlib.suppress(StoreUnavailableError):
            await writer.run(_change_nothing)


def _change_nothing(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> None:
    """Write an event that says what is known already."""
    draft.record(PaymentsForgotten(draft.payments_forgotten_ms))
