"""The HTTP edge as the configuration wants it; without a table [http] nothing of it is there."""

from collections.abc import Sequence

from tallystick_aggregator.api.http.app import FacilitatorApp
from tallystick_aggregator.api.http.server import HttpServer
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.listing import Listing
from tallystick_aggregator.runtime.config.file import Config


class HttpEdge:
    """Application and server, or neither."""

    def __init__(self, config: Config, facilitator: Facilitator, listing: Listing) -> None:
        """Build and bind; raises ConfigurationError where the address cannot be had."""
        self._app: FacilitatorApp | None = None
        self._server: HttpServer | None = None
        if (settings := config.http) is not None:
            self._app = FacilitatorApp(facilitator, settings.limits, listing)
            grace_s = float(config.server.stop_grace_s)
            self._server = HttpServer(self._app, settings.listen, config.tls, settings.limits, grace_s=grace_s)

    @property
    def url(self) -> str:
        """Where it is reached; empty where there is none."""
        return "" if self._server is None else self._server.url

    async def start(self) -> None:
        """Take requests."""
        if self._server is not None:
            await self._server.start()

    async def stop(self) -> None:
        """Take no new requests, and answer what was taken; idempotent."""
        if self._server is not None:
            await self._server.stop()

    def problems(self) -> Sequence[str]:
        """Tell whether it has stopped by itself."""
        return () if self._server is None else self._server.problems()

    async def tell_health(self, *, serving: bool) -> None:
        """Set what it tells of the aggregator."""
        if self._app is not None:
            await self._app.tell_health(serving=serving)

    async def tell_settling(self, *, settling: bool) -> None:
        """Set what it tells of settlement."""
        if self._app is not None:
            await self._app.tell_settling(settling=settling)
