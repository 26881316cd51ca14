"""ClaimService on a real chain: sellers are paid to the unit, once, whatever happens to the transactions."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from failing_disk import Fault as DiskFault
from failing_disk import MemoryDisk, Operation
from faults import FaultyNode
from harness import Side, chain_side

from _anvil import function
from anvil import DELAY_S, Devnet, Payer, receiver
from tallystick.hashing import keccak256
from tallystick_aggregator.chain.deferred_escrow import CLAIM_COSTS
from tallystick_aggregator.chain.node import CallRevertedError
from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.chain.settings import FeeSettings
from tallystick_aggregator.claims.planner import Due, Policy
from tallystick_aggregator.claims.service import ClaimService, SettlementSettings
from tallystick_aggregator.claims.withdrawals import LANDING_S, URGENT_PAUSE_S
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.store.port import OutboundTransaction, Payout, TransactionKind, TransactionStatus
from tallystick_aggregator.store.transactions import decode_outgoing
from waiting import until

GWEI = 10**9
NEVER = SettlementSettings(interval_s=10**9)
FIRST, SECOND, THIRD = (receiver(number) for number in range(3))


@contextlib.asynccontextmanager
async def settling(
    devnet: Devnet, settings: SettlementSettings = NEVER, **keywords: Any
) -> AsyncIterator[tuple[Side, ClaimService]]:
    async with chain_side(devnet, **keywords) as side:
        settlement = ClaimService(side.chain, side.writer, side.outbox, settings)
        try:
            yield side, settlement
        finally:
            await settlement.stop()


async def test_sellers_are_paid_what_was_charged_to_the_unit(devnet: Devnet) -> None:
    payers = [devnet.payer() for _ in range(3)]
    async with settling(devnet) as (side, settlement):
        for number, payer in enumerate(payers):
            await side.fund(payer, 1_000_000, FIRST, SECOND)
            await side.must_charge(payer, FIRST, 1_001 + number)
            await side.must_charge(payer, FIRST, 10)
            await side.must_charge(payer, SECOND, 77)
        (claim,) = await settlement.settle_now()
        assert claim.status in {TransactionStatus.MINED, TransactionStatus.FINAL}
        assert devnet.balance(FIRST) == 3 * 1_011 + 3
        assert devnet.balance(SECOND) == 231
        assert set(claim.payouts) == {Payout(FIRST, devnet.token, 3_036), Payout(SECOND, devnet.token, 231)}
        await side.mirrored()
        assert all(side.account(payer).exposure == 0 for payer in payers)
        assert all(side.account(payer).funds == 1_000_000 for payer in payers)
        await settlement.settle_now()
        assert len(side.disk.outbound) == 1


async def test_only_the_asked_receivers_are_settled(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with settling(devnet) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST, SECOND)
        await side.must_charge(payer, FIRST, 5)
        await side.must_charge(payer, SECOND, 6)
        await settlement.settle_now([SECOND])
        assert (devnet.balance(FIRST), devnet.balance(SECOND)) == (0, 6)
        assert [claim.rows for claim in await side.outbox.claims([SECOND], 0, 10)] == [1]
        assert await side.outbox.claims([FIRST], 0, 10) == []


async def test_those_who_ask_while_they_wait_for_their_turn_share_one_settlement(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = devnet.payer()
    async with settling(devnet) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST, SECOND)
        await side.must_charge(payer, FIRST, 5)
        settled, settle = [], settlement._settle
        may_plan, planning = asyncio.Event(), asyncio.Event()

        async def watched(due: Due, only: frozenset[bytes] | None = None) -> list[OutboundTransaction]:
            settled.append(due.receivers if only is None else only)
            planning.set()
            await may_plan.wait()
            return await settle(due, only)

        monkeypatch.setattr(settlement, "_settle", watched)
        asking = [asyncio.create_task(settlement.settle_now([FIRST]))]
        await planning.wait()
        await side.must_charge(payer, FIRST, 2)  # the first run may have planned already: this is for the next
        asking += [asyncio.create_task(settlement.settle_now([FIRST])) for _ in range(50)]
        asking += [asyncio.create_task(settlement.settle_now([SECOND])) for _ in range(50)]
        await until(lambda: set(settlement._waiting) == {frozenset([FIRST]), frozenset([SECOND])})
        may_plan.set()
        await asyncio.gather(*asking)
        assert settled == [{FIRST}, {FIRST}, {SECOND}]
        assert devnet.balance(FIRST) == 7


async def test_a_withdrawals_claim_passes_those_who_ask_for_settlements(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = devnet.payer()
    async with settling(devnet) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 5)
        settlement._next_at = 2e18
        order: list[object] = []
        settle, may_go = settlement._settle, asyncio.Event()

        async def watched(due: Due, only: frozenset[bytes] | None = None) -> list[OutboundTransaction]:
            order.append("urgent" if only is not None else "asked")
            await may_go.wait()
            return await settle(due, only)

        monkeypatch.setattr(settlement, "_settle", watched)
        asking = [asyncio.create_task(settlement.settle_now([receiver(number)])) for number in range(9)]
        await until(lambda: order == ["asked"])
        payer.initiate_withdraw(1_000_000)
        await side.mirrored()
        checking = asyncio.create_task(settlement._check())
        await until(lambda: len(settlement._one._waiters or ()) == 1)  # it stands in line for the network
        may_go.set()
        await asyncio.gather(checking, *asking)
        assert order[:3] == ["asked", "urgent", "asked"]
        assert len(order) == 10


async def test_a_settlement_that_failed_is_no_longer_joined_and_one_that_stops_leaves_nothing(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = devnet.payer()
    async with settling(devnet) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 5)
        in_flight = settlement._in_flight

        async def fail() -> dict[bytes, int]:
            raise ChainUnavailableError("nobody answers")

        monkeypatch.setattr(settlement, "_in_flight", fail)
        for outcome in await asyncio.gather(
            *(settlement.settle_now([FIRST]) for _ in range(3)), return_exceptions=True
        ):
            assert isinstance(outcome, ChainUnavailableError)
        monkeypatch.setattr(settlement, "_in_flight", in_flight)
        await settlement.settle_now([FIRST])
        assert devnet.balance(FIRST) == 5
        async with settlement._one:
            waiting = asyncio.create_task(settlement.settle_now([FIRST]))
            await asyncio.sleep(0)
            await settlement.stop()
            await asyncio.wait([waiting], timeout=5)
        assert waiting.cancelled()
        assert not settlement._waiting


async def test_rows_in_flight_are_not_claimed_again_and_are_waited_for(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with settling(devnet) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 5)
        devnet.anvil.automine(on=False)
        (waiting,) = await settlement.settle_now(timeout_s=0.1)
        assert waiting.status is TransactionStatus.PENDING
        await side.must_charge(payer, FIRST, 2)
        asking = asyncio.create_task(settlement.settle_now([FIRST]))
        await until(lambda: len(side.disk.outbound) == 2)
        devnet.anvil.automine(on=True)
        devnet.anvil.mine(2)
        first, second = await asking
        assert first.id == waiting.id
        assert second.payouts == (Payout(FIRST, devnet.token, 2),)
        assert devnet.balance(FIRST) == 7


async def test_a_restart_knows_what_is_in_flight(devnet: Devnet) -> None:
    payer = devnet.payer()
    disk = MemoryDisk()
    async with settling(devnet, disk=disk) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 5)
        devnet.anvil.automine(on=False)
        await settlement.settle_now(timeout_s=0.1)
    async with settling(devnet, disk=disk) as (side, settlement):
        (claim,) = await settlement.settle_now(timeout_s=0.1)
        devnet.anvil.automine(on=True)
        devnet.anvil.mine()
        await side.chain.wait(claim, timeout_s=10)
        assert len(disk.outbound) == 1
        assert devnet.balance(FIRST) == 5


async def test_a_crash_between_journaling_and_sending_a_claim_pays_once(devnet: Devnet) -> None:
    payer = devnet.payer()
    disk = MemoryDisk()
    async with settling(devnet, disk=disk) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 5)
        disk.plan = lambda op: DiskFault.CRASH_AFTER if op is Operation.OUTBOX else DiskFault.NONE
        with pytest.raises(Exception, match="after outbox"):
            await settlement.settle_now()
        assert devnet.balance(FIRST) == 0
    disk.plan = lambda _: DiskFault.NONE
    async with settling(devnet, disk=disk) as (side, settlement):
        await settlement.settle_now()
        assert devnet.balance(FIRST) == 5
        assert [outbound.kind for outbound in _outgoing(side)] == [TransactionKind.CLAIM]


async def test_a_blacklisted_receiver_does_not_hold_up_the_others(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with settling(devnet) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST, SECOND)
        await side.must_charge(payer, FIRST, 5)
        await side.must_charge(payer, SECOND, 6)
        devnet.anvil.send(devnet.sender.address, devnet.token, function("blacklist(address)", FIRST))
        await settlement.settle_now()
        assert (devnet.balance(FIRST), devnet.balance(SECOND)) == (0, 6)
        owed = devnet.anvil.call(devnet.escrow, function("owed(address,address)", FIRST, devnet.token))
        assert int.from_bytes(owed, "big") == 5
        await side.mirrored()
        assert side.account(payer).exposure == 0


async def test_an_account_that_holds_too_little_is_claimed_again_after_a_top_up(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with settling(devnet) as (side, settlement):
        await side.fund(payer, 10_000, FIRST)
        payer.initiate_withdraw(8_000)  # an outage: the withdrawal ends while nobody claims
        await charge_before_it_is_seen(side, payer, 9_000)
        devnet.anvil.advance(DELAY_S + 1)
        payer.finalize_withdraw()
        await side.mirrored()
        (claim,) = await settlement.settle_now()
        assert devnet.balance(FIRST) == 2_000
        assert claim.payouts == (Payout(FIRST, devnet.token, 2_000),)
        await settlement.settle_now()
        assert len(side.disk.outbound) == 1  # nothing there: a claim would be wasted
        payer.deposit(20_000)
        await side.chain.wait(claim, final=True, timeout_s=10)  # until then its row is under way
        await until(lambda: side.account(payer).funds == 22_000)
        await settlement.settle_now()
        assert devnet.balance(FIRST) == 9_000


async def charge_before_it_is_seen(side: Side, payer: Payer, amount: int) -> None:
    """Charge as if the mirror had not seen the withdrawal yet."""
    funds = side.account(payer).funds

    def forget(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> None:
        draft.record(ev.AccountMirrored(payer.account_id, funds, 0, 0))

    await side.mirrored()
    await side.writer.run(forget)
    await side.must_charge(payer, FIRST, amount)


async def test_a_withdrawal_is_answered_by_a_claim_at_once(devnet: Devnet) -> None:
    payer, other = devnet.payer(), devnet.payer()
    hourly = SettlementSettings(interval_s=3_600, policy=Policy(min_amount=10**6))
    async with settling(devnet, hourly) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST)
        await side.fund(other, 1_000_000, SECOND)
        settlement.start()
        await settlement._check()  # the first run takes what waited before the start
        await side.must_charge(payer, FIRST, 5)
        await side.must_charge(other, SECOND, 6)
        await settlement._check()
        assert side.disk.outbound == {}
        payer.initiate_withdraw(1_000_000)
        await until(lambda: devnet.balance(FIRST) == 5)
        assert devnet.balance(SECOND) == 0
        await until(lambda: side.account(payer).exposure == 0)
        assert not settlement.problems()


async def test_an_alarm_is_out_before_an_unclaimed_withdrawal_can_end(
    devnet: Devnet, caplog: pytest.LogCaptureFixture
) -> None:
    payer = devnet.payer()
    node = FaultyNode(RpcNode([devnet.anvil.url]))
    now = [float(int(devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16))]
    async with chain_side(devnet, node=node, clock=lambda: now[0]) as side:
        settlement = ClaimService(side.chain, side.writer, side.outbox, NEVER, clock=lambda: now[0])
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 5)
        settlement._next_at = 2e18
        payer.initiate_withdraw(1_000_000)
        await side.mirrored()
        node.losing_sends = True
        await settlement._check()
        assert not settlement.problems()
        now[0] += DELAY_S - 1_000
        node.down = True  # so late, and nobody answers
        with contextlib.suppress(Exception):
            await settlement._check()
        assert any("withdrawing accounts" in problem for problem in settlement.problems())
        assert "is charged but not claimed" in caplog.text


async def test_an_approval_replaces_the_vouchers(devnet: Devnet) -> None:
    payer = devnet.payer()
    sellers = [receiver(100 + number) for number in range(10)]
    async with settling(devnet) as (side, settlement):
        await side.fund(payer, 1_000_000, *sellers)
        for number, seller in enumerate(sellers):
            await side.must_charge(payer, seller, 100 + number)
        await side.approve(payer, sellers)
        await settlement.settle_now()
        assert [devnet.balance(seller) for seller in sellers] == [100 + number for number in range(10)]
        (claim,) = _outgoing(side)
        assert len(claim.data) < 10 * 98  # ten vouchers alone would be as long
        await side.must_charge(payer, sellers[0], 1)
        await settlement.settle_now()
        assert devnet.balance(sellers[0]) == 101


async def test_a_batch_that_is_too_big_is_split(devnet: Devnet) -> None:
    """The planner believes that any batch fits; the node's estimate says otherwise."""
    costs = replace(CLAIM_COSTS, voucher_row_gas=1, first_claim_gas=1, receiver_gas=1, account_gas=1)
    payer = devnet.payer()
    sellers = [receiver(1_000 + number) for number in range(400)]
    async with settling(devnet, claim_costs=costs) as (side, settlement):
        await side.fund(payer, 1_000_000_000, *sellers)
        for seller in sellers:
            await side.must_charge(payer, seller, 9)
        claims = await settlement.settle_now()
        assert len(claims) == 2
        assert sum(claim.rows for claim in claims) == 400
        assert all(devnet.balance(seller) == 9 for seller in sellers)


