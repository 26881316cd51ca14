"""Who waits for a transaction to be mined, or to be final."""

import asyncio
from typing import Final

from tallystick_aggregator.store.port import OutboundTransaction, Outbox, TransactionStatus

ENDED: Final = frozenset({TransactionStatus.FINAL, TransactionStatus.REVERTED, TransactionStatus.SUPERSEDED})
"""Nothing more happens to these."""
_SETTLED: Final = ENDED | {TransactionStatus.MINED}


class Waiters:
    """Those who wait for transactions of one outbox; `tell` them of every change."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: dict[int, list[tuple[bool, asyncio.Future[OutboundTransaction]]]] = {}

    async def wait(self, outbound: OutboundTransaction, *, final: bool, timeout_s: float) -> OutboundTransaction:
        future: asyncio.Future[OutboundTransaction] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(outbound.id, [])
        waiting.append((final, future))
        try:
            # Only now, so that no news is missed in between.
            present = await self._outbox.by_reference(outbound.kind, outbound.reference)
            if present is not None and _is_over(present, final=final):
                return present
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            waiting.remove((final, future))
            if not waiting:
                self._waiting.pop(outbound.id, None)

    def tell(self, outbound: OutboundTransaction) -> None:
        """The transaction has changed."""
        for final, future in self._waiting.get(outbound.id, ()):
            if _is_over(outbound, final=final) and not future.done():
                future.set_result(outbound)


def _is_over(outbound: OutboundTransaction, *, final: bool) -> bool:
    return outbound.status in (ENDED if final else _SETTLED)
