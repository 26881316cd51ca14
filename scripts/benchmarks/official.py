"""The official x402 package under measurement: its resource server in one process, as its users run it.

Scheme batch-settlement with vouchers that the server itself manages: each request brings a distinct voucher, which the
package checks and settles in its memory store. It makes nothing durable. coincurve and uvloop are installed, so it runs
at its best. Its facilitator is never called: a voucher on a channel whose state is fresh needs none.

As a child it either serves its FastAPI middleware on uvicorn, or verifies and settles in process.
"""

import asyncio
import logging
import socket
import time
from functools import partial
from typing import Any, NoReturn

import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response
from x402 import x402ResourceServer
from x402.http.middleware.fastapi import payment_middleware
from x402.http.types import PaymentOption, RouteConfig
from x402.mechanisms.evm.batch_settlement.server import (
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeServerConfig,
    Channel,
    InMemoryChannelStorage,
)
from x402.schemas import AssetAmount, PaymentPayload, PaymentRequirements, SupportedKind, SupportedResponse

from _children import hear, say, settings_of_child
from benchmarks import official_world as world
from tallystick.hexadecimal import checksum

STATE_FRESH_MS = 86_400_000


class Facilitator:
    """Says what is supported, and must never be asked anything else."""

    def get_supported(self) -> SupportedResponse:
        """Name the one kind."""
        extra = {"receiverAuthorizer": checksum(world.RECEIVER_AUTHORIZER.address)}
        kind = SupportedKind(x402_version=2, scheme="batch-settlement", network=world.NETWORK, extra=extra)
        return SupportedResponse(kinds=[kind])

    async def verify(self, *_: Any) -> NoReturn:
        """Fail: the measurement would be of this call."""
        raise AssertionError("the voucher was not verified locally")

    async def settle(self, *_: Any) -> NoReturn:
        """Fail, likewise."""
        raise AssertionError("the voucher was not settled locally")


def _put(stored: Channel, _: Channel | None) -> Channel:
    return stored


def resource_server(channels: int) -> x402ResourceServer:
    """The package's server with this many channels in its memory store."""
    storage = InMemoryChannelStorage()
    now_ms = time.time_ns() // 1_000_000
    for number in range(channels):
        stored = world.OfficialChannel(number).stored(now_ms)
        storage.update_channel(stored.channel_id, partial(_put, stored))
    config = BatchSettlementEvmSchemeServerConfig(
        storage=storage, withdraw_delay=world.WITHDRAW_DELAY_S, onchain_state_ttl_ms=STATE_FRESH_MS
    )
    server = x402ResourceServer(Facilitator())
    server.register(world.NETWORK, BatchSettlementEvmScheme(checksum(world.RECEIVER), config))  # type: ignore[arg-type]
    return server


def price() -> AssetAmount:
    """What a page costs."""
    return AssetAmount(amount=str(world.PRICE), asset=checksum(world.TOKEN))


def application(channels: int) -> FastAPI:
    """A FastAPI application that sells one page."""
    option = PaymentOption(
        scheme="batch-settlement", pay_to=checksum(world.RECEIVER), price=price(), network=world.NETWORK
    )
    paid = payment_middleware({"GET /page": RouteConfig(accepts=option)}, resource_server(channels))
    app = FastAPI()

    @app.middleware("http")
    async def sell(request: Request, call_next: Any) -> Response:
        return await paid(request, call_next)

    @app.get("/page")
    async def page() -> dict[str, str]:
        return {"page": "text"}

    return app


def serve(channels: int) -> None:
    """Serve on a free port of 127.0.0.1, one worker, until ended."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(application(channels), loop="uvloop", http="httptools", access_log=False, log_level="error")
    say({"ready": True, "port": listener.getsockname()[1]})
    uvicorn.Server(config).run(sockets=[listener])


async def in_process(channels: int, per_channel: int) -> dict[str, Any]:
    """Verify and settle every voucher once, one after another; payloads are parsed objects before the clock starts."""
    server = resource_server(channels)
    server.initialize()
    config = world.requirements() | {"extra": {}}
    accepted = PaymentRequirements.model_validate(config)
    accepted = server.get_registered_scheme(world.NETWORK, "batch-settlement").enhance_payment_requirements(  # type: ignore[union-attr]
        accepted, Facilitator().get_supported().kinds[0], []
    )
    known = [world.OfficialChannel(number) for number in range(channels)]
    payloads = [
        PaymentPayload(payload=channel.payload(ordinal), accepted=accepted)
        for ordinal in range(per_channel)
        for channel in known
    ]
    start = time.perf_counter()
    for payload in payloads:
        verified = await server.verify_payment(payload, accepted)
        if not verified.is_valid:
            raise AssertionError(f"the official package refused: {verified.invalid_reason}")
        settled = await server.settle_payment(payload, accepted)
        if not settled.success:
            raise AssertionError(f"the official package did not settle: {settled.error_reason}")
    elapsed_s = time.perf_counter() - start
    return {"charges": len(payloads), "charges_per_s": len(payloads) / elapsed_s}


def main() -> None:
    """Be the child that the settings ask for."""
    logging.disable(logging.WARNING)
    settings = settings_of_child()
    if settings["mode"] == "serve":
        serve(settings["channels"])
        return
    say({"ready": True})
    hear()
    say(uvloop.run(in_process(settings["channels"], settings["per_channel"])))


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(0) from None