async def test_claims_go_on_after_a_claim_was_superseded(devnet: Devnet) -> None:
    payer = devnet.payer()
    node = FaultyNode(RpcNode([devnet.anvil.url]))
    async with settling(devnet, node=node) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 5)
        node.losing_sends = True
        (lost,) = await settlement.settle_now(timeout_s=0.1)
        devnet.anvil.send(devnet.sender.address, FIRST, b"")  # somebody else uses the key
        assert (await side.chain.wait(lost, timeout_s=10)).status is TransactionStatus.SUPERSEDED
        node.losing_sends = False
        await settlement.settle_now()
        assert devnet.balance(FIRST) == 5


async def test_a_sender_that_lost_its_right_is_told_once_and_no_row_is_blamed(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with settling(devnet) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 5)
        forbid = function("setSender(address,bool)", devnet.sender.address, 0)
        devnet.anvil.send(devnet.operator.address, devnet.escrow, forbid)
        with pytest.raises(Exception, match="NotOperatorOrSender"):
            await settlement.settle_now()
        allow = function("setSender(address,bool)", devnet.sender.address, 1)
        devnet.anvil.send(devnet.operator.address, devnet.escrow, allow)
        await settlement.settle_now()
        assert devnet.balance(FIRST) == 5


def _outgoing(side: Side) -> list[OutboundTransaction]:
    return [decode_outgoing(id_, body) for id_, body in sorted(side.disk.outbound.items())]


