"""x402's three verbs over HTTP on a facilitator object: as much of an edge as a seller in another language needs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvicorn

from tallystick.facilitator import Settled, Verified
from tallystick.hexadecimal import to_hex
from tallystick.x402 import DeferredTerms, read_terms
from tallystick.x402.facilitator import SettleRequest, VerifyRequest, VerifyResponse
from tallystick.x402.messages import SettleResponse
from tallystick_aggregator.auth.credentials import Principal
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.schemes.port import PAYLOAD, Caller, EncodedPayment


@dataclass
class FacilitatorEdge:
    """An ASGI application. `bodies`: all that it was sent, as text; `lose` drops so many answers of settle."""

    facilitator: Facilitator
    seller: Principal
    bodies: list[str] = field(default_factory=list)
    lose: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(body.decode())
        status, answer = await self._answer(scope["path"], body)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": msgspec.json.encode(answer)})

    async def _answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/supported":
            return 200, {"kinds": [await self._kind()], "extensions": [], "signers": {}}
        if path == "/verify":
            return 200, await self._verify(msgspec.json.decode(body, type=VerifyRequest))
        answer = await self._settle(msgspec.json.decode(body, type=SettleRequest))
        if self.lose:
            self.lose -= 1
            return 502, "lost"
        return 200, answer

    async def _kind(self) -> dict[str, Any]:
        kind = next(kind for kind in (await self.facilitator.supported("news"))[1] if kind.escrow)
        terms = DeferredTerms(kind.escrow, kind.operator, kind.withdraw_delay_s, kind.escrow_name, kind.escrow_version)
        return {"x402Version": 2, "scheme": kind.scheme, "network": kind.network, "extra": terms.extra()}

    async def _verify(self, request: VerifyRequest) -> VerifyResponse:
        terms = read_terms(request.payment_requirements)
        verdict = await self.facilitator.verify(
            self.seller, terms, EncodedPayment(PAYLOAD, request.payment_payload), Caller(self.seller.name)
        )
        answer, payer = verdict.answer, to_hex(verdict.payer)
        if isinstance(answer, Verified):
            return VerifyResponse(is_valid=True, payer=payer, extra=dict(answer.extra))
        return VerifyResponse(
            is_valid=False, invalid_reason=answer.reason.code, invalid_message=answer.message, payer=payer
        )

    async def _settle(self, request: SettleRequest) -> SettleResponse:
        terms = read_terms(request.payment_requirements)
        encoded = EncodedPayment(PAYLOAD, request.payment_payload)
        answer = await self.facilitator.settle(self.seller, terms, encoded, Caller(self.seller.name), release=False)
        network = str(terms.network)
        if isinstance(answer, Settled):
            amount, extra = str(answer.amount), dict(answer.extra)
            return SettleResponse(success=True, transaction="", network=network, amount=amount, extra=extra)
        reason = answer.reason.code
        return SettleResponse(
            success=False, error_reason=reason, error_message=answer.message, transaction="", network=network
        )


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a port that the system chooses; its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off", access_log=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(30):
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
