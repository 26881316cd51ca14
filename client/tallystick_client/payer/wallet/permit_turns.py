"""One payment at a time that brings a permit: a token counts its owner's EIP-2612 permits, and takes the next one only.

So the next permit is signed when the payment with the one before has been decided, or can no longer be landed. Who
has approved Permit2 waits for nobody.
"""

import asyncio

from tallystick_client.payer.policy.operators import Asset


class PermitTurn:
    """The right to sign the next permit of a token."""

    def __init__(self, valid_s: float) -> None:
        self._ends_at = asyncio.get_running_loop().time() + valid_s
        self._ended = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether the permit has been decided, or has expired."""
        return self._ended.is_set() or asyncio.get_running_loop().time() >= self._ends_at

    def end(self) -> None:
        """Let the next one sign."""
        self._ended.set()

    async def wait(self) -> None:
        """Return when it is over, or about to be."""
        try:
            async with asyncio.timeout_at(self._ends_at):
                await self._ended.wait()
        except TimeoutError:
            pass


class PermitTurns:
    """The turns of one wallet."""

    def __init__(self) -> None:
        self._taken: dict[Asset, PermitTurn] = {}

    async def take(self, asset: Asset, valid_s: float) -> PermitTurn:
        """Wait until no other permit of this token is under way. The turn ends by itself after `valid_s` seconds."""
        while (other := self._taken.get(asset)) is not None and not other.is_over:
            await other.wait()
        turn = self._taken[asset] = PermitTurn(valid_s)
        return turn