# Trouble that passes, and trouble that does not (R12).


class Estimates(FaultyNode):
    """Estimates fail as `trouble` says; what is asked for them is counted."""

    trouble: CallRevertedError | None = None
    asked = 0

    async def estimate_gas(self, from_: bytes, to: bytes, data: bytes, *, gas_max: int) -> int:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return int(await self._node.estimate_gas(from_, to, data, gas_max=gas_max))


PASSING = [
    CallRevertedError(b"", "gas required exceeds allowance (0)"),
    CallRevertedError(b"", "out of gas"),
    CallRevertedError(b"", "execution reverted"),
    CallRevertedError(keccak256(b"InsufficientGas(uint256,uint256)")[:4] + bytes(64), "execution reverted"),
]
OWN = CallRevertedError(keccak256(b"ZeroAmount()")[:4], "execution reverted")


@contextlib.asynccontextmanager
async def estimating(devnet: Devnet) -> AsyncIterator[tuple[Side, ClaimService, Estimates, list[float]]]:
    """A settlement whose node estimates as told, and whose time passes when the test says so."""
    node = Estimates(RpcNode([devnet.anvil.url]))
    now = [float(int(devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16))]
    async with chain_side(devnet, node=node, clock=lambda: now[0]) as side:
        settlement = ClaimService(side.chain, side.writer, side.outbox, HOURLY, clock=lambda: now[0])
        settlement._next_at = 2e18
        yield side, settlement, node, now
        await settlement.stop()


