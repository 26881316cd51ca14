"""A buyer with Tallystick's own transport and wallet: buys each page that it is told, and tells what came."""

import asyncio
import base64
import json

import httpx2
from wallets import open_wallet

from _children import hear, say, settings_of_child
from tallystick_client import PayingTransport


async def main() -> None:
    """Buy one page after the other."""
    wallet = await open_wallet(settings_of_child())
    async with wallet, httpx2.AsyncClient(transport=PayingTransport(wallet), timeout=60) as http:
        say({})
        while True:
            response = await http.get((await asyncio.to_thread(hear))["url"])
            receipt = response.headers.get("PAYMENT-RESPONSE")
            paid = json.loads(base64.b64decode(receipt)) if receipt else None
            say({"status": response.status_code, "body": response.text, "receipt": paid})


if __name__ == "__main__":
    asyncio.run(main())
