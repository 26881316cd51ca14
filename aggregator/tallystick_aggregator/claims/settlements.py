"""The settlements of all escrows as one: what edges call."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.claims.claiming import Claimed
from tallystick_aggregator.claims.service import SETTLE_NOW_TIMEOUT_S, ClaimService, SettlementSettings, SettlingChain
from tallystick_aggregator.store.port import Outbox


class Settlements:
    """One `ClaimService` an escrow; they do not wait for each other."""

    def __init__(
        self,
        chains: Iterable[SettlingChain],
        writer: Writer,
        outbox: Outbox,
        settings: SettlementSettings | None = None,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        keywords = {} if clock is None else {"clock": clock}
        self._each = [ClaimService(chain, writer, outbox, settings, **keywords) for chain in chains]

    def start(self) -> None:
        """Settle from now on."""
        for settlement in self._each:
            settlement.start()

    async def stop(self) -> None:
        """Settle no more."""
        await asyncio.gather(*(settlement.stop() for settlement in self._each))

    def problems(self) -> Sequence[str]:
        """What keeps sellers from being paid, as sentences; none if all is well."""
        return [problem for settlement in self._each for problem in settlement.problems()]

    async def settle_now(
        self, receivers: Collection[bytes] | None = None, *, timeout_s: float = SETTLE_NOW_TIMEOUT_S
    ) -> Claimed:
        """See `ClaimService.settle_now`. Where one escrow fails, the others have settled all the same."""
        outcomes = await asyncio.gather(
            *(settlement.settle_now(receivers, timeout_s=timeout_s) for settlement in self._each),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        settled = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        return Claimed(
            (claim for one in settled for claim in one), (left_out for one in settled for left_out in one.left_out)
        )