HOURLY = SettlementSettings(interval_s=3_600)


@pytest.mark.parametrize("trouble", PASSING, ids=lambda trouble: trouble.message)
async def test_r12_a_passing_refusal_sets_nothing_aside_and_is_told(devnet: Devnet, trouble: CallRevertedError) -> None:
    payer = devnet.payer()
    async with estimating(devnet) as (side, settlement, node, _):
        await side.fund(payer, 1_000_000, FIRST, SECOND)
        await side.must_charge(payer, FIRST, 5)
        await side.must_charge(payer, SECOND, 6)
        node.trouble = trouble
        settled = await settlement.settle_now()
        assert list(settled) == []
        assert {(one.receiver, one.amount) for one in settled.left_out} == {(FIRST, 5), (SECOND, 6)}
        assert all("tried again" in one.reason for one in settled.left_out)
        node.trouble = None
        again = await settlement.settle_now()
        assert again.left_out == []
        assert (devnet.balance(FIRST), devnet.balance(SECOND)) == (5, 6)


async def test_r12_a_passing_refusal_of_many_rows_is_not_asked_for_each(devnet: Devnet) -> None:
    payer = devnet.payer()
    sellers = [receiver(2_000 + number) for number in range(64)]
    async with estimating(devnet) as (side, settlement, node, _):
        await side.fund(payer, 1_000_000, *sellers)
        for seller in sellers:
            await side.must_charge(payer, seller, 9)
        node.trouble = PASSING[0]
        settled = await settlement.settle_now()
        assert len(settled.left_out) == 64
        assert node.asked < 30


