"""A seller on FastAPI, by the official middleware."""

import asyncio
import socket

import sdk
import uvicorn
from eth_account import Account
from fastapi import FastAPI, Response
from x402 import x402ResourceServer
from x402.http import HTTPFacilitatorClient
from x402.http.middleware.fastapi import payment_middleware, set_settlement_overrides
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner
from x402.mechanisms.evm.batch_settlement.server import BatchSettlementChannelManager, BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.server.channel_manager_common import ChannelManagerConfig
from x402.mechanisms.evm.batch_settlement.server.scheme import BatchSettlementEvmSchemeServerConfig
from x402.mechanisms.evm.exact.server import ExactEvmScheme
from x402.mechanisms.evm.upto.server import UptoEvmScheme

from _children import say, settings_of_child
from tallystick_client.x402 import DeferredServerScheme, FacilitatorManagedServerScheme

settings = settings_of_child()
facilitator = HTTPFacilitatorClient(sdk.facilitator(settings))
server = x402ResourceServer(facilitator)
server.register(settings["network"], ExactEvmScheme())
server.register(settings["network"], UptoEvmScheme())
server.register(settings["network"], DeferredServerScheme())
own_key = LocalAuthorizerSigner(Account.create())  # so this seller signs claims and refunds by itself
batches = BatchSettlementEvmScheme(
    settings["pay_to"], BatchSettlementEvmSchemeServerConfig(receiver_authorizer_signer=own_key)
)
server.register(settings["network"], batches)
manager = BatchSettlementChannelManager(
    ChannelManagerConfig(batches, facilitator, settings["pay_to"], settings["asset"], settings["network"])
)

managing = x402ResourceServer(facilitator)
managing.register(settings["network"], FacilitatorManagedServerScheme(facilitator))

app = FastAPI()
app.middleware("http")(payment_middleware(sdk.routes(settings, managed=False), server))
app.middleware("http")(payment_middleware(sdk.routes(settings, managed=True), managing))


@app.post("/claim")
async def claim() -> dict[str, int]:
    """Claim what its channels owe, and have it paid out; costs nothing."""
    claims = await manager.claim()
    await manager.settle()  # also of what a refund has claimed
    return {"claims": len(claims)}


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
