"""From a node's estimate to the gas limit that a transaction is sent with, and back. Pure."""

from typing import Final

from tallystick_aggregator.chain.port import GAS_LIMIT_MAX

_FIXED_MARGIN: Final = 20_000


def limit_for(estimate: int, gas_max: int = GAS_LIMIT_MAX) -> int:
    """The estimate and a margin, as the state may change before the transaction is mined."""
    return min(estimate + estimate // 4 + _FIXED_MARGIN, gas_max)


def estimate_of(limit: int) -> int:
    """The estimate that a limit came from; where the limit is the highest there is, the least that it can have been."""
    return max(0, (limit - _FIXED_MARGIN) * 4 // 5)
