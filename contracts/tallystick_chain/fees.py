"""What blocks cost now, from whichever of the optional methods an endpoint has, and what a transaction usually offers
for its place in one (EIP-1559).
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from tallystick_chain.answers import read_base_fee, read_integer, read_rewards
from tallystick_chain.errors import ChainUnavailableError, RpcError, is_unknown_method

FALLBACK_TIP_WEI: Final = 10**9
"""The tip where nobody can tell one: 1 gwei, or the base fee where that is less."""
BASE_FEE_FACTOR: Final = 2
"""The base fee may double (in six full blocks) before a transaction is priced out."""
_HISTORY_BLOCKS: Final = 10
_PERCENTILE: Final = 50


class MarketFees(NamedTuple):
    """What blocks cost now, in wei per gas."""

    base_fee_per_gas_wei: int
    priority_fee_per_gas_wei: int


class Bid(NamedTuple):
    """What a transaction offers, or may offer at most, in wei per gas."""

    max_fee: int
    priority_fee: int


class Asked(Protocol):
    """An endpoint: `Provider`, or what stands above one."""

    async def ask(self, method: str, *params: Any) -> Any: ...


def usual_bid(market: MarketFees) -> Bid:
    """What is usually offered: twice the base fee, and the tip."""
    tip = market.priority_fee_per_gas_wei
    return Bid(market.base_fee_per_gas_wei * BASE_FEE_FACTOR + tip, tip)


async def market_fees(
    endpoint: Asked,
    *,
    lacks: Callable[[str], bool] = lambda _method: False,
    found_lacking: Callable[[str], None] = lambda _method: None,
) -> MarketFees:
    """The newest block's base fee, and a usual tip. A method that the endpoint `lacks` is not tried.

    Raises RpcError if there is no newest block, ChainUnavailableError.
    """
    base_fee = read_base_fee(await endpoint.ask("eth_getBlockByNumber", "latest", False))
    sources: tuple[tuple[str, tuple[Any, ...], Callable[[Any], int]], ...] = (
        ("eth_maxPriorityFeePerGas", (), read_integer),
        ("eth_feeHistory", (hex(_HISTORY_BLOCKS), "latest", [_PERCENTILE]), _median),
        ("eth_gasPrice", (), lambda answer: max(0, read_integer(answer) - base_fee)),
    )
    for method, params, read in sources:
        if lacks(method):
            continue
        try:
            answer = await endpoint.ask(method, *params)
        except RpcError as error:
            if is_unknown_method(error):
                found_lacking(method)
            continue
        try:
            return MarketFees(base_fee, read(answer))
        except ChainUnavailableError:  # malformed: the next method may make sense
            continue
    return MarketFees(base_fee, min(FALLBACK_TIP_WEI, base_fee) or FALLBACK_TIP_WEI)


def _median(history: Any) -> int:
    """The median of what the blocks' transactions gave; raises ChainUnavailableError if the blocks were empty."""
    rewards = sorted(read_rewards(history))
    if not rewards:
        raise ChainUnavailableError("no block of the history holds a transaction")
    return rewards[len(rewards) // 2]
