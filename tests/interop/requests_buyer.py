"""A buyer with requests, by the official adapter: buys each page that it is told, and tells what came."""

from contextlib import ExitStack
from typing import Any

import requests
import sdk
from wallets import open_wallet
from x402 import x402ClientSync
from x402.http import decode_payment_response_header
from x402.http.clients import x402_requests

from _children import hear, say, settings_of_child
from tallystick_client.payer.http.background import WalletThread
from tallystick_client.x402 import DeferredClientSchemeSync
from tallystick_client.x402.requests import PayingAdapter


def session(settings: dict[str, Any], stack: ExitStack) -> requests.Session:
    """A session that pays by the one scheme."""
    client = x402ClientSync()
    if settings["page"] != "deferred":
        sdk.enable(client, settings)
        return stack.enter_context(x402_requests(client))
    scheme = DeferredClientSchemeSync(stack.enter_context(WalletThread(open_wallet(settings))))
    client.register(settings["network"], scheme)
    http = stack.enter_context(requests.Session())
    http.mount("http://", PayingAdapter(client, scheme))
    return http


if __name__ == "__main__":
    with ExitStack() as stack:
        http = session(settings_of_child(), stack)
        say({})
        while True:
            response = http.get(hear()["url"], timeout=60)
            receipt = response.headers.get("PAYMENT-RESPONSE")
            paid = decode_payment_response_header(receipt).model_dump(by_alias=True, mode="json") if receipt else None
            say({"status": response.status_code, "body": response.text, "receipt": paid})
