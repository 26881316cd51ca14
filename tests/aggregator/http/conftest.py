"""Shared by the tests of the HTTP edge: a real server on loopback over a market in memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_twin import ALICE, HttpEdge, http_edge


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[HttpEdge]:
    """A server with the usual limits; ALICE has ten times the price."""
    async with http_edge(tmp_path) as opened:
        opened.market.chain.balances[ALICE.signer.address] = 1_000
        yield opened
