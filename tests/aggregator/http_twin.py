"""A market behind the real HTTP edge: memory, real tokens, a real server on loopback; and what buyers' servers send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from doubles import MUSIC, NETWORK, NEWS, TOKEN, Payer
from marketplace import PRICE, Marketplace, marketplace, transfer_of

from tallystick.hexadecimal import checksum
from tallystick.x402 import ExactAuthorization, exact_payload
from tallystick_aggregator.api.http.app import FacilitatorApp
from tallystick_aggregator.api.http.discovery import Resources
from tallystick_aggregator.api.http.limits import HttpLimits
from tallystick_aggregator.api.http.server import HttpServer
from tallystick_aggregator.api.tls import TlsFiles
from tallystick_aggregator.auth.credentials import Credentials, Principals, Scope
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.listing import Listing, ListingLimits
from tallystick_aggregator.schemes.port import Scheme
from tallystick_aggregator.store.memory import MemoryDisk, MemoryListings

ALICE = Payer("alice")
Json = dict[str, Any]
NOW_S = 1_800_000_000
"""The time of the listing."""


@dataclass
class HttpEdge:
    """A server, its parts, and a client without a token."""

    market: Marketplace
    credentials: Credentials
    app: FacilitatorApp
    server: HttpServer
    client: httpx2.AsyncClient
    news: Mapping[str, str]
    """The token of NEWS, for everything."""
    music: Mapping[str, str]

    async def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """Post JSON, by default as NEWS."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=content, headers=dict(self.news if headers is None else headers))


@asynccontextmanager
async def http_edge(
    folder: Path,
    *,
    limits: HttpLimits | None = None,
    open_schemes: Sequence[str] = (),
    schemes: Sequence[Scheme[Any, Any]] = (),
    resources: Resources | None = None,
    listing_limits: ListingLimits | None = None,
    tls: TlsFiles | None = None,
    verify: Any = True,
) -> AsyncIterator[HttpEdge]:
    """Serve a market; `schemes` are those beside `deferred` and `exact`; `open_schemes` are named."""
    credentials = Credentials.open(folder / "tokens.db")
    try:
        async with marketplace() as market:
            all_schemes: list[Scheme[Any, Any]] = [market.deferred, market.exact, *schemes]
            opened = [scheme for scheme in all_schemes if scheme.name in open_schemes]
            facilitator = Facilitator(Principals(credentials.lookup), all_schemes, opened)
            listing = Listing(MemoryListings(MemoryDisk()), credentials.origins, listing_limits, clock=lambda: NOW_S)
            app = FacilitatorApp(facilitator, limits, resources or listing)
            await app.tell_health(serving=True)
            await app.tell_settling(settling=True)
            server = HttpServer(app, "127.0.0.1:0", tls, limits, grace_s=1)
            await server.start()
            try:
                async with httpx2.AsyncClient(base_url=server.url, timeout=10, verify=verify) as client:
                    news, music = (
                        bearer(credentials.add(name, [receiver], list(Scope)))
                        for name, receiver in (("news", NEWS), ("music", MUSIC))
                    )
                    yield HttpEdge(market, credentials, app, server, client, news, music)
            finally:
                await server.stop()
    finally:
        credentials.close()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def requirements(**changes: Any) -> Json:
    """What NEWS asks for by `exact`."""
    asked = {
        "scheme": "exact",
        "network": NETWORK,
        "amount": str(PRICE),
        "asset": checksum(TOKEN),
        "payTo": checksum(NEWS),
        "maxTimeoutSeconds": 1,
        "extra": {"name": "USD Coin", "version": "2"},
    }
    return asked | changes


def request_of(transfer: ExactAuthorization | None = None, *, number: int = 0, **changes: Any) -> Json:
    """A request of NEWS's server for ALICE's payment; `changes` are made to what is asked for."""
    asked = requirements(**changes)
    payload = exact_payload(transfer or transfer_of(ALICE, number))
    return {
        "x402Version": 2,
        "paymentPayload": {
            "x402Version": 2,
            "resource": {"url": "https://news.example/a", "serviceName": "News"},
            "accepted": asked,
            "payload": payload,
        },
        "paymentRequirements": asked,
    }


async def raw(port: int, data: bytes, *, end: bool = True, within_s: float = 5.0) -> bytes:
    """What the server answers to these bytes, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        if end:
            writer.write_eof()
        async with asyncio.timeout(within_s):
            return await reader.read()
    finally:
        writer.close()
