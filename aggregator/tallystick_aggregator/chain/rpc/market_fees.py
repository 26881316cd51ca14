"""What blocks cost now, from whichever of the optional methods an endpoint has."""

from collections.abc import Callable
from typing import Any, Final

from tallystick_aggregator.chain.node import MarketFees
from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.chain.rpc.answers import RpcError, read_base_fee, read_integer, read_rewards
from tallystick_aggregator.chain.rpc.endpoint import Endpoint, is_unknown_method

FALLBACK_TIP_WEI: Final = 10**9
"""The tip where nobody can tell one: 1 gwei, or the base fee where that is less."""
_HISTORY_BLOCKS: Final = 10
_PERCENTILE: Final = 50


async def market_fees(endpoint: Endpoint) -> MarketFees:
    """The newest block's base fee, and a usual tip.

    Raises RpcError if there is no newest block, ChainUnavailableError.
    """
    base_fee = read_base_fee(await endpoint.ask("eth_getBlockByNumber", "latest", False))
    return MarketFees(base_fee, await _usual_tip(endpoint, base_fee))


async def _usual_tip(endpoint: Endpoint, base_fee: int) -> int:
    sources: tuple[tuple[str, tuple[Any, ...], Callable[[Any], int]], ...] = (
        ("eth_maxPriorityFeePerGas", (), read_integer),
        ("eth_feeHistory", (hex(_HISTORY_BLOCKS), "latest", [_PERCENTILE]), _median),
        ("eth_gasPrice", (), lambda answer: max(0, read_integer(answer) - base_fee)),
    )
    for method, params, read in sources:
        if endpoint.learned(method) is False:
            continue
        try:
            answer = await endpoint.ask(method, *params)
        except RpcError as error:
            if is_unknown_method(error):
                endpoint.learn(method, holds=False)
            continue
        try:
            return read(answer)
        except ChainUnavailableError:  # malformed: the next method may make sense
            continue
    return min(FALLBACK_TIP_WEI, base_fee) or FALLBACK_TIP_WEI


def _median(history: Any) -> int:
    """The median of what the blocks' transactions gave; raises ChainUnavailableError if the blocks were empty."""
    rewards = sorted(read_rewards(history))
    if not rewards:
        raise ChainUnavailableError("no block of the history holds a transaction")
    return rewards[len(rewards) // 2]
