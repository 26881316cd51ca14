"""A crawler of the demo: one wallet, pages from every seller, many requests in flight.

Prints a line of JSON whenever it has fetched some more pages, and one with its results at the end.
"""

import asyncio
import json
import time
from collections import Counter
from itertools import cycle, islice
from typing import Any

import click
import httpx2

from tallystick_client import Budgets, DepositPolicy, Operator, PayingTransport, Wallet

PROGRESS_EVERY = 25


class Crawl:
    """What a crawler does and what it saw."""

    def __init__(self, http: httpx2.AsyncClient, sellers: list[str], in_flight_max: int) -> None:
        self._http = http
        self._sellers = sellers
        self._slots = asyncio.Semaphore(in_flight_max)
        self._in_flight: Counter[str] = Counter()
        self.most_in_flight = 0
        self.latencies_ms: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.schemes: Counter[str] = Counter()

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


def say(line: dict[str, Any]) -> None:
    """One line for the parent process."""
    print(json.dumps(line), flush=True)


async def crawl(
    book: str, key: str, operator: str, sellers: list[str], requests: int, in_flight: int, deposit: str
) -> None:
    """Crawl with a wallet; without a deposit it pays by exact."""
    policy = DepositPolicy(low="0.05", high=deposit) if deposit else None
    wallet = await Wallet.open(
        book,
        key=key,
        operators=[Operator.load(operator)],
        budgets=Budgets(per_request="0.01", per_day="100"),
        deposit=policy,
    )
    async with wallet, httpx2.AsyncClient(transport=PayingTransport(wallet), timeout=60) as http:
        crawl = Crawl(http, sellers, in_flight)
        await crawl.run(requests)
    say(
        {
            "fetched": len(crawl.latencies_ms),
            "latencies_ms": [round(ms, 2) for ms in crawl.latencies_ms],
            "max_in_flight": crawl.most_in_flight,
            "statuses": crawl.statuses,
        }
    )


@click.command()
@click.option("--book", required=True)
@click.option("--key", required=True)
@click.option("--operator", required=True)
@click.option("--seller", "sellers", multiple=True, required=True)
@click.option("--requests", type=int, required=True)
@click.option("--in-flight", type=int, default=75)
@click.option("--deposit", default="")
def main(
    book: str, key: str, operator: str, sellers: tuple[str, ...], requests: int, in_flight: int, deposit: str
) -> None:
    """Crawl; see the module's docstring."""
    asyncio.run(crawl(book, key, operator, list(sellers), requests, in_flight, deposit))


if __name__ == "__main__":
    main()
