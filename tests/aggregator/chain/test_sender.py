"""The sender of transactions on a real chain: what is sent lands once, whatever is lost, stuck or killed in between.

What it sends here mints play money: the one thing on this chain that a second landing would do twice.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from failing_disk import CrashedError, Fault, MemoryDisk, Operation
from faults import FaultyNode
from harness import Side, chain_side

from _anvil import Anvil, function, hexed
from anvil import Devnet
from tallystick.hashing import keccak256
from tallystick_aggregator.chain.port import Call, RevertedError, Send
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.chain.settings import ChainLimits, FeeSettings
from tallystick_aggregator.store.port import OutboundTransaction, TransactionKind, TransactionStatus
from tallystick_aggregator.store.transactions import decode_outgoing
from waiting import until

HOLDER = b"\x11" * 20
GWEI = 10**9


@pytest.fixture
async def node(devnet: Devnet) -> AsyncIterator[FaultyNode]:
    rpc = RpcNode([devnet.anvil.url])
    yield FaultyNode(rpc)
    await rpc.close()


IMPATIENT = ChainLimits(offer_again_s=0.1)


def sending_side(devnet: Devnet, **changes: Any) -> contextlib.AbstractAsyncContextManager[Side]:
    """A chain side that offers what waits again at once."""
    return chain_side(devnet, **{"limits": IMPATIENT} | changes)


def mint(devnet: Devnet, amount: int = 5) -> Call:
    return Call(devnet.token, function("mint(address,uint256)", HOLDER, amount))


async def send(side: Side, reference: bytes = b"one", amount: int = 5) -> OutboundTransaction:
    return await side.chain.send(Send(TransactionKind.EXACT, reference, mint(side.devnet, amount)))


async def ended(side: Side, outbound: OutboundTransaction) -> OutboundTransaction:
    return await side.chain.wait(outbound, final=True, timeout_s=10)


def mined_nonce(side: Side) -> int:
    return int(side.devnet.anvil.rpc("eth_getTransactionCount", hexed(side.devnet.sender.address), "latest"), 16)


async def test_a_transaction_lands_and_is_recorded(devnet: Devnet) -> None:
    async with sending_side(devnet) as side:
        final = await ended(side, await send(side))
        assert final.status is TransactionStatus.FINAL
        assert final.transaction_hash == final.attempts[0].transaction_hash
        assert final.gas_used > 0
        assert final.effective_gas_price_wei > 0
        assert final.block_number == devnet.anvil.block_number
        assert devnet.balance(HOLDER) == 5


async def test_the_same_reference_is_sent_once(devnet: Devnet) -> None:
    async with sending_side(devnet) as side:
        first = await send(side)
        assert (await send(side)).id == first.id
        await ended(side, first)
        assert (await send(side)).status is TransactionStatus.FINAL
        assert devnet.balance(HOLDER) == 5


async def test_what_would_revert_is_not_journaled(devnet: Devnet) -> None:
    async with sending_side(devnet) as side:
        bad = Call(devnet.escrow, function("collect(address,address)", HOLDER, devnet.token))
        with pytest.raises(RevertedError, match="NothingOwed"):
            await side.chain.send(Send(TransactionKind.EXACT, b"bad", bad))
        assert side.disk.outbound == {}


async def test_a_lost_reply_is_neither_failure_nor_a_second_payment(devnet: Devnet, node: FaultyNode) -> None:
    async with sending_side(devnet, node=node) as side:
        node.losing_replies = True
        outbound = await send(side)
        assert outbound.status is TransactionStatus.PENDING
        assert (await ended(side, outbound)).status is TransactionStatus.FINAL
        assert devnet.balance(HOLDER) == 5


async def test_a_lost_transaction_is_offered_again(devnet: Devnet, node: FaultyNode) -> None:
    async with sending_side(devnet, node=node) as side:
        node.losing_sends = True
        outbound = await send(side)
        with pytest.raises(TimeoutError):
            await side.chain.wait(outbound, timeout_s=0.3)
        node.losing_sends = False
        final = await ended(side, outbound)
        assert len(final.attempts) == 1
        assert devnet.balance(HOLDER) == 5


async def test_a_failed_broadcast_leaves_no_nonce_gap(devnet: Devnet, node: FaultyNode) -> None:
    """One failed broadcast leaves a nonce gap for good: not here, what failed is offered again under its own nonce."""
    async with sending_side(devnet, node=node) as side:
        node.losing_sends = True
        failed = await send(side, b"failed")
        node.losing_sends = False
        following = await send(side, b"following", 7)
        assert following.nonce == failed.nonce + 1
        for outbound in (failed, following):
            assert (await ended(side, outbound)).status is TransactionStatus.FINAL
        assert devnet.balance(HOLDER) == 12


async def test_a_crash_between_journaling_and_sending_is_made_good(devnet: Devnet) -> None:
    disk = MemoryDisk()
    async with sending_side(devnet, disk=disk) as side:
        disk.plan = lambda operation: Fault.CRASH_AFTER if operation is Operation.OUTBOX else Fault.NONE
        with pytest.raises(CrashedError):
            await send(side)
    assert devnet.balance(HOLDER) == 0
    disk.plan = lambda _: Fault.NONE
    async with sending_side(devnet, disk=disk) as side:
        assert (await ended(side, await send(side))).status is TransactionStatus.FINAL
        assert devnet.balance(HOLDER) == 5
        assert len(disk.outbound) == 1


async def test_a_crash_before_journaling_sends_nothing(devnet: Devnet) -> None:
    disk = MemoryDisk()
    async with sending_side(devnet, disk=disk) as side:
        before = mined_nonce(side)
        disk.plan = lambda operation: Fault.CRASH_BEFORE if operation is Operation.OUTBOX else Fault.NONE
        with pytest.raises(CrashedError):
            await send(side)
        assert mined_nonce(side) == before
        assert devnet.balance(HOLDER) == 0


async def test_a_crash_between_sending_and_recording_is_found_at_the_next_start(devnet: Devnet) -> None:
    disk = MemoryDisk()
    async with sending_side(devnet, disk=disk, poll_s=60) as side:
        outbound = await send(side)
        disk.plan = lambda _: Fault.REFUSED  # from here on the process knows, and cannot tell its disk
        await until(lambda: devnet.balance(HOLDER) == 5)
    disk.plan = lambda _: Fault.NONE
    async with sending_side(devnet, disk=disk) as side:
        before = mined_nonce(side)
        assert (await ended(side, outbound)).status is TransactionStatus.FINAL
        assert mined_nonce(side) == before
        assert devnet.balance(HOLDER) == 5


async def test_a_stuck_transaction_is_replaced_under_its_nonce(devnet: Devnet) -> None:
    devnet.anvil.automine(on=False)
    async with sending_side(devnet, replace_after_s=0.2) as side:
        outbound = await send(side)
        await until(lambda: len(_stored(side, outbound).attempts) >= 2)
        stored = _stored(side, outbound)
        first, second = stored.attempts[:2]
        assert second.max_fee_per_gas_wei >= first.max_fee_per_gas_wei * 1.125
        assert second.max_priority_fee_per_gas_wei >= first.max_priority_fee_per_gas_wei * 1.125
        devnet.anvil.automine(on=True)
        devnet.anvil.mine()
        final = await ended(side, outbound)
        assert final.nonce == outbound.nonce
        assert final.transaction_hash in {attempt.transaction_hash for attempt in final.attempts}
        assert devnet.balance(HOLDER) == 5


async def test_a_fee_spike_waits_under_the_cap_and_ends(devnet: Devnet) -> None:
    cap = 20 * GWEI
    fees = FeeSettings(max_fee_per_gas_wei=cap, priority_fee_per_gas_wei_max=2 * GWEI)
    devnet.anvil.automine(on=False)
    async with sending_side(devnet, fees=fees, replace_after_s=0.1) as side:
        devnet.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(100 * GWEI))
        devnet.anvil.mine()
        outbound = await send(side)
        devnet.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(100 * GWEI))
        devnet.anvil.mine()
        with pytest.raises(TimeoutError):
            await side.chain.wait(outbound, timeout_s=0.5)
        assert {attempt.max_fee_per_gas_wei for attempt in _stored(side, outbound).attempts} == {cap * 8 // 9}
        assert any("(nonce" in problem and "wait" in problem for problem in side.chain.problems())
        devnet.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        devnet.anvil.mine()
        devnet.anvil.automine(on=True)
        final = await ended(side, outbound)
        assert final.effective_gas_price_wei <= cap
        assert devnet.balance(HOLDER) == 5


async def test_a_bid_is_made_of_the_fees_of_now_though_a_price_was_read_just_before(devnet: Devnet) -> None:
    async with sending_side(devnet) as side:
        await ended(side, await send(side))
        assert await side.chain.gas_affordable() > 0
        devnet.anvil.automine(on=False)
        devnet.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(100 * GWEI))
        devnet.anvil.mine()
        dear = await send(side, b"two", 1)
        assert dear.attempts[-1].max_fee_per_gas_wei >= 100 * GWEI
        devnet.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        devnet.anvil.mine()
        await ended(side, dear)


async def test_a_nonce_gap_is_filled(devnet: Devnet, node: FaultyNode) -> None:
    """As after a reorganisation that took back what was final, or a restored backup: nobody knows the nonce before."""
    disk = MemoryDisk()
    async with sending_side(devnet, disk=disk, node=node) as side:
        await side.chain._sending.stop()  # nothing is offered again while the test takes it away
        node.losing_sends = True
        lost = await send(side, b"lost")
        await send(side, b"two", 7)
        del disk.outbound[lost.id]
        node.losing_sends = False
        side.chain._sending.start()
        await until(lambda: devnet.balance(HOLDER) == 7)
        await until(lambda: _kinds(side) == {TransactionKind.EXACT, TransactionKind.NONCE_FILLER})
        await ended(side, await send(side, b"three", 1))
        assert devnet.balance(HOLDER) == 8


async def test_what_was_mined_during_a_look_leaves_no_gap_where_a_node_is_behind(
    devnet: Devnet, node: FaultyNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its receipt is there, and the head of the look is from before it."""
    async with sending_side(devnet, node=node) as side:
        await side.chain._shared.sending.stop()
        head, mined = await node.head(), mined_nonce(side)
        await send(side)
        await until(lambda: mined_nonce(side) == mined + 1)
        devnet.anvil.automine(on=False)
        await send(side, b"two")

        async def behind(_sender: bytes) -> int:
            return mined

        monkeypatch.setattr(node, "next_nonce", behind)
        await side.chain._shared.sender.tick(head)
        assert _kinds(side) == {TransactionKind.EXACT}


