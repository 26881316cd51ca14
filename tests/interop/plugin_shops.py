"""Shops that sell with the official SDK's middleware and our plug-ins, in this process: FastAPI and Flask."""

import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import FastAPI, HTTPException, Request, Response
from flask import Flask
from flask import request as flask_request
from werkzeug.serving import make_server
from x402 import x402ResourceServer, x402ResourceServerSync
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, PaymentOption, RouteConfig
from x402.http.middleware.fastapi import payment_middleware
from x402.http.middleware.flask import PaymentMiddleware
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.schemas import AssetAmount

from e2e.market import HttpMarket, Market
from interop.sdk import Bearer
from served import served
from tallystick.hexadecimal import checksum
from tallystick_client.x402 import (
    DeferredServerScheme,
    FacilitatorClient,
    FacilitatorClientSync,
    KeptAnswers,
    KeptAnswersMiddleware,
)

PRICE: Final = 1_000


@dataclass
class Shop:
    """A shop that answers at `url`; `handled` counts its handlers' runs."""

    url: str
    handled: Counter[str] = field(default_factory=Counter)


def routes(market: Market) -> dict[str, RouteConfig]:
    """Pages, and what they cost."""
    (token,) = market.operator.tokens
    extra = {"name": token.name, "version": token.version}
    network, pay_to = str(market.operator.network), checksum(market.receiver)
    atomic = AssetAmount(amount=str(PRICE), asset=checksum(token.address), extra=extra)
    deferred = PaymentOption("deferred", pay_to, "$0.001", network)
    exact = PaymentOption("exact", pay_to, atomic, network)
    return {
        "GET /page/*": RouteConfig(accepts=deferred),
        "POST /echo": RouteConfig(accepts=deferred),
        "GET /broken": RouteConfig(accepts=deferred),
        "GET /exact": RouteConfig(accepts=exact),
    }


class LosingFacilitator(FacilitatorClient):
    """Loses its first answer to settle, after the aggregator gave it."""

    is_lost = False

    async def settle(self, payload: Any, requirements: Any) -> Any:
        """Settle, then fail as the SDK's own client does whose connection broke."""
        settled = await super().settle(payload, requirements)
        if not self.is_lost:
            self.is_lost = True
            raise ConnectionResetError("the connection broke")
        return settled


def fastapi_shop(market: HttpMarket, made: type[FacilitatorClient] = FacilitatorClient) -> AbstractContextManager[Shop]:
    """FastAPI behind the SDK's middleware, which asks the aggregator by our plug-in."""
    facilitator = made(market.aggregator, token=market.seller_token)
    return _fastapi_shop(market, facilitator, facilitator.close)


def fastapi_shop_over_http(market: HttpMarket) -> AbstractContextManager[Shop]:
    """FastAPI behind the SDK's middleware, which asks the aggregator as it asks any facilitator."""
    config = FacilitatorConfig(url=market.http_url, auth_provider=Bearer(market.seller_token))
    facilitator = HTTPFacilitatorClient(config)
    return _fastapi_shop(market, facilitator, facilitator.aclose)


@contextmanager
def _fastapi_shop(
    market: HttpMarket, facilitator: FacilitatorClient | HTTPFacilitatorClient, close: Callable[[], Awaitable[None]]
) -> Iterator[Shop]:
    shop, kept = Shop(""), KeptAnswers()

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        await close()

    server = x402ResourceServer(facilitator)
    network = str(market.operator.network)
    tokens = market.operator.tokens  # a facilitator over HTTP does not tell them
    server.register(network, DeferredServerScheme(kept=kept, facilitator=facilitator, tokens=tokens))
    server.register(network, ExactEvmServerScheme())
    app = FastAPI(lifespan=closing)
    app.add_middleware(KeptAnswersMiddleware, kept=kept)
    paid = payment_middleware(routes(market), server)

    @app.middleware("http")
    async def pay(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await paid(request, call_next)

    @app.get("/page/{name}")
    async def page(name: str) -> str:
        shop.handled[name] += 1
        return f"page {name}"

    @app.post("/echo")
    async def echo(request: Request) -> str:
        shop.handled["echo"] += 1
        return (await request.body()).decode()

    @app.get("/broken")
    async def broken() -> str:
        raise HTTPException(503)

    @app.get("/exact")
    async def exact() -> str:
        return "exact"

    with served(app) as shop.url:
        yield shop


@contextmanager
def flask_shop(market: Market) -> Iterator[Shop]:
    """Flask behind the SDK's middleware."""
    shop, kept = Shop(""), KeptAnswers()
    app = Flask(__name__)
    with FacilitatorClientSync(market.aggregator, token=market.seller_token) as facilitator:
        server = x402ResourceServerSync(facilitator)
        network = str(market.operator.network)
        server.register(network, DeferredServerScheme(kept=kept, facilitator=facilitator))
        server.register(network, ExactEvmServerScheme())
        app.wsgi_app = kept.wsgi(app.wsgi_app)  # type: ignore[method-assign]
        PaymentMiddleware(app, routes(market), server)

        @app.get("/page/<name>")
        def page(name: str) -> str:
            shop.handled[name] += 1
            return f"page {name}"

        @app.post("/echo")
        def echo() -> str:
            shop.handled["echo"] += 1
            return flask_request.get_data().decode()

        @app.get("/broken")
        def broken() -> tuple[str, int]:
            return "broken", 503

        @app.get("/exact")
        def exact() -> str:
            return "exact"

        listener = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        shop.url = f"http://127.0.0.1:{listener.server_port}"
        try:
            yield shop
        finally:
            listener.shutdown()
            thread.join(30)
            listener.server_close()
