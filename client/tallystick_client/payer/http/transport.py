"""httpx2's transports that answer 402s by themselves, and pay ahead where they know the price.

    async with httpx2.AsyncClient(transport=PayingTransport(wallet)) as http:
        page = await http.get("https://example.org/articles/1")

The rules are those of `purchase`; `tallystick_client.httpx` has the same transports for httpx.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from tallystick_client.payer.http.adapter import AsyncAdapter, Library, SyncAdapter
from tallystick_client.payer.http.background import WalletThread
from tallystick_client.payer.wallet.schemes.port import Payer

__all__ = ["PayingTransport", "SyncPayingTransport"]

_LIBRARY = Library.of(httpx2)


class PayingTransport(AsyncAdapter, httpx2.AsyncBaseTransport):
    """Pays for requests from a wallet. Closing it closes the inner transport, not the wallet."""

    _library = _LIBRARY

    def __init__(
        self,
        wallet: Payer,
        inner: httpx2.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> None:
        """`settings`: `deadline_s` and `require_https`, as of `Purchases`."""
        super().__init__(wallet, inner or httpx2.AsyncHTTPTransport(), sleep, clock, monotonic, **settings)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response, paid for if need be. Raises what the inner transport raises, and what `Purchase` does."""
        response: httpx2.Response = await self.buy(request)
        return response


class SyncPayingTransport(SyncAdapter, httpx2.BaseTransport):
    """Pays for requests from a wallet on a thread of its own. Closing it closes the inner transport, not the wallet."""

    _library = _LIBRARY

    def __init__(
        self,
        wallet: WalletThread[Any],
        inner: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> None:
        """`settings`: `deadline_s` and `require_https`, as of `Purchases`."""
        super().__init__(wallet, inner or httpx2.HTTPTransport(), sleep, clock, monotonic, **settings)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response, paid for if need be. Raises what the inner transport raises, and what `Purchase` does."""
        response: httpx2.Response = self.buy(request)
        return response
