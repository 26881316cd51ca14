"""A worker of a fleet: it has no key and no money, only a served wallet, and fetches pages until told to stop.

Prints a line of JSON for everything that should not happen, and its counts twice a second.
"""

import asyncio
import random
import signal
import sys
from collections import Counter
from typing import Final

import httpx2

from _children import say
from tallystick.errors import TallystickError
from tallystick_client import PayingTransport, Wallet
from tallystick_client.payer.errors import BudgetExceededError
from tallystick_client.payer.fleet.remote import RemoteWallet
from tallystick_client.rpc import AggregatorUnavailableError

AT_ONCE: Final = 3
PAUSE_S: Final = 0.2
TELL_EVERY_S: Final = 0.5
TIMEOUT_S: Final = 60.0


class ToShops(httpx2.AsyncHTTPTransport):
    """Sends every request to one address, whatever host it names: the shops have no names in any DNS."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it there; the Host header stays."""
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return await super().handle_async_request(request)


class Worker:
    """What it does and what it saw."""

    def __init__(self, http: httpx2.AsyncClient, shops: int) -> None:
        self._http = http
        self._shops = shops
        self.counts: Counter[str] = Counter()
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Fetch until stopped."""
        telling = asyncio.create_task(self._tell_counts())
        await asyncio.gather(*(self._fetch_on() for _ in range(AT_ONCE)))
        telling.cancel()

    async def _tell_counts(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            say({"counts": self.counts})

    async def _fetch_on(self) -> None:
        while not self.stopping.is_set():
            url = f"http://shop-{random.randrange(self._shops)}.example/pages/{random.randrange(10**9)}"  # noqa: S311
            try:
                response = await self._http.get(url)
            except BudgetExceededError:
                self.counts["budget"] += 1
                await asyncio.sleep(PAUSE_S)
            except (AggregatorUnavailableError, httpx2.TransportError):
                self.counts["unavailable"] += 1
                await asyncio.sleep(PAUSE_S)
            except TallystickError as error:
                self._tell("refused", f"{type(error).__name__}: {error}")
            else:
                self._count(response)

    def _count(self, response: httpx2.Response) -> None:
        if response.status_code == httpx2.codes.OK:
            self.counts["paid"] += 1
        elif response.status_code == httpx2.codes.SERVICE_UNAVAILABLE:
            self.counts["unavailable"] += 1
        else:
            self._tell("refused", f"{response.status_code}: {response.text[:300]}")

    def _tell(self, what: str, detail: str) -> None:
        self.counts[what] += 1
        say({"problem": what, "detail": detail})


async def connect(wallet_target: str) -> RemoteWallet:
    """The wallet, however long it takes to come back: it is killed, too, and a busy machine starts it late."""
    while True:
        try:
            return await Wallet.connect(wallet_target, token="env:CHAOS_WALLET_TOKEN")
        except AggregatorUnavailableError:
            await asyncio.sleep(PAUSE_S)


async def main(wallet_target: str, port: int, shops: int) -> None:
    """Work."""
    wallet = await connect(wallet_target)
    transport = PayingTransport(wallet, ToShops(port), require_https=False)
    async with wallet, httpx2.AsyncClient(transport=transport, timeout=TIMEOUT_S) as http:
        worker = Worker(http, shops)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stopping.set)
        say({"working": True})
        await worker.run()
    say({"counts": worker.counts})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
