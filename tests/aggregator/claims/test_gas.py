"""The planner's idea of gas and bytes, held against the real contract: above what it takes, and not by far."""

import pytest
from harness import chain_side

from anvil import Devnet, receiver
from tallystick_aggregator.chain.deferred_escrow import CLAIM_COSTS
from tallystick_aggregator.chain.port import Send
from tallystick_aggregator.claims.planner import EVERYTHING, Batch, pack, plan_account
from tallystick_aggregator.store.port import TransactionKind


@pytest.mark.parametrize(
    ("payers", "sellers", "by_approval"),
    [(1, 1, False), (1, 60, False), (1, 60, True), (30, 1, False), (8, 8, False), (8, 8, True)],
)
async def test_the_plan_is_near_the_truth(devnet: Devnet, payers: int, sellers: int, by_approval: bool) -> None:
    everybody = [devnet.payer() for _ in range(payers)]
    shops = [receiver(number) for number in range(sellers)]
    async with chain_side(devnet) as side:
        for payer in everybody:
            await side.fund(payer, 10**9, *shops)
        for claim_number in range(2):  # the first claim of every channel, then a later one
            for payer in everybody:
                for shop in shops:
                    await side.must_charge(payer, shop, 10)
                if by_approval:
                    await side.approve(payer, shops)
            (batch,) = pack(
                devnet.token,
                [
                    group
                    for payer in everybody
                    for group in plan_account(
                        side.account(payer), side.ledger.channels_of(payer.account_id), {}, EVERYTHING, CLAIM_COSTS
                    )
                ],
                CLAIM_COSTS,
            )
            assert {group.approval is not None for group in batch.groups} == {by_approval}
            call = side.chain.escrow.claim_call(devnet.token, batch.groups)
            sent = await side.chain.send(Send(TransactionKind.CLAIM, b"%d" % claim_number, call, rows=batch.rows))
            mined = await side.chain.wait(sent, final=True, timeout_s=10)
            await side.mirrored()
            assert_near(batch, mined.gas_used)
            assert batch.bytes + 400 >= len(sent.attempts[0].raw)


def assert_near(batch: Batch, gas_used: int) -> None:
    assert gas_used <= batch.gas
    # Beyond what it takes there is the reserve that must be left before each transfer, and USDC's dearer transfers.
    assert batch.gas - CLAIM_COSTS.reserve_gas <= gas_used * 2.5
