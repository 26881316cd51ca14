"""A disk in memory that fails as a test plans: it is asked at every write what shall go wrong with it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from tallystick_aggregator.store import memory
from tallystick_aggregator.store.memory import Operation
from tallystick_aggregator.store.port import StoreUnavailableError

__all__ = ["CrashedError", "Fault", "MemoryDisk", "Operation"]


class Fault(Enum):
    """What can happen to a write."""

    NONE = auto()
    REFUSED = auto()
    """Nothing is stored; StoreUnavailableError is raised."""
    CRASH_BEFORE = auto()
    """Nothing is stored; CrashedError is raised."""
    CRASH_AFTER = auto()
    """It is stored, but nobody hears of it; CrashedError is raised."""


class CrashedError(Exception):
    """The process would be dead now. Only what is on the MemoryDisk may be used from here on."""


def _no_fault(_: Operation) -> Fault:
    return Fault.NONE


@dataclass(slots=True)
class MemoryDisk(memory.MemoryDisk):
    """What survives a crash."""

    plan: Callable[[Operation], Fault] = _no_fault

    def write(self, operation: Operation, store: Callable[[], None]) -> None:
        """Store something, unless the plan has it otherwise."""
        fault = self.plan(operation)
        if fault is Fault.REFUSED:
            raise StoreUnavailableError(f"{operation.name.lower()}: refused by the test's plan")
        if fault is Fault.CRASH_BEFORE:
            raise CrashedError(f"before {operation.name.lower()}")
        store()
        if fault is Fault.CRASH_AFTER:
            raise CrashedError(f"after {operation.name.lower()}")
