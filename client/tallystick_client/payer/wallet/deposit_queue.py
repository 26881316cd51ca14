"""Payments that wait for the same deposit take turns, and hear of its failure together.

Each trying again, the last of a hundred would hear of an aggregator that does not answer after an hour.
"""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple

from tallystick.errors import TallystickError
from tallystick_client.payer.errors import DepositNotAllowedError


class _Failure(NamedTuple):
    """Why a deposit was not made or not landed. With `lack` atomic units lacking or more, the next would fail alike."""

    lack: int
    error: TallystickError


class DepositQueue:
    """Who waits for a deposit at one operator in one token."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.failure: _Failure | None = None
        """Since the last success."""

    @contextmanager
    def one_failure(self, seen: _Failure | None, lack: Callable[[], int]) -> Generator[None, None, None]:
        """Fail as others did while this one waited (`seen`: the failure before that), or remember what fails here."""
        failure = self.failure
        if failure is not None and failure is not seen and lack() >= failure.lack:
            raise failure.error.with_traceback(None)  # else it would grow with each that waits
        try:
            yield
        except TallystickError as error:
            self.failure = _Failure(lack() if isinstance(error, DepositNotAllowedError) else 0, error)
            raise
        self.failure = None
