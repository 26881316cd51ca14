"""A chain that charges more gas than planned (C1, R5): batches are cut until they fit, and then planned better."""

import pytest
from faults import FaultyNode
from harness import chain_side

from anvil import Devnet, receiver
from tallystick.channels import ChannelConfig
from tallystick.quantities import AccountId
from tallystick_aggregator.chain.claim_plan import Group
from tallystick_aggregator.chain.deferred_escrow import CLAIM_COSTS as COSTS
from tallystick_aggregator.chain.node import CallRevertedError, Node
from tallystick_aggregator.chain.port import GAS_LIMIT_MAX
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.chain.sending.bidding import estimate_of, limit_for
from tallystick_aggregator.claims.claiming import SCALE_MAX, GasScale
from tallystick_aggregator.claims.planner import Batch
from tallystick_aggregator.claims.service import ClaimService, SettlementSettings
from tallystick_aggregator.ledger.state import Account
from tallystick_aggregator.ledger.values import EscrowRef

NEVER = SettlementSettings(interval_s=10**9)
SOMEBODY = b"\x01" * 20
ACCOUNT = Account(
    AccountId(bytes(32)),
    EscrowRef("eip155:1", bytes(20)),
    ChannelConfig(
        payer=SOMEBODY,
        payer_authorizer=SOMEBODY,
        receiver=SOMEBODY,
        receiver_authorizer=SOMEBODY,
        token=SOMEBODY,
        withdraw_delay_s=86_400,
        salt=bytes(32),
    ),
)


class DearNode(FaultyNode):
    """A node whose chain charges so many times as much for a claim as Anvil does."""

    def __init__(self, node: Node, times: int) -> None:
        super().__init__(node)
        self.times = times
        self.too_much = 0
        """How often what was to be estimated would have taken more than a transaction may."""

    async def estimate_gas(self, from_: bytes, to: bytes, data: bytes, *, gas_max: int) -> int:
        real = await self._node.estimate_gas(from_, to, data, gas_max=gas_max)
        estimate = COSTS.reserve_gas + self.times * max(0, real - COSTS.reserve_gas)
        if estimate > gas_max:
            self.too_much += 1
            raise CallRevertedError(b"", f"gas required exceeds allowance ({gas_max})")
        return estimate


def planned(gas_: int, *, by_approval: bool = False) -> Batch:
    """A batch that was planned to take so much."""
    return Batch(bytes(20), (Group(ACCOUNT, (), b"approval" if by_approval else None),), gas_, 0)


async def test_r5_c1_what_takes_more_than_was_planned_is_cut_and_the_next_is_planned_so_that_it_fits(
    devnet: Devnet,
) -> None:
    payer = devnet.payer()
    shops = [receiver(number) for number in range(40)]
    node = DearNode(RpcNode([devnet.anvil.url]), times=25)
    async with chain_side(devnet, node=node) as side:
        settlement = ClaimService(side.chain, side.writer, side.outbox, NEVER)
        await side.fund(payer, 10**9, *shops)
        for shop in shops:
            await side.must_charge(payer, shop, 1_000)
        first = await settlement.settle_now()
        assert [devnet.balance(shop) for shop in shops] == [1_000] * 40
        assert len(first) > 1
        assert all(claim.gas_limit <= GAS_LIMIT_MAX for claim in first)
        assert node.too_much
        await side.mirrored()

        node.too_much = 0
        for shop in shops:
            await side.must_charge(payer, shop, 500)
        second = await settlement.settle_now()
        assert [devnet.balance(shop) for shop in shops] == [1_500] * 40
        assert len(second) > 1
        assert node.too_much == 0
        await settlement.stop()


async def test_r5_c1_an_approval_that_takes_too_much_gas_gives_way_to_vouchers(devnet: Devnet) -> None:
    payer = devnet.payer()
    shops = [receiver(number) for number in range(40)]
    node = DearNode(RpcNode([devnet.anvil.url]), times=25)
    async with chain_side(devnet, node=node) as side:
        settlement = ClaimService(side.chain, side.writer, side.outbox, NEVER)
        await side.fund(payer, 10**9, *shops)
        for shop in shops:
            await side.must_charge(payer, shop, 1_000)
        await side.approve(payer, shops)
        for _ in range(2):
            await settlement.settle_now()
            await side.mirrored()
        assert [devnet.balance(shop) for shop in shops] == [1_000] * 40
        await settlement.stop()


def test_r5_the_scale_follows_what_the_chain_charges() -> None:
    scale = GasScale(COSTS)
    assert scale.planned_max == COSTS.batch_gas_max
    scale.took(planned(1_325_000), limit_for(COSTS.reserve_gas + 4_000_000))
    assert scale.planned_max == pytest.approx(COSTS.reserve_gas + (COSTS.batch_gas_max - COSTS.reserve_gas) / 4, abs=2)
    sizes = [scale.planned_max]
    for _ in range(30):
        scale.took(planned(1_325_000), limit_for(COSTS.reserve_gas + 900_000))
        sizes.append(scale.planned_max)
    assert sizes == sorted(sizes)
    assert sizes[-1] == COSTS.batch_gas_max  # never above what was measured for Ethereum


def test_r5_a_batch_at_the_limit_of_a_transaction_is_no_sign_of_a_cheaper_chain() -> None:
    """Its limit is cut off, so that the estimate behind it is not known: it was this much at least."""
    scale = GasScale(COSTS)
    scale.took(planned(1_325_000), limit_for(COSTS.reserve_gas + 1_200_000))
    size = scale.planned_max
    assert size < COSTS.batch_gas_max
    scale.took(planned(size), GAS_LIMIT_MAX)
    assert scale.planned_max == size, "the next batch would be planned too large, and halved again"


def test_r5_nothing_that_a_node_says_makes_batches_smaller_than_a_claim() -> None:
    scale = GasScale(COSTS)
    scale.took(planned(COSTS.reserve_gas + 1), GAS_LIMIT_MAX)
    claim = COSTS.fixed_gas + COSTS.account_gas + COSTS.voucher_row_gas + COSTS.first_claim_gas + COSTS.receiver_gas
    assert scale.planned_max > claim
    assert scale.planned_max >= COSTS.reserve_gas + int((COSTS.batch_gas_max - COSTS.reserve_gas) / SCALE_MAX)


def test_r5_only_an_approval_that_was_refused_makes_the_next_plan_smaller() -> None:
    scale = GasScale(COSTS)
    scale.refused(planned(400_000))
    assert scale.planned_max == COSTS.batch_gas_max
    scale.refused(planned(9_000_000, by_approval=True))
    assert scale.planned_max < 9_000_000


@pytest.mark.parametrize("estimate", [0, 21_000, 400_003, 13_000_000])
def test_a_limit_tells_the_estimate_that_it_came_from(estimate: int) -> None:
    assert 0 <= estimate - estimate_of(limit_for(estimate)) <= 1


def test_a_limit_is_never_above_what_a_transaction_may_take() -> None:
    assert limit_for(16_000_000) == GAS_LIMIT_MAX
    assert estimate_of(GAS_LIMIT_MAX) < 16_000_000
