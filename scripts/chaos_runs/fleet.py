"""`scripts/chaos fleet`: workers share a served wallet, and both are killed at random while they buy.

Real processes throughout: a chain, the aggregator, a wallet on a unix socket, shops, workers. Workers and, less often,
the wallet are ended by SIGKILL and started again. Nobody may be refused but by the budget; the budget is spent to its
end and never exceeded; and once what the dead left behind is reconciled, the wallet's book equals the aggregator's.
"""

import asyncio
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from _anvil import Anvil
from _children import Child, Children
from _site import Site, key_file
from chaos_runs import carry_out, is_true_of, kill_count, parser_of
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
SPEND_TIMEOUT_S: Final = 1_200.0
"""A busy machine needs long for the budget. While some of it is left, nobody has to take headroom back, and what killed
workers paid last stays unknown until their reservations lapse."""
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
        self._site = Site(folder, anvil, children)
        self._workers: list[Child] = []
        self.kills: Counter[str] = Counter()

    async def open(self) -> None:
        """Chain, contracts, aggregator, shops, wallet, workers."""
        site = self._site
        await site.deploy()
        await site.serve()
        self._anvil.mint(site.token, key_file(self._folder / "payer.key").address, MONEY)
        receivers = [Signer(secrets.token_bytes(32)).address for _ in range(self._size.sellers)]
        url = await site.start_seller(
            "shops",
            "chaos_runs.shops:app",
            CHAOS_AGGREGATOR=site.address,
            CHAOS_TOKEN=await site.seller_token("shops", receivers, ["charge"]),
            CHAOS_RECEIVERS=",".join(map(checksum, receivers)),
            CHAOS_PRICE=PRICE_TEXT,
        )
        self._port = url.rpartition(":")[2]
        await self._serve_wallet()
        for _ in range(self._size.workers):
            self._workers.append(await self._start_worker())

    async def kill(self) -> None:
        """End somebody without a word, and put another in its place."""
        await asyncio.sleep(self._chance.uniform(*BETWEEN_S))
        if self._chance.random() < WALLET_SHARE:
            await self._wallet.kill()
            self.kills["wallet"] += 1
            await self._serve_wallet()
            return
        victim = self._chance.randrange(len(self._workers))
        await self._workers[victim].kill()
        self.kills["worker"] += 1
        self._workers[victim] = await self._start_worker()

    async def spend_the_rest(self) -> None:
        """Let the workers buy until nothing is left of the budget: it has refused some, and nobody buys any more."""
        deadline = time.monotonic() + SPEND_TIMEOUT_S
        paid = -1
        while time.monotonic() < deadline:
            await asyncio.sleep(2 * LEASE_S)
            counts, _ = self.said_by_workers()
            before, paid = paid, counts["paid"]
            if paid == before and counts["budget"]:
                return

    async def close(self) -> None:
        """End workers and wallet in good order."""
        await asyncio.gather(*(worker.end() for worker in self._workers))
        await asyncio.sleep(2 * LEASE_S)
        await self._wallet.end()

    async def reconcile(self) -> dict[str, Any]:
        """Compare the book with the aggregator until it knows what became of every payment."""
        deadline = time.monotonic() + RECONCILE_TIMEOUT_S
        while True:
            await self._site.tallystick("wallet", "reconcile", *self._wallet_options)
            status = json.loads(await self._site.tallystick("wallet", "status", "--json", *self._wallet_options))
            (account,) = status["accounts"]
            if not account["unknown"] or time.monotonic() > deadline:
                return {**account, "channels": status["channels"]}
            await asyncio.sleep(2)

    async def charged(self) -> dict[str, int]:
        """What the aggregator's store says was charged, by channel; it is stopped for that."""
        await self._site.aggregator.end()
        (path,) = self._site.folder.rglob("*.db")
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
        book, key = self._folder / "wallet.db", self._folder / "payer.key"
        return ("--wallet", str(book), "--key", f"file:{key}", "--operator", str(self._site.operator))

    async def _serve_wallet(self) -> None:
        budget = f"{self._size.budget * PRICE / 10**6:.6f}"
        options = ("--listen", self._socket, "--token", "env:CHAOS_WALLET_TOKEN", "--total", budget)
        options += ("--deposit-high", budget, "--max-headroom", str(HEADROOM_MAX), "--lease", str(LEASE_S))
        command = ("wallet", "serve", *options, *self._wallet_options)
        self._wallet = await self._site.start("wallet", *command, CHAOS_WALLET_TOKEN=TOKEN)
        await self._wallet.said("listening on ")

    async def _start_worker(self) -> Child:
        arguments = (self._socket, self._port, str(self._size.sellers))
        environment = {"CHAOS_WALLET_TOKEN": TOKEN}
        return await self._children.start("worker", "chaos_runs.worker", *arguments, environment=environment)

    @property
    def _socket(self) -> str:
        return f"unix:{self._folder / 'wallet.sock'}"


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
    none = ("refused", "exceeded", "channels_that_differ", "unknown", "disputed")
    paid_for = result["charged"] >= result["pages_that_workers_saw_paid"] * PRICE
    return paid_for and is_true_of(result, none, ["charged"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write JSON if asked to; 0 if all is as it must be."""
    parser = parser_of("fleet", __doc__, "a small fleet and four kills only")
    parser.add_argument("--kills", type=kill_count, default=FULL.kills, metavar="N", help=f"how often ({FULL.kills})")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else FULL._replace(kills=options.kills)
    return carry_out(options, lambda folder: run(size, options.seed, folder), is_clean)
