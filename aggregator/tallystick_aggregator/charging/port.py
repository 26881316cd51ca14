"""What the rest of the aggregator asks of the ledger's one writer. Only it changes money (docs/design.md §7)."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger

Answer = TypeVar("Answer")

Decision = Callable[[Draft, Ledger, DecisionContext], Answer]
"""A pure decision: reads the ledger, records events in the draft, returns an answer."""


class Writer(Protocol):
    """Runs decisions one after another, each durable before its answer."""

    @property
    def ledger(self) -> Ledger:
        """The state as of the last commit. For reading only, and only between awaits."""
        ...

    async def run(self, decision: Decision[Answer]) -> Answer:
        """Run a decision; when this returns, its events are on disk and in memory.

        Raises StoreUnavailableError if the journal cannot take them: then nothing has changed.
        """
        ...