async def test_r12_what_the_contract_itself_refuses_is_set_aside_and_every_answer_says_so(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with estimating(devnet) as (side, settlement, node, now):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 5)
        node.trouble = OWN
        (left_out,) = (await settlement.settle_now([FIRST])).left_out
        assert (left_out.channel_id, left_out.reason) == (payer.channel_id(FIRST), "ZeroAmount()")
        node.trouble = None
        settled = await settlement.settle_now([FIRST])
        assert list(settled) == []
        assert [one.reason for one in settled.left_out] == [
            "set aside for a while, because it would revert: ZeroAmount()"
        ]
        assert (await settlement.settle_now([SECOND])).left_out == [], "others are not told of it"
        now[0] += HOURLY.interval_s
        await settlement.settle_now([FIRST])
        assert devnet.balance(FIRST) == 5


async def test_r12_a_withdrawals_claim_is_never_set_aside(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with estimating(devnet) as (side, settlement, node, now):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 5)
        node.trouble = OWN
        await settlement.settle_now()  # set aside for an hour
        payer.initiate_withdraw(1_000_000)
        await side.mirrored()
        await settlement._check()
        assert side.disk.outbound == {}
        node.trouble = None
        now[0] += URGENT_PAUSE_S
        await settlement._check()
        await until(lambda: devnet.balance(FIRST) == 5)


async def test_r12_a_deposit_that_is_used_up_is_told(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with settling(devnet) as (side, settlement):
        await side.fund(payer, 10_000, FIRST)
        payer.initiate_withdraw(10_000)
        await charge_before_it_is_seen(side, payer, 9_000)
        devnet.anvil.advance(DELAY_S + 1)
        payer.finalize_withdraw()
        await side.mirrored()
        settled = await settlement.settle_now([FIRST])
        assert list(settled) == []
        assert [(one.amount, one.reason.partition(";")[0]) for one in settled.left_out] == [
            (9_000, "the deposit is used up")
        ]


# What a withdrawal costs (G2), and what it may cost (R13).


async def test_g2_a_unit_withdrawn_and_cancelled_again_and_again_costs_no_transaction(devnet: Devnet) -> None:
    payer = devnet.payer()
    async with settling(devnet) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 300_000)
        settlement._next_at = 2e18
        for _ in range(35):
            payer.initiate_withdraw(1)
            await side.mirrored()
            await settlement._check()
            payer.cancel_withdraw()
            await side.mirrored()
            await settlement._check()
        assert side.disk.outbound == {}
        payer.initiate_withdraw(700_001)
        await side.mirrored()
        await settlement._check()
        await until(lambda: devnet.balance(FIRST) == 300_000)


DEAR = FeeSettings(max_fee_per_gas_wei=20 * GWEI, priority_fee_per_gas_wei_max=2 * GWEI)


