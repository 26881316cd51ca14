"""A seller on FastAPI, by the official middleware."""

import asyncio
import socket

import sdk
import uvicorn
from fastapi import FastAPI, Response
from x402 import x402ResourceServer
from x402.http import HTTPFacilitatorClient
from x402.http.middleware.fastapi import payment_middleware, set_settlement_overrides
from x402.mechanisms.evm.exact.server import ExactEvmScheme
from x402.mechanisms.evm.upto.server import UptoEvmScheme

from _children import say, settings_of_child
from tallystick_client.x402 import DeferredServerScheme

settings = settings_of_child()
server = x402ResourceServer(HTTPFacilitatorClient(sdk.facilitator(settings)))
server.register(settings["network"], ExactEvmScheme())
server.register(settings["network"], UptoEvmScheme())
server.register(settings["network"], DeferredServerScheme())

app = FastAPI()
app.middleware("http")(payment_middleware(sdk.routes(settings), server))


@app.get("/{page}")
async def page(page: str, response: Response) -> dict[str, str]:
    """What is paid for."""
    if page == "upto":
        set_settlement_overrides(response, {"amount": settings["used"]})
    return {"page": page}


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    say({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"})
    asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener]))
