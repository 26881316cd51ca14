"""`scripts/chaos fleet`: workers share a served wallet, and both are killed at random while they buy.

Real processes throughout: a chain, the aggregator, a wallet on a unix socket, shops, workers. Workers and, less often,
the wallet are ended by SIGKILL and started again. Nobody may be refused but by the budget; the budget is spent to its
end and never exceeded; and once what the dead left behind is reconciled, the wallet's book equals the aggregator's.
"""

import argparse
import asyncio
import json
import random
import secrets
import tempfile
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from _anvil import Anvil
from _arguments import output_file
from chaos_runs import kill_count
from demonstration.children import Children, python
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick_aggregator.store.sqlite.store import SqliteStore

PRICE: Final = 1_000
PRICE_TEXT: Final = "0.001 USDC"
MONEY: Final = 10**9
TOKEN: Final = secrets.token_urlsafe(24)
LEASE_S: Final = 4.0
"""A worker that is silent for so long is taken for dead."""
HEADROOM_MAX: Final = 4
"""Pages per grant: what a dead worker holds counts as spent until it is reconciled."""
WALLET_SHARE: Final = 0.15
"""Of the kills, those that hit the wallet."""
BETWEEN_S: Final = (0.1, 0.8)
SPEND_TIMEOUT_S: Final = 240.0
RECONCILE_TIMEOUT_S: Final = 180.0


class Size(NamedTuple):
    """How large a run is."""

    workers: int
    sellers: int
    kills: int
    budget: int
    """In pages."""


FULL: Final = Size(workers=50, sellers=200, kills=100, budget=40_000)
QUICK: Final = Size(workers=4, sellers=6, kills=4, budget=400)


class Fleet:
    """One run."""

    def __init__(self, size: Size, seed: int, folder: Path, anvil: Anvil, children: Children) -> None:
        self._size = size
        self._chance = random.Random(seed)  # noqa: S311 - a repeatable choice of victims, no secret
        self._folder = folder
        self._anvil = anvil
        self._children = children
        self._site = folder / "site"
        self._key = folder / "payer.key"
        self._receivers = [Signer(secrets.token_bytes(32)).address for _ in range(size.sellers)]
        self._workers: list[Process] = []
        self._started: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()

    async def open(self) -> None:
        """Chain, contracts, aggregator, shops, wallet, workers."""
        rpc, config = self._anvil.url, self._site / "aggregator.toml"
        where = ("--listen", "127.0.0.1:0", "--public", "127.0.0.1:7402")  # the port that there is comes below
        await self._run("deploy", "--dev", "--rpc", rpc, "--out", str(self._site), *where)
        self._aggregator = await self._start("aggregator", "serve", "--config", str(config))
        address = await self._said("aggregator", "listening on ")
        terms = json.loads((self._site / "operator.json").read_text()) | {"aggregator": address}
        (self._site / "operator.json").write_text(json.dumps(terms))
        payer = Signer(key := secrets.token_bytes(32))
        self._key.touch(mode=0o600)
        self._key.write_text(key.hex())
        self._anvil.mint(bytes.fromhex(terms["tokens"][0]["token"][2:]), payer.address, MONEY)
        receivers = [part for receiver in self._receivers for part in ("--receiver", checksum(receiver))]
        added = await self._run(
            "seller", "add", "shops", "--config", str(config), "--json", *receivers, "--scope", "charge"
        )
        await self._children.start(
            "shops",
            python("-m", "uvicorn", "chaos_runs.shops:app", "--port", "0", "--no-access-log"),
            {
                "CHAOS_AGGREGATOR": address,
                "CHAOS_TOKEN": json.loads(added)["token"],
                "CHAOS_RECEIVERS": ",".join(map(checksum, self._receivers)),
                "CHAOS_PRICE": PRICE_TEXT,
            },
        )
        self._port = (await self._said("shops", "running on ")).rpartition(":")[2]
        await self._serve_wallet()
        for _ in range(self._size.workers):
            self._workers.append(await self._start_worker())

    async def kill(self) -> None:
        """End somebody without a word, and put another in its place."""
        await asyncio.sleep(self._chance.uniform(*BETWEEN_S))
        if self._chance.random() < WALLET_SHARE:
            await _end(self._wallet)
            self.kills["wallet"] += 1
            await self._serve_wallet()
            return
        victim = self._chance.randrange(len(self._workers))
        await _end(self._workers[victim])
        self.kills["worker"] += 1
        self._workers[victim] = await self._start_worker()

    async def spend_the_rest(self) -> None:
        """Let the workers buy until nothing is left of the budget, which shows in that nobody buys any more."""
        deadline = time.monotonic() + SPEND_TIMEOUT_S
        paid = -1
        while time.monotonic() < deadline:
            await asyncio.sleep(2 * LEASE_S)
            before, paid = paid, self.said_by_workers()[0]["paid"]
            if paid == before:
                return

    async def close(self) -> None:
        """End workers and wallet in good order."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            await worker.wait()
        await asyncio.sleep(2 * LEASE_S)
        self._wallet.terminate()
        await self._wallet.wait()

    async def reconcile(self) -> dict[str, Any]:
        """Compare the book with the aggregator until it knows what became of every payment."""
        deadline = time.monotonic() + RECONCILE_TIMEOUT_S
        while True:
            await self._run("wallet", "reconcile", *self._wallet_options)
            status = json.loads(await self._run("wallet", "status", "--json", *self._wallet_options))
            (account,) = status["accounts"]
            if not account["unknown"] or time.monotonic() > deadline:
                return {**account, "channels": status["channels"]}
            await asyncio.sleep(2)

    async def charged(self) -> dict[str, int]:
        """What the aggregator's store says was charged, by channel; it is stopped for that."""
        self._aggregator.terminate()
        await self._aggregator.wait()
        (path,) = self._site.rglob("*.db")
        store = await SqliteStore.open(path)
        ledger = await store.journal.load()
        await store.close()
        return {"0x" + channel.id.hex(): channel.charged for channel in ledger.channels.values()}

    def said_by_workers(self) -> tuple[Counter[str], list[str]]:
        """What the workers counted, each until it was killed or told to stop, and the problems that they had."""
        counts: Counter[str] = Counter()
        problems: list[str] = []
        for log in self._folder.glob("worker-*.log"):
            last: dict[str, int] = {}
            for line in log.read_text(errors="replace").splitlines():
                if not (line.startswith("{") and line.endswith("}")):
                    continue
                said = json.loads(line)
                last = said.get("counts", last)
                if "problem" in said:
                    problems.append(said["detail"])
            counts.update(last)
        return counts, problems

    # Parts.

    @property
    def _wallet_options(self) -> tuple[str, ...]:
        book, operator = self._folder / "wallet.db", self._site / "operator.json"
        return ("--wallet", str(book), "--key", f"file:{self._key}", "--operator", str(operator))

    async def _serve_wallet(self) -> None:
        budget = f"{self._size.budget * PRICE / 10**6:.6f}"
        options = (
            "--total",
            budget,
            "--deposit-high",
            budget,
            "--max-headroom",
            str(HEADROOM_MAX),
            "--lease",
            str(LEASE_S),
        )
        listen = ("--listen", f"unix:{self._folder / 'wallet.sock'}", "--token", "env:CHAOS_WALLET_TOKEN")
        name = self._name("wallet")
        self._wallet = await self._start(name, "wallet", "serve", *listen, *options, *self._wallet_options)
        await self._said(name, "listening on ")

    async def _start_worker(self) -> Process:
        target = f"unix:{self._folder / 'wallet.sock'}"
        command = python("-m", "chaos_runs.worker", target, self._port, str(self._size.sellers))
        return await self._children.start(self._name("worker"), command, {"CHAOS_WALLET_TOKEN": TOKEN})

    def _name(self, kind: str) -> str:
        self._started[kind] += 1
        return f"{kind}-{self._started[kind]}"

    async def _start(self, name: str, *arguments: str) -> Process:
        command = python("-m", "tallystick_client.cli", *arguments)
        return await self._children.start(name, command, {"CHAOS_WALLET_TOKEN": TOKEN})

    async def _said(self, name: str, text: str) -> str:
        line = await self._children.wait_for_line(name, text)
        return line.partition(text)[2].split()[0]

    async def _run(self, *arguments: str) -> str:
        return await self._children.run("tallystick", python("-m", "tallystick_client.cli", *arguments))


