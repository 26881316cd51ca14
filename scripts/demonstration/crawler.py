"""A crawler of the demo: one wallet, pages from every seller, many requests in flight.

Prints a line of JSON whenever it has fetched some more pages, and one with its results at the end.
"""

import asyncio
import time
from collections import Counter
from itertools import cycle, islice
from typing import Any, Final

import httpx2

from _children import say, settings_of_child
from tallystick_client import Budgets, DepositPolicy, Operator, PayingTransport, Wallet

PROGRESS_EVERY: Final = 25
IN_FLIGHT_MAX: Final = 75


class Crawl:
    """What a crawler does and what it saw."""

    def __init__(self, http: httpx2.AsyncClient, sellers: list[str]) -> None:
        self._http = http
        self._sellers = sellers
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._in_flight: Counter[str] = Counter()
        self.most_in_flight = 0
        self.latencies_ms: list[float] = []
        self.statuses: Counter[int] = Counter()

    async def run(self, requests: int) -> None:
        """Fetch so many pages, from the sellers in turn."""
        await asyncio.gather(
            *(self._fetch(seller, n) for n, seller in enumerate(islice(cycle(self._sellers), requests)))
        )

    async def _fetch(self, seller: str, number: int) -> None:
        async with self._slots:
            self._in_flight[seller] += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight[seller])
            started = time.perf_counter()
            response = await self._http.get(f"{seller}/pages/{number}")
            self.latencies_ms.append((time.perf_counter() - started) * 1000)
            self._in_flight[seller] -= 1
        self.statuses[response.status_code] += 1
        if len(self.latencies_ms) % PROGRESS_EVERY == 0:
            say({"fetched": len(self.latencies_ms)})


async def crawl(settings: dict[str, Any]) -> None:
    """Crawl with a wallet; without a deposit it pays by exact."""
    deposit = settings["deposit"]
    wallet = await Wallet.open(
        settings["book"],
        key=settings["key"],
        operators=[Operator.load(settings["operator"])],
        budgets=Budgets(per_request="0.01", per_day="100"),
        deposit=DepositPolicy(low="0.05", high=deposit) if deposit else None,
    )
    async with wallet, httpx2.AsyncClient(transport=PayingTransport(wallet), timeout=60) as http:
        crawl = Crawl(http, settings["sellers"])
        await crawl.run(settings["requests"])
    say(
        {
            "fetched": len(crawl.latencies_ms),
            "latencies_ms": [round(ms, 2) for ms in crawl.latencies_ms],
            "max_in_flight": crawl.most_in_flight,
            "statuses": crawl.statuses,
        }
    )


if __name__ == "__main__":
    asyncio.run(crawl(settings_of_child()))
