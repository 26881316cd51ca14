"""Shared by the tests of the schemes: a market that is open while a test runs."""

from collections.abc import AsyncIterator

import pytest
from marketplace import Marketplace, marketplace


@pytest.fixture
async def market() -> AsyncIterator[Marketplace]:
    """A market without payers."""
    async with marketplace() as opened:
        yield opened
