"""What a failed transfer has left owed reaches those served, without their doing anything (C1), and never in vain."""

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from faults import FaultyNode
from harness import Side, chain_side

from _anvil import function
from anvil import Devnet, Payer, receiver
from tallystick_aggregator.chain.port import ChainUnavailableError, Send
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.claims.collecting import FAILED_TRANSFERS, PAUSE_S, PAUSE_S_MAX, SWEEP_S, Collecting
from tallystick_aggregator.claims.service import ClaimService, SettlementSettings
from tallystick_aggregator.store.memory import MemoryDisk
from tallystick_aggregator.store.port import OutboundTransaction, TransactionKind, TransactionStatus
from tallystick_aggregator.store.transactions import decode_outgoing

FIRST, SECOND, THIRD = (receiver(number) for number in range(3))
NEVER = SettlementSettings(interval_s=10**9)


class Clock:
    """Time that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def collecting(
    devnet: Devnet, clock: Clock, *, amount_min: int = 0, **keywords: Any
) -> AsyncIterator[tuple[Side, ClaimService, Collecting]]:
    async with chain_side(devnet, **keywords) as side:
        settlement = ClaimService(side.chain, side.writer, side.outbox, NEVER)
        try:
            yield (
                side,
                settlement,
                Collecting(side.chain, side.writer, side.outbox, amount_min=amount_min, clock=clock),
            )
        finally:
            await settlement.stop()


def list_black(devnet: Devnet, who: bytes, *, listed: bool) -> None:
    verb = "blacklist" if listed else "unBlacklist"
    devnet.anvil.send(devnet.operator.address, devnet.token, function(f"{verb}(address)", who))


def owed(devnet: Devnet, who: bytes) -> int:
    return int.from_bytes(devnet.anvil.call(devnet.escrow, function("owed(address,address)", who, devnet.token)), "big")


def collects(side: Side) -> list[OutboundTransaction]:
    found = [decode_outgoing(id_, body) for id_, body in side.disk.outbound.items()]
    return [outbound for outbound in found if outbound.kind is TransactionKind.COLLECT]


async def leave_owed(side: Side, settlement: ClaimService, payer: Payer, shops: Sequence[bytes], amount: int) -> None:
    """Charge, and settle while the shops are frozen."""
    for shop in shops:
        await side.must_charge(payer, shop, amount)
        list_black(side.devnet, shop, listed=True)
    await settlement.settle_now()
    await side.mirrored()


async def mined(side: Side) -> None:
    """Wait for the collects that were sent."""
    for outbound in collects(side):
        await side.chain.wait(outbound, final=True, timeout_s=10)


async def test_c1_what_is_owed_is_collected_once_it_can_be_paid(devnet: Devnet) -> None:
    payer, clock = devnet.payer(), Clock()
    async with collecting(devnet, clock) as (side, settlement, collector):
        await side.fund(payer, 10**9, FIRST, SECOND)
        await leave_owed(side, settlement, payer, [FIRST], 5_000)
        assert owed(devnet, FIRST) == 5_000
        await collector.check()
        assert collects(side) == []
        assert collector.problems() == [f"{side.chain.network}: 1 are owed what the token does not let the escrow pay"]

        list_black(devnet, FIRST, listed=False)
        clock.now += PAUSE_S
        await collector.check()
        await mined(side)
        assert (owed(devnet, FIRST), devnet.balance(FIRST)) == (0, 5_000)
        assert collector.problems() == []
        clock.now += SWEEP_S
        await collector.check()
        assert len(collects(side)) == 1


async def test_c1_what_cannot_be_paid_is_told_once_and_asked_ever_more_rarely(
    devnet: Devnet, caplog: pytest.LogCaptureFixture
) -> None:
    payer, clock = devnet.payer(), Clock()
    node = FaultyNode(RpcNode([devnet.anvil.url]))
    async with collecting(devnet, clock, node=node) as (side, settlement, collector):
        await side.fund(payer, 10**9, FIRST)
        await leave_owed(side, settlement, payer, [FIRST], 5_000)
        asked: list[float] = []
        real = side.chain.cost_wei

        async def counted(call: Any) -> int:
            asked.append(clock.now)
            return await real(call)

        side.chain.cost_wei = counted  # type: ignore[method-assign]
        with caplog.at_level(logging.ERROR, "tallystick.alarm"):
            for _ in range(400):
                await collector.check()
                clock.now += 300
        gaps = [later - earlier for earlier, later in pairwise(asked)]
        assert gaps == sorted(gaps)
        assert gaps[:3] == [PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S]
        assert gaps[-1] == PAUSE_S_MAX
        alarms = [record for record in caplog.records if "cannot pay it" in record.message]
        assert len(alarms) == 1
        assert "blacklisted" in alarms[0].message
        assert collects(side) == []


async def test_c1_a_restart_finds_what_was_owed_before(devnet: Devnet) -> None:
    payer, disk = devnet.payer(), MemoryDisk()
    async with collecting(devnet, Clock(), disk=disk) as (side, settlement, _):
        await side.fund(payer, 10**9, FIRST, SECOND)
        await leave_owed(side, settlement, payer, [FIRST, SECOND], 5_000)
    list_black(devnet, FIRST, listed=False)
    list_black(devnet, SECOND, listed=False)
    async with collecting(devnet, Clock(), disk=disk) as (side, _, collector):
        await side.mirrored()
        await collector.check()
        await mined(side)
        assert [devnet.balance(shop) for shop in (FIRST, SECOND)] == [5_000, 5_000]


async def test_c1_one_under_way_is_not_sent_again_not_even_after_a_restart(devnet: Devnet) -> None:
    payer, disk, clock = devnet.payer(), MemoryDisk(), Clock()
    node = FaultyNode(RpcNode([devnet.anvil.url]))
    async with collecting(devnet, clock, disk=disk, node=node) as (side, settlement, collector):
        await side.fund(payer, 10**9, FIRST)
        await leave_owed(side, settlement, payer, [FIRST], 5_000)
        list_black(devnet, FIRST, listed=False)
        node.losing_sends = True
        await collector.check()
        clock.now += PAUSE_S_MAX
        await collector.check()
        assert [outbound.status for outbound in collects(side)] == [TransactionStatus.PENDING]
    async with collecting(devnet, Clock(), disk=disk) as (side, _, collector):
        await collector.check()
        await mined(side)
        assert len(collects(side)) == 1
        assert devnet.balance(FIRST) == 5_000


async def test_c1_a_payer_is_served_too(devnet: Devnet) -> None:
    payer, clock = devnet.payer(), Clock()
    async with collecting(devnet, clock) as (side, _, collector):
        await side.fund(payer, 7_000)
        list_black(devnet, payer.signer.address, listed=True)
        call = side.chain.escrow.refund_call(payer.config, 7_000, 0)
        refund = await side.chain.send(Send(TransactionKind.REFUND, b"refund", call))
        await side.chain.wait(refund, final=True, timeout_s=10)
        await side.mirrored()
        assert owed(devnet, payer.signer.address) == 7_000
        list_black(devnet, payer.signer.address, listed=False)
        await collector.check()
        await mined(side)
        assert devnet.balance(payer.signer.address) == 7_000


@pytest.mark.parametrize(
    ("amount_min", "worth_gwei", "is_collected"),
    [
        (0, 0.0, True),
        (5_001, 0.0, False),  # below what is worth a claim
        (0, 1e9, True),  # 5,000 units are worth 5,000,000 gwei; a collect costs some 100,000 here
        (0, 0.0001, False),
    ],
)
async def test_c1_it_never_costs_more_than_it_is_worth(
    devnet: Devnet, amount_min: int, worth_gwei: float, is_collected: bool
) -> None:
    payer, clock = devnet.payer(), Clock()
    tokens = (replace(devnet.token_settings, worth_gwei=worth_gwei),)
    async with collecting(devnet, clock, amount_min=amount_min, tokens=tokens) as (side, settlement, collector):
        await side.fund(payer, 10**9, FIRST)
        await leave_owed(side, settlement, payer, [FIRST], 5_000)
        list_black(devnet, FIRST, listed=False)
        clock.now += PAUSE_S
        await collector.check()
        assert bool(collects(side)) == is_collected


async def test_c1_below_the_minimum_deposit_nothing_is_collected_unless_the_tokens_worth_is_known(
    devnet: Devnet,
) -> None:
    payer, clock = devnet.payer(), Clock()
    tokens = (replace(devnet.token_settings, min_deposit=6_000),)
    async with collecting(devnet, clock, tokens=tokens) as (side, settlement, collector):
        await side.fund(payer, 10**9, FIRST)
        await leave_owed(side, settlement, payer, [FIRST], 5_000)
        list_black(devnet, FIRST, listed=False)
        await collector.check()
        assert collects(side) == []
        list_black(devnet, FIRST, listed=True)
        await leave_owed(side, settlement, payer, [FIRST], 1_000)  # now it is enough
        list_black(devnet, FIRST, listed=False)
        clock.now += PAUSE_S
        await collector.check()
        await mined(side)
        assert devnet.balance(FIRST) == 6_000


async def test_c1_a_look_at_everybody_takes_a_few_at_a_time_and_an_outage_leaves_nobody_out(devnet: Devnet) -> None:
    shops = [receiver(100 + number) for number in range(FAILED_TRANSFERS.reads_per_check + 10)]
    payer, clock = devnet.payer(), Clock()
    node = FaultyNode(RpcNode([devnet.anvil.url]))
    async with collecting(devnet, clock, node=node) as (side, settlement, collector):
        await side.fund(payer, 10**9, *shops)
        for shop in shops:
            await side.must_charge(payer, shop, 2_000)
        await settlement.settle_now()
        await side.mirrored()
        looked_up: list[bytes] = []
        real = side.chain.escrow.owed
        failing = {shops[3]}

        async def counted(to: bytes, token: bytes, block: Any) -> int:
            looked_up.append(to)
            if to in failing:
                failing.clear()
                raise ChainUnavailableError("the test took the endpoint down")
            return await real(to, token, block)

        side.chain.escrow.owed = counted  # type: ignore[method-assign]
        with pytest.raises(ChainUnavailableError):
            await collector.check()
        before = len(looked_up)
        await collector.check()
        assert len(looked_up) - before == FAILED_TRANSFERS.reads_per_check
        await collector.check()
        assert set(looked_up) == {payer.signer.address, *shops}
        after = len(looked_up)
        await collector.check()
        assert len(looked_up) == after  # until the next day
        clock.now += SWEEP_S
        await collector.check()
        assert len(looked_up) == after + FAILED_TRANSFERS.reads_per_check
