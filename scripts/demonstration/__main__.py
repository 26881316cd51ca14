"""Runs the demo; see scripts/demo."""

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from _anvil import Anvil
from _arguments import output_file
from demonstration.chainside import ChainSide
from demonstration.children import ChildFailedError, Children, python
from demonstration.report import Payer, Report, Seller, show
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer

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
        key = secrets.token_bytes(32)
        self.name = name
        self.signer = Signer(key)
        self.address = self.signer.address
        path = folder / f"{name}.key"
        path.touch(mode=0o600)
        path.write_text(key.hex())
        self.key = f"file:{path}"
        self.book = str(folder / f"{name}.db")


class Demo:
    """One run, step by step."""

    def __init__(self, folder: Path, anvil: Anvil, children: Children, requests: int, console: Console) -> None:
        """Nothing is started yet but the chain."""
        self._folder = folder
        self._anvil = anvil
        self._children = children
        self._requests = requests
        self._console = console
        self._sites = folder / "site"
        self.sellers = [Party(name, folder) for name in PRICES]
        self.crawlers = [Party(name, folder) for name in CRAWLERS]
        self.exact = Party(EXACT_PAYER, folder)
        self._urls: list[str] = []
        self._results: dict[str, dict[str, Any]] = {}
        self._seconds = 0.0

    async def deploy(self) -> None:
        """Contracts, the two files, money for the payers."""
        where = ("--listen", "127.0.0.1:0", "--public", "127.0.0.1:7402")  # `serve` writes the port that there is
        command = ("deploy", "--dev", "--rpc", self._anvil.url, "--out", str(self._sites), *where)
        await self._tallystick("deploy", *command)
        self._operator = json.loads((self._sites / "operator.json").read_text())
        self._escrow = bytes.fromhex(self._operator["escrow"][2:])
        self._token = bytes.fromhex(self._operator["tokens"][0]["token"][2:])
        for payer in (*self.crawlers, self.exact):
            self._anvil.mint(self._token, payer.address, WALLET_MONEY)
            self._anvil.set_ether(payer.address, 10**18)
        self.chain = ChainSide(self._anvil, self._escrow, self._token)

    async def serve(self) -> None:
        """The aggregator, the sellers' tokens, the sellers."""
        config = str(self._sites / "aggregator.toml")
        await self._children.start("aggregator", python("-m", "tallystick_client.cli", "serve", "--config", config))
        line = await self._children.wait_for_line("aggregator", "listening on ")
        self._aggregator = line.split("listening on ")[1].split()[0]
        self._operator["aggregator"] = self._aggregator
        (self._sites / "operator.json").write_text(json.dumps(self._operator))
        for seller in self.sellers:
            token = await self._seller_token(seller.name, [seller], ["charge", "read"])
            environment = {
                "DEMO_AGGREGATOR": self._aggregator,
                "DEMO_TOKEN": token,
                "DEMO_RECEIVER": checksum(seller.address),
                "DEMO_PRICE": PRICES[seller.name],
            }
            command = ("-m", "uvicorn", "demonstration.seller:app", "--port", "0", "--no-access-log")
            await self._children.start(seller.name, python(*command), environment)
        for seller in self.sellers:
            line = await self._children.wait_for_line(seller.name, "running on ")
            self._urls.append(line.split("running on ")[1].split()[0])

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
        token = await self._seller_token("settlement", self.sellers, ["read", "settle"])
        await self._tallystick(
            "settle", "settle", "--aggregator", self._aggregator, "--insecure", TALLYSTICK_TOKEN=token
        )

    async def leave(self) -> None:
        """Everybody's rest back: refunds by the aggregator, and one timed withdrawal without it."""
        for crawler in self.crawlers:
            wallet = ("--wallet", crawler.book, "--key", crawler.key, "--operator", str(self._sites / "operator.json"))
            if crawler.name != WITHDRAWS:
                await self._tallystick("leave", "wallet", "refund", *wallet)
                continue
            chain = ("--rpc", self._anvil.url)
            await self._tallystick("leave", "wallet", "withdraw", *wallet, *chain)
            self._anvil.advance(self._operator["withdraw_delay_s"] + 1)
            await self._tallystick("leave", "wallet", "withdraw", "--finalize", *wallet, *chain)

    async def report(self) -> Report:
        """Everything counted."""
        numbers, gas = self.chain.gas()
        latencies = sorted(ms for crawler in self.crawlers for ms in self._results[crawler.name]["latencies_ms"])
        statuses = [self._results[crawler.name]["statuses"] for crawler in self.crawlers]
        charges = sum(status.get("200", 0) for status in statuses)
        exact_payments = numbers.pop("exact")
        exact_gas = round(gas.pop("exact") / exact_payments)
        return Report(
            sellers=[await self._count_seller(seller) for seller in self.sellers],
            payers=[await self._count_crawler(crawler) for crawler in self.crawlers],
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

    async def _count_seller(self, seller: Party) -> Seller:
        exact = self.chain.paid_exactly(self.exact.address, seller.address)
        charged = 0
        for crawler in self.crawlers:
            book = await self._book(crawler)
            charged += sum(c["charged"] for c in book["channels"] if c["receiver"] == checksum(seller.address))
        received = self.chain.received(seller.address)
        return Seller(seller.name, checksum(seller.address), PRICES[seller.name], charged + exact, exact, received)

    async def _count_crawler(self, crawler: Party) -> Payer:
        deposits, deposited = self.chain.deposits(crawler.address)
        book = await self._book(crawler)
        return Payer(
            name=crawler.name,
            address=checksum(crawler.address),
            scheme="deferred",
            requests=self._results[crawler.name]["fetched"],
            deposits=deposits,
            deposited=deposited,
            spent=sum(channel["charged"] for channel in book["channels"]),
            returned=self.chain.returned(crawler.address),
            returned_by="withdrawal" if crawler.name == WITHDRAWS else "refund",
        )

    def _count_exact_payer(self) -> Payer:
        spent = sum(self.chain.paid_exactly(self.exact.address, seller.address) for seller in self.sellers)
        result = self._results[EXACT_PAYER]
        return Payer(EXACT_PAYER, checksum(self.exact.address), "exact", result["fetched"], 0, spent, spent)

    async def _crawl(self, payer: Party, requests: int, deposit: str, progress: Progress, task: TaskID) -> None:
        command = ["--book", payer.book, "--key", payer.key, "--operator", str(self._sites / "operator.json")]
        command += ["--requests", str(requests), "--deposit", deposit]
        for url in self._urls:
            command += ["--seller", url]
        async for line in self._children.lines(payer.name, python("-m", "demonstration.crawler", *command)):
            self._results[payer.name] = json.loads(line)
            progress.update(task, completed=self._results[payer.name]["fetched"])

    async def _book(self, crawler: Party) -> dict[str, Any]:
        command = ("wallet", "status", "--wallet", crawler.book, "--key", crawler.key, "--json")
        operator = ("--operator", str(self._sites / "operator.json"))
        return dict(json.loads(await self._tallystick("status", *command, *operator)))

    async def _seller_token(self, name: str, receivers: list[Party], scopes: list[str]) -> str:
        command = ["seller", "add", name, "--config", str(self._sites / "aggregator.toml"), "--json"]
        for receiver in receivers:
            command += ["--receiver", checksum(receiver.address)]
        for scope in scopes:
            command += ["--scope", scope]
        return str(json.loads(await self._tallystick("seller", *command))["token"])

    async def _tallystick(self, name: str, *arguments: str, **environment: str) -> str:
        return await self._children.run(name, python("-m", "tallystick_client.cli", *arguments), environment)


async def run(requests: int, console: Console) -> Report:
    """The whole way, with a line for each step."""
    with tempfile.TemporaryDirectory(prefix="tallystick-demo-") as folder, Anvil() as anvil:
        async with Children(Path(folder)) as children:
            demo = Demo(Path(folder), anvil, children, requests, console)
            for text, step in (
                ("a chain is up; deploying the contracts", demo.deploy),
                ("starting the aggregator and three sellers", demo.serve),
            ):
                with console.status(text):
                    await step()
                console.print(f"[green]✓[/] {text}")
            columns = (TextColumn("  {task.description:<4}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            console.print(f"[green]✓[/] crawling: four crawlers deposit once each, {EXACT_PAYER} pays by exact")
            with Progress(*columns, console=console) as progress:
                await demo.crawl(progress)
            for text, step in (
                ("one transaction pays all sellers what is still owed to them", demo.settle),
                ("everybody's rest goes back, one crawler's by a timed withdrawal", demo.leave),
            ):
                with console.status(text):
                    await step()
                console.print(f"[green]✓[/] {text}")
            return await demo.report()


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
    if json_path is not None:
        json_path.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    problems = report.problems()
    for problem in problems:
        console.print(f"[red]✗[/] {problem}")
    if problems:
        sys.exit(1)
    console.print("[green]✓[/] every unit is accounted for")


if __name__ == "__main__":
    main(prog_name="scripts/demo")
