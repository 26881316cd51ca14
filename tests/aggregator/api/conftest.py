"""Shared by the tests of the edge: a real gRPC server over the SQLite store, in this process."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from serving_twin import Edge, serving

from tallystick_aggregator.api.grpc.charge import ChargeLimits

Opened = Callable[..., AbstractAsyncContextManager[Edge]]


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    """A server with the usual limits."""
    async with serving(tmp_path) as opened:
        yield opened


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Servers with limits of the test's own."""

    def open_(limits: ChargeLimits | None = None) -> AbstractAsyncContextManager[Edge]:
        return serving(tmp_path, limits)

    return open_
