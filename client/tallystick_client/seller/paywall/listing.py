"""Telling the aggregator what a site sells, so that it lists it at /discovery/resources. Beside all requests."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from tallystick.errors import Described, MalformedError
from tallystick_client.errors import AggregatorError
from tallystick_client.seller.client.aggregator import Aggregator
from tallystick_client.seller.paywall.manifest import Manifest
from tallystick_client.seller.paywall.payment_flow import PaymentFlows

ANNOUNCE_EVERY_S: Final = 300.0
"""As often as the aggregator is asked what it supports, which prices follow. What has not changed changes nothing."""

_log = logging.getLogger("tallystick.seller")


class Announcer:
    """Pushes the price list of one paywall at the start, and again while it runs. No request waits for it.

    `base_url`: of the site, as clients see it. Raises MalformedError where there is none: nothing else says it before
    the first request.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        flows: PaymentFlows,
        base_url: str | None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if base_url is None:
            raise MalformedError("base_url", Described("none"), "the site's scheme and host, as list_resources is set")
        self._aggregator = aggregator
        self._manifest = Manifest(flows.rules, flows.book)
        self._base_url = base_url.rstrip("/")
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None
        self._said = ""

    def start(self) -> None:
        """Begin, on the running event loop; again after `stop`, or on another loop than before."""
        if self._task is None or self._task.get_loop() is not asyncio.get_running_loop():
            self._task = asyncio.create_task(self._run(), name="price list to the aggregator")

    async def stop(self) -> None:
        """End; what the aggregator lists stays listed."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            await self._push()
            await self._sleep(ANNOUNCE_EVERY_S)

    async def _push(self) -> None:
        try:
            manifest = self._manifest.told(await self._aggregator.supported(), self._base_url)
            published = await self._aggregator.publish(manifest)
        except (AggregatorError, MalformedError) as error:
            self._say(f"the aggregator does not list what is sold here: {error}")
        except Exception:  # noqa: BLE001 - it is logged; pages are sold all the same, and the next turn may do better
            _log.exception("telling the aggregator what is sold here failed")
        else:
            self._say("; ".join(published.dropped))

    def _say(self, problem: str) -> None:
        """Warn once of what is wrong, and again only when it is something else."""
        if problem and problem != self._said:
            _log.warning("%s", problem)
        self._said = problem