async def test_r13_a_withdrawals_claim_lands_although_blocks_cost_more_than_the_usual_cap(devnet: Devnet) -> None:
    """And with it an ordinary transaction that stands before it in the order of nonces."""
    payer, other = devnet.payer(), devnet.payer()
    async with settling(devnet, fees=DEAR) as (side, settlement):
        await side.fund(payer, 900_000_000, FIRST)
        await side.fund(other, 1_000_000, SECOND)
        await side.must_charge(payer, FIRST, 900_000_000)
        await side.must_charge(other, SECOND, 7)
        payer.initiate_withdraw(900_000_000)
        await side.mirrored()
        settlement._next_at = 2e18
        devnet.anvil.automine(on=False)
        await settlement.settle_now([SECOND], timeout_s=0.01)
        mine_at(devnet, 30 * GWEI)
        for _ in range(2):  # what the first look sends, the second lets bid more
            await settlement._check()
        first, urgent = (outbound.id for outbound in _outgoing(side))
        await until(lambda: min(dearest(side, first), dearest(side, urgent)) > 30 * GWEI)
        assert max(dearest(side, first), dearest(side, urgent)) <= DEAR.urgent_max_fee_wei
        await until(lambda: mine_at(devnet, 30 * GWEI) and devnet.balance(FIRST) == 900_000_000)
        assert devnet.balance(SECOND) == 7
        devnet.anvil.automine(on=True)


async def test_r13_a_claim_under_way_that_a_withdrawal_threatens_may_bid_more_too(devnet: Devnet) -> None:
    """It was sent before the withdrawal began, so nothing new is sent for it."""
    payer = devnet.payer()
    async with settling(devnet, fees=DEAR) as (side, settlement):
        await side.fund(payer, 900_000_000, FIRST)
        await side.must_charge(payer, FIRST, 900_000_000)
        payer.initiate_withdraw(900_000_000)  # seen by the settlement only below
        await side.mirrored()
        settlement._next_at = 2e18
        devnet.anvil.automine(on=False)
        await settlement.settle_now(timeout_s=0.01)
        mine_at(devnet, 30 * GWEI)
        await settlement._check()
        (claim,) = (outbound.id for outbound in _outgoing(side))
        await until(lambda: dearest(side, claim) > 30 * GWEI)
        await until(lambda: mine_at(devnet, 30 * GWEI) and devnet.balance(FIRST) == 900_000_000)
        devnet.anvil.automine(on=True)


async def test_r13_a_claim_that_would_cost_more_than_it_saves_stays_below_the_usual_cap_with_an_alarm(
    devnet: Devnet, caplog: pytest.LogCaptureFixture
) -> None:
    payer = devnet.payer()
    tokens = (replace(devnet.token_settings, worth_gwei=333_333.0),)
    async with settling(devnet, fees=DEAR, tokens=tokens) as (side, settlement):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 1)
        payer.initiate_withdraw(1_000_000)
        await side.mirrored()
        settlement._next_at = 2e18
        devnet.anvil.automine(on=False)
        mine_at(devnet, 30 * GWEI)
        for _ in range(2):
            await settlement._check()
        await until(lambda: any("caps are 20 and 2" in problem for problem in side.chain.problems()))
        assert "caps are 20 and 2" in caplog.text
        (claim,) = (outbound.id for outbound in _outgoing(side))
        assert dearest(side, claim) <= DEAR.max_fee_per_gas_wei
        devnet.anvil.automine(on=True)


async def test_r13_the_alarm_is_out_although_no_settlement_goes_through(
    devnet: Devnet, caplog: pytest.LogCaptureFixture
) -> None:
    payer = devnet.payer()
    async with estimating(devnet) as (side, settlement, node, now):
        await side.fund(payer, 1_000_000, FIRST)
        await side.must_charge(payer, FIRST, 5)
        payer.initiate_withdraw(1_000_000)
        await side.mirrored()
        node.down = True
        settlement._next_at = 0.0
        for _ in range(2):
            with pytest.raises(ChainUnavailableError):
                await settlement._check()
            assert ("is charged but not claimed" in caplog.text) is bool(settlement.problems())
            now[0] += LANDING_S
        assert any("withdrawing accounts" in problem for problem in settlement.problems())


def mine_at(devnet: Devnet, base_fee: int) -> bool:
    """Mine a block that costs so much."""
    devnet.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee))
    devnet.anvil.mine()
    return True


def dearest(side: Side, outgoing_id: int) -> int:
    """The newest bid of a transaction, in wei per gas."""
    return decode_outgoing(outgoing_id, side.disk.outbound[outgoing_id]).attempts[-1].max_fee_per_gas_wei
