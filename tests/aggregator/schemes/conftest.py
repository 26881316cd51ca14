"""Shared by the tests of the schemes: a market that is open while a test runs."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from marketplace import Marketplace, marketplace

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
async def market() -> AsyncIterator[Marketplace]:
    """A market without payers."""
    async with marketplace() as opened:
        yield opened
