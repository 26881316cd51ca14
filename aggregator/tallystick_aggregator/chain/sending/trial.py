"""What a call would do and what the sender could pay for, before anything is sent.

A simulation says what a transaction will do only as far as it resembles it: the sender's address, the gas, the price
and the time of the block are therefore the ones that the transaction would have. A payer's contract can tell the two
apart all the same (by the block's number or its producer); those whose transfers revert are remembered (`gas_meter`).
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from tallystick_aggregator.chain.node import CallRevertedError, Node, as_reverted
from tallystick_aggregator.chain.port import GAS_LIMIT_MAX, Block, Call, RevertedError
from tallystick_aggregator.chain.sending.bidding import bid, limit_for
from tallystick_aggregator.chain.settings import ChainSettings
from tallystick_aggregator.store.port import Outbox, TransactionStatus
from tallystick_chain.fees import MarketFees

_FILL_GAS: Final = 21_000
FRESH_S: Final = 3.0
"""For so long a price is taken for today's."""


class Trial:
    """One sender's. `clock` in seconds, for the age of what was read."""

    def __init__(
        self, settings: ChainSettings, node: Node, outbox: Outbox, *, clock: Callable[[], float] = monotonic
    ) -> None:
        """`settings.sender` is who would send."""
        self._settings = settings
        self._node = node
        self._outbox = outbox
        self._clock = clock
        self._address = settings.sender.address
        self._asking = asyncio.Lock()
        self._market: MarketFees | None = None
        self._read_at = 0.0

    async def simulate(self, call: Call, block: Block, *, gas_max: int, at_s: int) -> None:
        """See `port.Chain.simulate`."""
        price = bid(await self.market(), self._settings.fees)
        try:
            await self._node.call(call.to, call.data, block, from_=self._address, gas=gas_max, price=price, at_s=at_s)
        except CallRevertedError as reverted:
            raise as_reverted(reverted) from reverted

    async def gas_affordable(self) -> int:
        """See `port.Chain.gas_affordable`: pools take what a sender can pay for beside all that it has in them."""
        market, balance = await asyncio.gather(self.market(), self._node.balance(self._address))
        for outbound in await self._outbox.open(self._settings.network):
            if outbound.status is TransactionStatus.PENDING and outbound.sender == self._address:
                balance -= outbound.gas_limit * outbound.attempts[-1].max_fee_per_gas_wei
        return max(0, balance) // max(1, bid(market, self._settings.fees).max_fee)

    async def estimate(self, call: Call, gas_max: int = GAS_LIMIT_MAX) -> int:
        """The gas that the call would take now.

        Raises RevertedError if it would revert, or take more than `gas_max`.
        """
        try:
            return await self._node.estimate_gas(self._address, call.to, call.data, gas_max=gas_max)
        except CallRevertedError as reverted:
            raise as_reverted(reverted) from reverted

    async def gas_limit(self, call: Call, gas_max: int) -> int:
        """What the call would take now, and a margin: the state may change before it is mined. Raises RevertedError."""
        return limit_for(await self.estimate(call, gas_max), gas_max)

    async def fill_gas_limit(self) -> int:
        """What it takes to send nothing: more than 21,000 on chains that charge for a transaction's bytes, too."""
        try:
            return max(_FILL_GAS, await self.gas_limit(Call(self._address, b""), GAS_LIMIT_MAX))
        except RevertedError:
            return _FILL_GAS

    async def market(self) -> MarketFees:
        """What blocks cost, as of FRESH_S ago at most."""
        async with self._asking:
            if self._market is None or self._clock() - self._read_at >= FRESH_S:
                self._market = await self._node.fees()
                self._read_at = self._clock()
        return self._market
