"""Two hundred sellers in one process: an ASGI application that tells them apart by the Host header.

Run by uvicorn and configured by the environment. Every shop has an address of its own, and one page that costs money.
"""

import os

from tallystick_client import Aggregator, Paywall, Rule
from tallystick_client.seller.paywall.asgi import Scope
from tallystick_client.seller.paywall.bodies import Receive
from tallystick_client.seller.paywall.outgoing import Send

PRICE_TEXT = os.environ["CHAOS_PRICE"]
RECEIVERS = os.environ["CHAOS_RECEIVERS"].split(",")


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """What is sold."""
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"a page worth paying for"})


_aggregator = Aggregator(os.environ["CHAOS_AGGREGATOR"], token="env:CHAOS_TOKEN", insecure=True)
_SHOPS = {
    f"shop-{number}.example".encode(): Paywall(
        page, aggregator=_aggregator, pay_to=receiver, rules=[Rule(path="/pages/*", price=PRICE_TEXT)]
    )
    for number, receiver in enumerate(RECEIVERS)
}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Hand a request to the shop that it is for."""
    if scope["type"] != "http":
        await _SHOPS[b"shop-0.example"](scope, receive, send)
        return
    host = dict(scope["headers"]).get(b"host", b"")
    await _SHOPS[host](scope, receive, send)
