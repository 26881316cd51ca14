"""The transports for httpx, as `tallystick_client` has them for httpx2; pip install 'tallystick[httpx]'.

from tallystick_client.httpx import PayingTransport

async with httpx.AsyncClient(transport=PayingTransport(wallet)) as http:
page = await http.get("https://example.org/articles/1")
"""

import httpx

from tallystick_client.payer.http.adapter import AsyncAdapter, Library, SyncAdapter

__all__ = ["PayingTransport", "SyncPayingTransport"]

_LIBRARY = Library.of(httpx)


class PayingTransport(AsyncAdapter[httpx.AsyncBaseTransport, httpx.Request, httpx.Response], httpx.AsyncBaseTransport):
    """Pays for the requests of an asynchronous client."""

    _library = _LIBRARY


class SyncPayingTransport(SyncAdapter[httpx.BaseTransport, httpx.Request, httpx.Response], httpx.BaseTransport):
    """Pays for the requests of a synchronous client."""

    _library = _LIBRARY