async def test_r5_c1_a_gap_is_filled_with_the_gas_that_the_chain_asks_for(
    devnet: Devnet, node: FaultyNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a transaction's bytes cost gas as well, one with 21,000 would be refused, and all behind it would wait."""
    disk = MemoryDisk()
    estimate_gas = node.estimate_gas

    async def dear(from_: bytes, to: bytes, data: bytes, *, gas_max: int) -> int:
        return int(await estimate_gas(from_, to, data, gas_max=gas_max)) + 100_000

    monkeypatch.setattr(node, "estimate_gas", dear, raising=False)
    async with sending_side(devnet, disk=disk, node=node) as side:
        await side.chain._sending.stop()
        node.losing_sends = True
        lost = await send(side, b"lost")
        await send(side, b"two", 7)
        del disk.outbound[lost.id]
        node.losing_sends = False
        side.chain._sending.start()
        await until(lambda: devnet.balance(HOLDER) == 7)
        fills = [decode_outgoing(id_, body) for id_, body in disk.outbound.items()]
        assert [fill.gas_limit >= 121_000 for fill in fills if fill.kind is TransactionKind.NONCE_FILLER] == [True]


async def test_a_nonce_used_by_somebody_else_is_superseded_and_sent_anew(devnet: Devnet, node: FaultyNode) -> None:
    async with sending_side(devnet, node=node, confirmations=2) as side:
        node.losing_sends = True
        outbound = await send(side)
        _use_key_elsewhere(devnet.anvil, devnet.sender.address)
        with pytest.raises(TimeoutError):  # the other one is in a block, but not for good yet
            await side.chain.wait(outbound, final=True, timeout_s=0.3)
        assert _stored(side, outbound).status is TransactionStatus.PENDING
        devnet.anvil.mine(2)
        superseded = await ended(side, outbound)
        assert superseded.status is TransactionStatus.SUPERSEDED
        node.losing_sends = False
        again = await send(side)
        assert (again.id, again.nonce) == (outbound.id, outbound.nonce + 1)
        devnet.anvil.mine(3)
        assert (await ended(side, again)).status is TransactionStatus.FINAL
        assert devnet.balance(HOLDER) == 5


async def test_a_nonce_used_by_nobody_knows_whom_is_superseded_after_a_while(devnet: Devnet, node: FaultyNode) -> None:
    """As after a long outage, on nodes that keep the state of 128 blocks."""
    now = [1_800_000_000.0]
    async with sending_side(devnet, node=node, clock=lambda: now[0]) as side:
        node.losing_sends = True
        outbound = await send(side)
        node.forgetful = True
        _use_key_elsewhere(devnet.anvil, devnet.sender.address)
        with pytest.raises(TimeoutError):
            await side.chain.wait(outbound, timeout_s=0.3)
        assert _stored(side, outbound).status is TransactionStatus.PENDING
        now[0] += IMPATIENT.unproven_s
        superseded = await ended(side, outbound)
        assert (superseded.status, superseded.transaction_hash) == (TransactionStatus.SUPERSEDED, b"")
        assert devnet.balance(HOLDER) == 0


async def test_a_used_nonce_of_our_own_is_not_superseded_while_receipts_are_missing(
    devnet: Devnet, node: FaultyNode
) -> None:
    async with sending_side(devnet, node=node) as side:
        node.blind = True
        outbound = await send(side)
        await until(lambda: devnet.balance(HOLDER) == 5)
        with pytest.raises(TimeoutError):
            await side.chain.wait(outbound, timeout_s=0.4)
        assert _stored(side, outbound).status is TransactionStatus.PENDING
        node.blind = False
        assert (await ended(side, outbound)).status is TransactionStatus.FINAL


async def test_a_reorganisation_sends_a_mined_transaction_back_to_waiting(devnet: Devnet) -> None:
    devnet.anvil.mine(3)
    async with sending_side(devnet, confirmations=3) as side:
        outbound = await side.chain.wait(await send(side), timeout_s=10)
        assert outbound.status is TransactionStatus.MINED
        devnet.anvil.reorg(1)
        await until(lambda: _stored(side, outbound).status is TransactionStatus.PENDING)
        devnet.anvil.mine(1)
        await until(lambda: devnet.balance(HOLDER) == 5, timeout_s=20)
        devnet.anvil.mine(3)
        assert (await ended(side, outbound)).status is TransactionStatus.FINAL


async def test_what_a_reorganisation_took_back_is_not_called_mined_when_it_bids_more(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    devnet.anvil.mine(3)
    async with sending_side(devnet, confirmations=3, replace_after_s=0) as side:
        outbound = await side.chain.wait(await send(side), timeout_s=10)
        stored, update = list[OutboundTransaction](), side.outbox.update

        async def noted(changed: OutboundTransaction) -> None:
            stored.append(changed)
            await update(changed)

        monkeypatch.setattr(side.outbox, "update", noted)
        devnet.anvil.automine(on=False)
        devnet.anvil.reorg(1)
        await until(lambda: any(len(one.attempts) > len(outbound.attempts) for one in stored))
        assert {one.status for one in stored} == {TransactionStatus.PENDING}


async def test_a_revert_is_believed_when_it_is_final(devnet: Devnet, node: FaultyNode) -> None:
    devnet.anvil.mint(devnet.token, devnet.sender.address, 5)
    transfer = Call(devnet.token, function("transfer(address,uint256)", HOLDER, 5))
    async with sending_side(devnet, node=node, confirmations=2) as side:
        node.losing_sends = True
        outbound = await side.chain.send(Send(TransactionKind.EXACT, b"poor", transfer))
        devnet.anvil.rpc(
            "anvil_setStorageAt", hexed(devnet.token), _balance_slot(devnet.sender.address), hexed(bytes(32))
        )
        node.losing_sends = False
        await until(lambda: _mined(devnet.anvil, outbound), timeout_s=20)
        with pytest.raises(TimeoutError):
            await side.chain.wait(outbound, timeout_s=0.2)
        devnet.anvil.mine(2)
        assert (await ended(side, outbound)).status is TransactionStatus.REVERTED


async def test_endpoints_that_are_down_are_waited_out(devnet: Devnet, node: FaultyNode) -> None:
    async with sending_side(devnet, node=node) as side:
        outbound = await send(side)
        await ended(side, outbound)
        node.down = True
        await until(lambda: len(side.chain.problems()) >= 2)
        node.down = False
        await until(lambda: not side.chain.problems())
        await ended(side, await send(side, b"two", 1))
        assert devnet.balance(HOLDER) == 6


async def test_many_at_once_take_one_nonce_each(devnet: Devnet) -> None:
    async with sending_side(devnet) as side:
        sent = await asyncio.gather(*(send(side, b"%d" % number, 1) for number in range(20)))
        assert len({outbound.nonce for outbound in sent}) == 20
        await asyncio.gather(*(ended(side, outbound) for outbound in sent))
        assert devnet.balance(HOLDER) == 20


def _stored(side: Side, outbound: OutboundTransaction) -> OutboundTransaction:
    return decode_outgoing(outbound.id, side.disk.outbound[outbound.id])


def _kinds(side: Side) -> set[TransactionKind]:
    return {decode_outgoing(id_, body).kind for id_, body in side.disk.outbound.items()}


def _use_key_elsewhere(anvil: Anvil, address: bytes) -> None:
    anvil.send(address, HOLDER, b"")


def _mined(anvil: Anvil, outbound: OutboundTransaction) -> bool:
    hashes = [attempt.transaction_hash for attempt in outbound.attempts]
    return any(anvil.rpc("eth_getTransactionReceipt", hexed(hash_)) for hash_ in hashes)


def _balance_slot(holder: bytes) -> str:
    return hexed(keccak256(holder.rjust(32, b"\0") + bytes(32)))


async def test_r3_a_transaction_that_waits_for_long_is_an_alarm_once_and_those_behind_it_are_not(
    devnet: Devnet, caplog: pytest.LogCaptureFixture
) -> None:
    """Withdrawals behind it could end meanwhile: the alarm is out after a quarter of the shortest delay."""
    now = [float(int(devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16))]
    async with sending_side(devnet, clock=lambda: now[0], replace_after_s=1e9) as side:
        devnet.anvil.automine(on=False)
        sent = [await send(side, b"%d" % number, 1) for number in range(3)]
        await side.chain._shared.tick()
        assert not side.chain.problems()
        now[0] += side.chain.settings.stale_after_s
        await side.chain._shared.tick()
        assert any(f"EXACT {sent[0].id} (nonce" in problem for problem in side.chain.sending_problems())
        devnet.anvil.automine(on=True)
        devnet.anvil.mine(2)
        for outbound in sent:
            await ended(side, outbound)
        await until(lambda: not side.chain.sending_problems())
        assert caplog.text.count("and all behind it have waited") == 1
