"""Alice, Bob, and the aggregator that charges them; a file with needs of its own overrides one of these."""

from collections.abc import AsyncIterator

import pytest
from doubles import MUSIC, NEWS, Payer, PureLedger
from running import Scripted, running

from tallystick_aggregator.charging.batcher import BatcherSettings
from tallystick_aggregator.charging.writer import WriterSettings


@pytest.fixture
def alice() -> Payer:
    return Payer("alice")


@pytest.fixture
def bob() -> Payer:
    return Payer("bob")


@pytest.fixture
def batching() -> BatcherSettings:
    return BatcherSettings()


@pytest.fixture
def writing() -> WriterSettings:
    return WriterSettings()


@pytest.fixture
async def shop(alice: Payer, bob: Payer, batching: BatcherSettings, writing: WriterSettings) -> AsyncIterator[Scripted]:
    """Alice pays by vouchers, Bob by a spend key."""
    books = PureLedger()
    books.fund(alice, 10**9, NEWS, MUSIC)
    books.fund(bob, 10**9, NEWS, MUSIC)
    books.register(bob, bob.spend_key())
    async with running(books, batching, writing) as shop:
        yield shop
