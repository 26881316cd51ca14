"""Runs the demo; see scripts/demo, which stands where a package `demo` would."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from _anvil import Anvil
from _arguments import output_file
from _children import ChildFailedError, Children
from _figures import write
from _site import Site, key_file
from demonstration.chainside import ChainSide
from demonstration.report import Payer, Report, Seller, show
from tallystick.hexadecimal import checksum

PRICES = {"news": "0.0005 USDC", "weather": "0.001 USDC", "maps": "0.002 USDC"}
CRAWLERS = ("ant", "bee", "cat", "dog")
WITHDRAWS = "dog"
"""The crawler that leaves by a timed withdrawal instead of a refund."""
EXACT_PAYER = "fox"
EXACT_PAGES = 6
WALLET_MONEY = 1_000_000_000


class Party:
    """A payer or a seller: a key, and a file that holds it."""

    def __init__(self, name: str, folder: Path) -> None:
        """Draw a key."""
        path = folder / f"{name}.key"
        self.name = name
        self.address = key_file(path).address
        self.key = f"file:{path}"
        self.book = str(folder / f"{name}.db")


class Demo:
    """One run, step by step."""

    def __init__(self, folder: Path, anvil: Anvil, children: Children, requests: int) -> None:
        """Nothing is started yet but the chain."""
        self._anvil = anvil
        self._children = children
        self._requests = requests
        self._site = Site(folder, anvil, children)
        self.sellers = [Party(name, folder) for name in PRICES]
        self.crawlers = [Party(name, folder) for name in CRAWLERS]
        self.exact = Party(EXACT_PAYER, folder)
        self._urls: Sequence[str] = []
        self._results: dict[str, dict[str, Any]] = {}
        self._seconds = 0.0

    async def deploy(self) -> None:
        """Contracts, the two files, money for the payers."""
        await self._site.deploy()
        for payer in (*self.crawlers, self.exact):
            self._anvil.mint(self._site.token, payer.address, WALLET_MONEY)
            self._anvil.set_ether(payer.address, 10**18)
        self.chain = ChainSide(self._anvil, self._site.escrow, self._site.token)

    async def serve(self) -> None:
        """The aggregator, the sellers' tokens, the sellers."""
        await self._site.serve()
        environments = [
            {
                "DEMO_AGGREGATOR": self._site.address,
                "DEMO_TOKEN": await self._site.seller_token(seller.name, [seller.address], ["charge", "read"]),
                "DEMO_RECEIVER": checksum(seller.address),
                "DEMO_PRICE": PRICES[seller.name],
            }
            for seller in self.sellers
        ]
        started = zip(self.sellers, environments, strict=True)
        self._urls = await asyncio.gather(
            *(self._site.start_seller(seller.name, "demonstration.seller:app", **own) for seller, own in started)
        )

    async def crawl(self, progress: Progress) -> None:
        """All crawlers at once, and the exact payer beside them."""
        tasks = {crawler.name: progress.add_task(crawler.name, total=0) for crawler in self.crawlers}
        tasks[EXACT_PAYER] = progress.add_task(EXACT_PAYER, total=EXACT_PAGES)
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, crawler in enumerate(self.crawlers):
                requests = self._requests // len(self.crawlers) + (number < self._requests % len(self.crawlers))
                progress.update(tasks[crawler.name], total=requests)
                group.create_task(self._crawl(crawler, requests, "2", progress, tasks[crawler.name]))
            group.create_task(self._crawl(self.exact, EXACT_PAGES, "", progress, tasks[EXACT_PAYER]))
        self._seconds = time.perf_counter() - started

    async def settle(self) -> None:
        """What is owed to all sellers, less what the aggregator settled by itself soon after its start."""
        receivers = [seller.address for seller in self.sellers]
        token = await self._site.seller_token("settlement", receivers, ["read", "settle"])
        command = ("settle", "--aggregator", self._site.address, "--insecure")
        await self._site.tallystick(*command, TALLYSTICK_TOKEN=token)

    async def leave(self) -> None:
        """Everybody's rest back: refunds by the aggregator, and one timed withdrawal without it."""
        for crawler in self.crawlers:
            if crawler.name != WITHDRAWS:
                await self._wallet(crawler, "refund")
                continue
            rpc = ("--rpc", self._anvil.url)
            await self._wallet(crawler, "withdraw", *rpc)
            self._anvil.advance(self._site.terms["withdraw_delay_s"] + 1)
            await self._wallet(crawler, "withdraw", "--finalize", *rpc)

    async def report(self) -> Report:
        """Everything counted."""
        numbers, gas = self.chain.gas()
        latencies = sorted(ms for crawler in self.crawlers for ms in self._results[crawler.name]["latencies_ms"])
        statuses = [self._results[crawler.name]["statuses"] for crawler in self.crawlers]
        charges = sum(status.get("200", 0) for status in statuses)
        exact_payments = numbers.pop("exact")
        exact_gas = round(gas.pop("exact") / exact_payments)
        books = [json.loads(await self._wallet(crawler, "status", "--json")) for crawler in self.crawlers]
        channels = {crawler.name: book["channels"] for crawler, book in zip(self.crawlers, books, strict=True)}
        return Report(
            sellers=[self._count_seller(seller, list(chain(*channels.values()))) for seller in self.sellers],
            payers=[self._count_crawler(crawler, channels[crawler.name]) for crawler in self.crawlers],
            charges=charges,
            refused=sum(sum(status.values()) for status in statuses) - charges,
            max_in_flight=max(self._results[crawler.name]["max_in_flight"] for crawler in self.crawlers),
            exact_payments=exact_payments,
            exact_payer=self._count_exact_payer(),
            transactions=numbers.total(),
            transactions_by_kind=dict(numbers),
            gas_by_kind=dict(gas),
            gas_used=gas.total(),
            gas_per_charge=gas.total() / charges,
            exact_gas=exact_gas,
            times_cheaper=exact_gas * charges / gas.total(),
            charges_per_s=charges / self._seconds,
            latency_ms={f"p{p}": latencies[len(latencies) * p // 100] for p in (50, 95, 99)},
        )

    def _count_seller(self, seller: Party, channels: list[dict[str, Any]]) -> Seller:
        address = checksum(seller.address)
        exact = self.chain.paid_exactly(self.exact.address, seller.address)
        charged = exact + sum(channel["charged"] for channel in channels if channel["receiver"] == address)
        return Seller(seller.name, address, PRICES[seller.name], charged, exact, self.chain.received(seller.address))

    def _count_crawler(self, crawler: Party, channels: list[dict[str, Any]]) -> Payer:
        deposits, deposited = self.chain.deposits(crawler.address)
        return Payer(
            name=crawler.name,
            address=checksum(crawler.address),
            scheme="deferred",
            requests=self._results[crawler.name]["fetched"],
            deposits=deposits,
            deposited=deposited,
            spent=sum(channel["charged"] for channel in channels),
            returned=self.chain.returned(crawler.address),
            returned_by="withdrawal" if crawler.name == WITHDRAWS else "refund",
        )

    def _count_exact_payer(self) -> Payer:
        spent = sum(self.chain.paid_exactly(self.exact.address, seller.address) for seller in self.sellers)
        result = self._results[EXACT_PAYER]
        return Payer(EXACT_PAYER, checksum(self.exact.address), "exact", result["fetched"], 0, spent, spent)

    async def _crawl(self, payer: Party, requests: int, deposit: str, progress: Progress, task: TaskID) -> None:
        settings = {"book": payer.book, "key": payer.key, "operator": str(self._site.operator), "deposit": deposit}
        crawler = await self._children.start_with(
            "demonstration.crawler", {**settings, "requests": requests, "sellers": list(self._urls)}
        )
        async for line in crawler.lines():
            self._results[payer.name] = json.loads(line)
            progress.update(task, completed=self._results[payer.name]["fetched"])

    async def _wallet(self, payer: Party, *command: str) -> str:
        options = ("--wallet", payer.book, "--key", payer.key, "--operator", str(self._site.operator))
        return await self._site.tallystick("wallet", *command, *options)


async def run(requests: int, console: Console) -> Report:
    """The whole way, with a line for each step."""
    with tempfile.TemporaryDirectory(prefix="tallystick-demo-") as folder, Anvil() as anvil:
        async with Children(Path(folder)) as children:
            demo = Demo(Path(folder), anvil, children, requests)
            await _each(
                console,
                ("a chain is up; deploying the contracts", demo.deploy),
                ("starting the aggregator and three sellers", demo.serve),
            )
            columns = (TextColumn("  {task.description:<4}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            console.print(f"[green]✓[/] crawling: four crawlers deposit once each, {EXACT_PAYER} pays by exact")
            with Progress(*columns, console=console) as progress:
                await demo.crawl(progress)
            await _each(
                console,
                ("one transaction pays all sellers what is still owed to them", demo.settle),
                ("everybody's rest goes back, one crawler's by a timed withdrawal", demo.leave),
            )
            return await demo.report()


async def _each(console: Console, *steps: tuple[str, Callable[[], Awaitable[None]]]) -> None:
    for text, step in steps:
        with console.status(text):
            await step()
        console.print(f"[green]✓[/] {text}")


def _output_file(_context: click.Context, _option: click.Parameter, text: str | None) -> Path | None:
    try:
        return None if text is None else output_file(text)
    except argparse.ArgumentTypeError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option("--requests", default=3_000, show_default=True, type=click.IntRange(40, 1_000_000), help="Pages to pay.")
@click.option("--json", "json_path", metavar="FILE", callback=_output_file, help="Write the figures here too.")
def main(requests: int, json_path: Path | None) -> None:
    """The whole way, once, on this machine: pay per request, settle later, account for every unit."""
    console = Console()
    try:
        report = asyncio.run(run(requests, console))
    except* ChildFailedError as failures:
        for failure in failures.exceptions:
            console.print(str(failure), style="red", markup=False)
        sys.exit(1)
    show(report, console)
    write(json_path, report.as_json())
    problems = report.problems()
    for problem in problems:
        console.print(f"[red]✗[/] {problem}")
    if problems:
        sys.exit(1)
    console.print("[green]✓[/] every unit is accounted for")


if __name__ == "__main__":
    main(prog_name="scripts/demo")
