"""From start to payout over an endpoint of an ordinary plan: ten blocks a search, no hashes in reads, no tip.

Faults R1, R2, R4: such an endpoint kept the aggregator from starting, or from sending.
"""

from typing import Any

import pytest
from harness import chain_side
from rpc_servers import Endpoint, JsonRpcError, Status

from _anvil import hexed
from anvil import Devnet, receiver
from tallystick_aggregator.chain.rpc.node import RpcNode
from tallystick_aggregator.claims.service import ClaimService, SettlementSettings
from tallystick_chain.errors import RpcError
from waiting import until

SHOP = receiver(0)


class OrdinaryPlan:
    """Passes calls on to a real chain, as far as the plan goes."""

    def __init__(self, devnet: Devnet, *, blocks: int, lacks: frozenset[str], hashes: bool, every: int = 0) -> None:
        self.devnet = devnet
        self.blocks = blocks
        self.lacks = lacks
        self.hashes = hashes
        self.every = every
        self.calls = 0
        self.refused: set[str] = set()

    def __call__(self, method: str, params: list[Any]) -> Any:
        self.calls += 1
        if self.every and self.calls % self.every == 0:
            self.refused.add("rate")
            return Status(429, "retry-after: 0\r\n")
        if method in self.lacks:
            raise self._refusal(method, -32601, f"the method {method} does not exist")
        if method == "eth_getLogs" and self._width(params[0]) > self.blocks:
            raise self._refusal(method, -32600, f"up to a {self.blocks} block range")
        if not self.hashes and any(isinstance(param, dict) and "blockHash" in param for param in params[1:]):
            raise self._refusal("hash", -32602, "invalid argument 1: hex string expected")
        try:
            return self.devnet.anvil.rpc(method, *params)
        except RpcError as error:
            raise JsonRpcError({"code": -32000, "message": str(error), "data": hexed(error.data)}) from None

    def _width(self, wanted: dict[str, Any]) -> int:
        """How many blocks a search spans; one that names its block by hash spans one."""
        if "fromBlock" not in wanted:
            return 1
        return int(wanted["toBlock"], 16) - int(wanted["fromBlock"], 16) + 1

    def _refusal(self, what: str, code: int, message: str) -> JsonRpcError:
        self.refused.add(what)
        return JsonRpcError({"code": code, "message": message})


NO_TIP = frozenset({"eth_maxPriorityFeePerGas"})
NO_FEES = NO_TIP | {"eth_feeHistory"}


@pytest.mark.parametrize(
    ("plan", "refused"),
    [
        ({"blocks": 500, "lacks": frozenset[str](), "hashes": True}, {"eth_getLogs"}),
        ({"blocks": 10, "lacks": NO_TIP, "hashes": False}, {"eth_getLogs", "hash", *NO_TIP}),
        ({"blocks": 50, "lacks": NO_FEES, "hashes": False, "every": 7}, {"eth_getLogs", "hash", "rate", *NO_FEES}),
    ],
    ids=["500 blocks", "10 blocks, no tip, no hashes", "50 blocks, no fees, no hashes, one in seven too often"],
)
async def test_r1_r2_r4_an_ordinary_plan_starts_watches_and_pays(
    devnet: Devnet, plan: dict[str, Any], refused: set[str]
) -> None:
    payer = devnet.payer()
    payer.deposit(1_000_000)
    devnet.anvil.mine(600)  # the account was opened long ago
    ordinary = OrdinaryPlan(devnet, **plan)
    endpoint = Endpoint(ordinary)
    node = RpcNode([await endpoint.start()])
    try:
        async with chain_side(devnet, node=node) as side:
            settlement = ClaimService(side.chain, side.writer, side.outbox, SettlementSettings(interval_s=10**9))
            await until(lambda: side.account(payer).funds == 1_000_000)
            await side.open_channel(payer, SHOP)
            await side.must_charge(payer, SHOP, 777)
            await settlement.settle_now()
            assert devnet.balance(SHOP) == 777
            await side.mirrored()
            assert side.account(payer).exposure == 0
            await settlement.stop()
    finally:
        await endpoint.stop()
    assert ordinary.refused == refused, "it did not get in the way"
