"""How much dearer than the planned costs one chain is. Pure; one object a network, learned anew by each start.

A binding's `ClaimCosts` are for today's rules of Ethereum. A chain may charge otherwise: another kind of chain, or a
hard fork (EIP-8037 makes a first payout four times as dear). Nothing is paid wrongly by that: a batch's gas limit comes
from the node's estimate, and one that would take more than a transaction may is halved. But halving costs estimates, so
the next batches are planned as large as fits: by the ratio of what was estimated to what was planned.
"""

from typing import Final

from tallystick_aggregator.chain.claim_plan import ClaimCosts
from tallystick_aggregator.chain.port import GAS_LIMIT_MAX
from tallystick_aggregator.chain.sending.gas_limits import estimate_of
from tallystick_aggregator.claims.planner import Batch

SCALE_MAX: Final = 64.0
_WEIGHT_OF_OLD: Final = 0.75
"""A cheaper batch lowers the scale by and by only: one batch may have had no new seller, and the next a hundred."""


class GasScale:
    """What one chain takes for a batch, in relation to what was planned."""

    def __init__(self, costs: ClaimCosts) -> None:
        self._costs = costs
        self._scale = 1.0

    @property
    def planned_max(self) -> int:
        """The most that a batch may be planned at, in the planner's units of gas."""
        return self._costs.reserve_gas + int((self._costs.batch_gas_max - self._costs.reserve_gas) / self._scale)

    def took(self, batch: Batch, gas_limit: int) -> None:
        """A batch was sent with this gas limit, which the node's estimate has led to."""
        # The reserve is no price: it only has to be there, on every chain alike.
        ratio = (estimate_of(gas_limit) - self._costs.reserve_gas) / max(1, batch.gas - self._costs.reserve_gas)
        if ratio < self._scale:
            if gas_limit >= GAS_LIMIT_MAX:
                return  # the estimate was this much at least: nothing shows that the chain has become cheaper
            ratio = _WEIGHT_OF_OLD * self._scale + (1 - _WEIGHT_OF_OLD) * ratio
        self._scale = min(max(1.0, ratio), SCALE_MAX)

    def refused(self, batch: Batch) -> None:
        """A batch that cannot be halved was refused. An approval perhaps takes too much gas as a whole: the next plan
        finds no room for it, and goes by vouchers. If that was not the reason, what is sent then corrects the scale.
        """
        if batch.groups[0].approval is not None:
            half = max(1, (batch.gas - self._costs.reserve_gas) // 2)
            self._scale = min(max(self._scale, (self._costs.batch_gas_max - self._costs.reserve_gas) / half), SCALE_MAX)
