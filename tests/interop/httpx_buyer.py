"""A buyer with httpx, by the official client: buys each page that it is told, and tells what came."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import sdk
from wallets import open_wallet
from x402 import x402Client
from x402.http import decode_payment_response_header
from x402.http.clients import x402HttpxClient

from _children import hear, say, settings_of_child
from tallystick_client.x402 import DeferredClientScheme


async def enable(client: x402Client, settings: dict[str, Any], stack: AsyncExitStack) -> tuple[Any, dict[str, Any]]:
    """Let it pay by the one scheme; returns the scheme, and what httpx needs for it."""
    if settings["page"] != "deferred":
        return sdk.enable(client, settings), {}
    scheme = DeferredClientScheme(await stack.enter_async_context(await open_wallet(settings)))
    client.register(settings["network"], scheme)
    return scheme, {"event_hooks": scheme.event_hooks}


async def main() -> None:
    """Buy one page after the other."""
    client = x402Client()
    async with AsyncExitStack() as stack:
        scheme, options = await enable(client, settings_of_child(), stack)
        http = await stack.enter_async_context(x402HttpxClient(client, timeout=60, **options))
        say({})
        while True:
            told = await asyncio.to_thread(hear)
            if told["is_refund"]:
                say(await asyncio.to_thread(sdk.refund, scheme, told["url"]))
                continue
            response = await http.get(told["url"])
            receipt = response.headers.get("PAYMENT-RESPONSE")
            paid = decode_payment_response_header(receipt).model_dump(by_alias=True, mode="json") if receipt else None
            say({"status": response.status_code, "body": response.text, "receipt": paid})


if __name__ == "__main__":
    asyncio.run(main())
