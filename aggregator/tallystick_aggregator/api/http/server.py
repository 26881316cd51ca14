"""The HTTP server: uvicorn in this process and this event loop. Signals and logs stay ours."""

import asyncio
import contextlib
import math
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

from tallystick_aggregator.api.http.connections import bounded
from tallystick_aggregator.api.http.limits import HttpLimits
from tallystick_aggregator.api.tls import TlsFiles
from tallystick_aggregator.chain.settings import ConfigurationError


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()
        """Set once requests are taken, or cannot be."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when it is done."""
        try:
            await super().startup(sockets)
        finally:
            self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to whoever runs the process."""
        yield


class HttpServer:
    """One listening server. `port` is the bound one, once it is built."""

    def __init__(
        self,
        app: ASGIApp,
        listen: str,
        tls: TlsFiles | None,
        limits: HttpLimits | None = None,
        *,
        grace_s: float = 10.0,
    ) -> None:
        """Build and bind. Raises ConfigurationError where the address cannot be had.

        `grace_s`: how long requests under way may still last when it stops.
        """
        limits = limits or HttpLimits()
        self._socket = _bind(listen)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"{'http' if tls is None else 'https'}://{listen.rpartition(':')[0]}:{self.port}"
        config = uvicorn.Config(
            app,
            http=bounded(limits.head_bytes_max, limits.head_s_max),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # it warns of each request that is none: any stranger could fill the log
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=limits.connections_max,
            timeout_keep_alive=math.ceil(limits.idle_s_max),
            timeout_graceful_shutdown=math.ceil(grace_s),
        )
        config.load()
        config.ssl = None if tls is None else tls.server_context()
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take requests."""
        self._serving = asyncio.create_task(self._server.serve([self._socket]), name="HTTP server")
        await self._server.is_up.wait()
        if not self._server.started:
            await self._serving

    async def stop(self) -> None:
        """Take no new requests, and end those under way that last longer than the grace."""
        if self._serving is None:
            self._socket.close()
            return
        self._server.should_exit = True
        await self._serving

    def problems(self) -> list[str]:
        """Tell whether it has stopped by itself."""
        is_down = self._serving is not None and self._serving.done()
        return ["the HTTP server has stopped"] if is_down else []


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError:
        raise ConfigurationError(
            f"http.listen: {listen!r} cannot be bound; is it in use, or not of this machine?"
        ) from None
    bound.setblocking(False)
    return bound
