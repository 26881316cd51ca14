"""The transports for httpx, as `tallystick_client` has them for httpx2; pip install 'tallystick[httpx]'.

from tallystick_client.httpx import PayingTransport

async with httpx.AsyncClient(transport=PayingTransport(wallet)) as http:
page = await http.get("https://example.org/articles/1")
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from tallystick_client.payer.http.adapter import AsyncAdapter, Library, SyncAdapter
from tallystick_client.payer.http.background import WalletThread
from tallystick_client.payer.wallet.schemes.port import Payer

__all__ = ["PayingTransport", "SyncPayingTransport"]

_LIBRARY = Library.of(httpx)


class PayingTransport(AsyncAdapter, httpx.AsyncBaseTransport):
    """Pays for requests from a wallet. Closing it closes the inner transport, not the wallet."""

    _library = _LIBRARY

    def __init__(
        self,
        wallet: Payer,
        inner: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> None:
        """`settings`: `deadline_s` and `require_https`, as of `Purchases`."""
        super().__init__(wallet, inner or httpx.AsyncHTTPTransport(), sleep, clock, monotonic, **settings)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response, paid for if need be. Raises what the inner transport raises, and what `Purchase` does."""
        response: httpx.Response = await self.buy(request)
        return response


class SyncPayingTransport(SyncAdapter, httpx.BaseTransport):
    """Pays for requests from a wallet on a thread of its own. Closing it closes the inner transport, not the wallet."""

    _library = _LIBRARY

    def __init__(
        self,
        wallet: WalletThread[Any],
        inner: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> None:
        """`settings`: `deadline_s` and `require_https`, as of `Purchases`."""
        super().__init__(wallet, inner or httpx.HTTPTransport(), sleep, clock, monotonic, **settings)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The response, paid for if need be. Raises what the inner transport raises, and what `Purchase` does."""
        response: httpx.Response = self.buy(request)
        return response
