"""What one transfer may burn, and whether the sender can pay for it.

The signature of a contract wallet is checked by the payer's own contract, inside a transaction that the operator pays
for. Without a cap that contract decides what the operator spends.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from tallystick_aggregator.chain.port import Chain

TRANSFER_GAS_MAX: Final = 250_000
"""Gas of one transfer at most. USDC takes some 82,000 with a key's signature, contract wallets in use 60,000 more;
where new storage costs more (EIP-8037), a key's transfer to an empty address takes some 240,000."""
PROBE_GAS_MAX: Final = 8 * TRANSFER_GAS_MAX
"""With so much gas a refused transfer is simulated once more, to learn whether gas was all that it lacked."""
FRESH_S: Final = 3.0
"""For so long it is believed what the sender can pay for."""


class GasMoney:
    """Whether one chain's sender can pay for a further transfer, as of FRESH_S ago at most."""

    def __init__(self, chain: Chain, clock: Callable[[], float] = monotonic) -> None:
        self._chain = chain
        self._clock = clock
        self._reading = asyncio.Lock()
        self._read_at: float | None = None
        self._gas = 0

    async def suffices(self) -> bool:
        """Return whether it can. Raises ChainUnavailableError."""
        async with self._reading:
            if self._read_at is None or self._clock() - self._read_at >= FRESH_S:
                self._gas = await self._chain.gas_affordable()
                self._read_at = self._clock()
        return self._gas >= TRANSFER_GAS_MAX
