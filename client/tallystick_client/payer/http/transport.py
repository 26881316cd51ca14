"""httpx2's transports that answer 402s by themselves, and pay ahead where they know the price.

    async with httpx2.AsyncClient(transport=PayingTransport(wallet)) as http:
        page = await http.get("https://example.org/articles/1")

The rules are those of `purchase`; `tallystick_client.httpx` has the same transports for httpx.
"""

import httpx2

from tallystick_client.payer.http.adapter import AsyncAdapter, Library, SyncAdapter

__all__ = ["PayingTransport", "SyncPayingTransport"]

_LIBRARY = Library.of(httpx2)


class PayingTransport(
    AsyncAdapter[httpx2.AsyncBaseTransport, httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport
):
    """Pays for the requests of an asynchronous client."""

    _library = _LIBRARY


class SyncPayingTransport(SyncAdapter[httpx2.BaseTransport, httpx2.Request, httpx2.Response], httpx2.BaseTransport):
    """Pays for the requests of a synchronous client."""

    _library = _LIBRARY