async def _end(process: Process) -> None:
    # Nobody ends but by us: a worker whose wallet is gone waits for it.
    assert process.returncode is None, f"process {process.pid} ended by itself with {process.returncode}"
    process.kill()
    await process.wait()


async def run(size: Size, seed: int, folder: Path) -> dict[str, Any]:
    """Open, kill, spend, compare."""
    started = time.monotonic()
    with Anvil() as anvil:
        async with Children(folder) as children:
            fleet = Fleet(size, seed, folder, anvil, children)
            await fleet.open()
            for _ in range(size.kills):
                await fleet.kill()
            await fleet.spend_the_rest()
            await fleet.close()
            book = await fleet.reconcile()
            charged = await fleet.charged()
            counts, problems = fleet.said_by_workers()
    booked = {channel["channel_id"]: channel["charged"] for channel in book["channels"]}
    total = sum(charged.values())
    return {
        "kills": fleet.kills.total(),
        "wallet_kills": fleet.kills["wallet"],
        "worker_kills": fleet.kills["worker"],
        "workers": size.workers,
        "sellers": size.sellers,
        "accounts": 1,
        "deposits": book["deposits"],
        "pages_that_workers_saw_paid": counts["paid"],
        "refused": len(problems),
        "budget": size.budget * PRICE,
        "charged": total,
        "charged_by_the_book": sum(booked.values()),
        "exceeded": max(0, total - size.budget * PRICE),
        "channels_that_differ": sum(booked.get(channel, 0) != amount for channel, amount in charged.items()),
        "unknown": book["unknown"],
        "disputed": book["disputed"],
        "times_budget_said_no": counts["budget"],
        "times_unavailable": counts["unavailable"],
        "problems": problems[:20],
        "seed": seed,
        "took_s": round(time.monotonic() - started, 1),
    }


def is_clean(result: Mapping[str, Any]) -> bool:
    """Whether nobody was refused for no reason, no budget was exceeded, and the books are equal."""
    bad = ("refused", "exceeded", "channels_that_differ", "unknown", "disputed")
    paid_for = result["charged"] >= result["pages_that_workers_saw_paid"] * PRICE
    return not any(result[key] for key in bad) and paid_for and bool(result["charged"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write JSON if asked to; 0 if all is as it must be."""
    parser = argparse.ArgumentParser(prog="scripts/chaos fleet", description=__doc__)
    parser.add_argument("--kills", type=kill_count, default=FULL.kills, metavar="N", help=f"how often ({FULL.kills})")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the victims and the moments (1)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="a small fleet and four kills only")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else FULL._replace(kills=options.kills)
    with tempfile.TemporaryDirectory(prefix="tallystick-fleet-") as folder:
        result = asyncio.run(run(size, options.seed, Path(folder)))
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if is_clean(result) else 1
