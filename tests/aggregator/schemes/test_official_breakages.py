"""What breaks in the official Python package (2.25), replayed against ours: none of it reproduces.

- a batch of 20 claims runs out of gas: claims/test_batch_settlement_claims.py, `test_of_a_hundred_rows_…`
- one drained channel fails the whole batch: there, `test_a_poisoned_row_is_left_out_and_all_others_land`
- an unauthenticated refund empties an escrow whose authorizer is delegated: `test_a_refund_nobody_authorised_…`
- an unknown channel's baseline is taken from the client's voucher: `test_an_unknown_channels_baseline_…`
- a stale lock file after kill -9 hangs every channel: `test_a_killed_process_leaves_no_lock_…`, and of a real process
  e2e/test_batch_settlement.py, `test_a_stale_lock_after_kill_9_hangs_no_channel`
- two workers lose 27 % of revenue: e2e/test_batch_client.py, `test_two_workers_lose_no_revenue`
- ten parallel calls give one success: `test_ten_parallel_calls_…`
- three settlements block the event loop for 6 s: `test_settlements_block_neither_…`; `verify_p99_ms` of
  `scripts/bench facilitator` measures it
- one failed broadcast leaves a nonce gap for good: chain/test_sender.py, `test_a_failed_broadcast_leaves_no_nonce_gap`
- a lost response makes the buyer pay twice: `test_a_lost_answer_and_a_retry_charge_once`
- a handler slower than its reservation loses the charge: `test_a_handler_that_is_slower_…`
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from batch_market import (
    PRICE,
    SELLER,
    TERMS,
    BatchMarket,
    BatchPayer,
    batch_market,
    message_of,
    pending_id,
    refused,
    settled,
)
from doubles import MUSIC

from tallystick.reasons import Reason
from tallystick_aggregator.auth.credentials import DeniedError, Principal
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.port import NOBODY, PAYLOAD, Caller, EncodedPayment
from tallystick_aggregator.store.memory import MemoryDisk

ALICE, MALLORY = BatchPayer("alice"), BatchPayer("mallory")
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


async def test_a_refund_nobody_authorised_moves_nothing(market: BatchMarket) -> None:
    """An unauthenticated refund empties an escrow whose authorizer is delegated: theirs. Ours is the receiver's alone,
    over a voucher that the payer has signed, and where the salt names the server's key over that key's signature.
    """
    held = pending_id(await market.verify(ALICE.pay(PRICE)))
    settled(await market.settle(ALICE.pay(PRICE, pending_id=held)))
    payment = EncodedPayment(PAYLOAD, message_of(ALICE.refund(PRICE)))
    other = Principal("music", frozenset({MUSIC}), SELLER.scopes)
    for release in (False, True):
        with pytest.raises(DeniedError):
            await market.facilitator.settle(other, TERMS, payment, Caller(other.name), release=release)
    assert refused(await market.facilitator.settle(None, TERMS, payment, NOBODY, release=False)).reason
    forged = replace(ALICE.refund(PRICE), voucher=ALICE.voucher(PRICE, MALLORY.signer))
    assert refused(await market.settle(forged)).reason is Reason.VOUCHER_SIGNATURE
    assert (market.chain.sent, market.account(ALICE).refund) == ([], None)
    assert market.chain.batch.channels[ALICE.channel_id].unclaimed == DEPOSIT


async def test_settlements_block_neither_the_event_loop_nor_verify(market: BatchMarket) -> None:
    """Three settlements block the event loop for 6 s: theirs. Ours wait for their blocks, and others are verified."""
    await market.chain.fund(MALLORY.config, DEPOSIT)
    market.chain.held = True
    payers = [BatchPayer(f"payer {number}") for number in range(3)]
    market.chain.balances.update({payer.signer.address: DEPOSIT for payer in payers})
    settling = [asyncio.create_task(market.settle(payer.deposit(DEPOSIT))) for payer in payers]
    async with asyncio.timeout(60):
        while len(market.chain.sent) < len(settling):  # noqa: ASYNC110 - the twin of the chain has no other sign
            await asyncio.sleep(0)
        ceiling = PRICE
        for _ in range(CALLS):
            held = pending_id(await market.verify(MALLORY.pay(ceiling)))
            settled(await market.settle(MALLORY.pay(ceiling, pending_id=held)))
            ceiling += PRICE
        assert not any(task.done() for task in settling), "no block was made yet"
        market.chain.held = False
        for answer in await asyncio.gather(*settling):
            settled(answer)
