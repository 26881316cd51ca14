"""What breaks in the official Python package (2.25), replayed against ours: none of it reproduces.

Claims of many rows and a drained channel among them are in claims/test_batch_settlement_claims.py.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from batch_market import PRICE, BatchMarket, BatchPayer, batch_market, pending_id, refused, settled

from tallystick.reasons import Reason
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.store.memory import MemoryDisk

ALICE = BatchPayer("alice")
DEPOSIT = 10_000
CALLS = 10


@pytest.fixture
async def market() -> AsyncIterator[BatchMarket]:
    """ALICE has a deposit; her channel is not known yet."""
    async with batch_market() as opened:
        await opened.chain.fund(ALICE.config, DEPOSIT)
        yield opened


async def buy(market: BatchMarket) -> int:
    """One call of a client that does what the standard says: it signs the next step and retries; how often it asked."""
    ceiling, asked = PRICE, 0
    while True:
        asked += 1
        answer = await market.verify(ALICE.pay(ceiling))
        if not isinstance(answer, Refusal):
            settled(await market.settle(ALICE.pay(ceiling, pending_id=pending_id(answer))))
            return asked
        if answer.reason is Reason.CUMULATIVE_AMOUNT_MISMATCH:
            ceiling = int(answer.allowed)
        else:
            assert answer.reason is Reason.CHANNEL_BUSY
        await asyncio.sleep(0)


async def test_an_unknown_channels_baseline_is_the_chains_not_the_clients_voucher(market: BatchMarket) -> None:
    """Theirs takes the client's word: a voucher one unit above it paid for a call of any price."""
    told = refused(await market.verify(ALICE.pay(5_001)))
    assert (told.reason, told.allowed) == (Reason.CUMULATIVE_AMOUNT_MISMATCH, str(PRICE))
    assert market.channel(ALICE).charged == 0


async def test_ten_parallel_calls_of_one_channel_all_succeed_one_after_the_other(market: BatchMarket) -> None:
    """Theirs lets one through; two servers that forward to the same facilitator lose nothing either."""
    async with asyncio.timeout(60):
        asked = await asyncio.gather(*(buy(market) for _ in range(CALLS)))
    assert len(asked) == CALLS
    assert max(asked) > 1, "some found the channel busy"
    assert market.channel(ALICE).charged == CALLS * PRICE


async def test_a_killed_process_leaves_no_lock_that_outlives_its_time() -> None:
    """Theirs leaves a file that hangs every channel until somebody deletes it."""
    disk = MemoryDisk()
    async with batch_market(disk) as before:
        await before.chain.fund(ALICE.config, DEPOSIT)
        pending_id(await before.verify(ALICE.pay(PRICE)))
        chain = before.chain
    async with batch_market(disk, chain=chain) as after:
        assert refused(await after.verify(ALICE.pay(PRICE))).reason is Reason.CHANNEL_BUSY
        await after.expire()
        assert await buy(after) == 1
        assert after.channel(ALICE).charged == PRICE


async def test_a_lost_answer_and_a_retry_charge_once(market: BatchMarket) -> None:
    """Theirs charges the buyer again."""
    held = pending_id(await market.verify(ALICE.pay(PRICE)))
    settled(await market.settle(ALICE.pay(PRICE, pending_id=held)))
    for again in (await market.verify(ALICE.pay(PRICE)), await market.settle(ALICE.pay(PRICE, pending_id=held))):
        told = refused(again)
        assert told.reason is Reason.CUMULATIVE_AMOUNT_MISMATCH
        assert told.extra["channelState"]["chargedCumulativeAmount"] == str(PRICE)
    assert market.channel(ALICE).charged == PRICE


async def test_a_handler_that_is_slower_than_its_reservation_is_still_paid(market: BatchMarket) -> None:
    """Theirs loses the charge."""
    held = pending_id(await market.verify(ALICE.pay(PRICE)))
    await market.expire()
    settled(await market.settle(ALICE.pay(PRICE, pending_id=held)))
    assert market.channel(ALICE).charged == PRICE
