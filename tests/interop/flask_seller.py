"""A seller on Flask, by the official middleware."""

import sdk
from flask import Flask, Response, jsonify
from werkzeug.serving import make_server
from x402 import x402ResourceServerSync
from x402.http import HTTPFacilitatorClientSync
from x402.http.middleware.flask import payment_middleware, set_settlement_overrides
from x402.mechanisms.evm.batch_settlement.server import BatchSettlementChannelManagerSync, BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.server.channel_manager_common import ChannelManagerConfigSync
from x402.mechanisms.evm.exact.server import ExactEvmScheme
from x402.mechanisms.evm.upto.server import UptoEvmScheme

from _children import say, settings_of_child
from tallystick_client.x402 import DeferredServerScheme, FacilitatorManagedServerScheme

settings = settings_of_child()
facilitator = HTTPFacilitatorClientSync(sdk.facilitator(settings))
server = x402ResourceServerSync(facilitator)
server.register(settings["network"], ExactEvmScheme())
server.register(settings["network"], UptoEvmScheme())
server.register(settings["network"], DeferredServerScheme())
batches = BatchSettlementEvmScheme(settings["pay_to"])
server.register(settings["network"], batches)
manager = BatchSettlementChannelManagerSync(
    ChannelManagerConfigSync(batches, facilitator, settings["pay_to"], settings["asset"], settings["network"])
)

managing = x402ResourceServerSync(facilitator)
managing.register(settings["network"], FacilitatorManagedServerScheme(facilitator))

app = Flask(__name__)


@app.post("/claim")
def claim() -> Response:
    """Claim what its channels owe, and have it paid out; costs nothing."""
    claims = manager.claim()
    manager.settle()  # also of what a refund has claimed
    return jsonify({"claims": len(claims)})


@app.get("/<page>")
def page(page: str) -> Response:
    """What is paid for."""
    response = jsonify({"page": page})
    if page == "upto":
        set_settlement_overrides(response, {"amount": settings["used"]})
    return response


payment_middleware(app, sdk.routes(settings, managed=False), server)
payment_middleware(app, sdk.routes(settings, managed=True), managing)

if __name__ == "__main__":
    listener = make_server("127.0.0.1", 0, app, threaded=True)
    say({"url": f"http://127.0.0.1:{listener.server_port}"})
    listener.serve_forever()
