"""Tallystick's HTTP facilitator for exact beside the official package's, one after the other on the same chain.

Two loads each: `/verify` as fast as it answers, and `/settle` with many payments at once while a block takes 2 s. Both
have one worker process and a sender of their own. Processor time is that of the facilitator's processes; the chain's
own is left out.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from _anvil import DEV_KEYS, Anvil
from _arguments import add_json_option
from _children import Child, Children
from _figures import table, write
from _site import Site
from benchmarks.exact_requests import PAYER, RECEIVER
from benchmarks.measure import commit, cpu_s, load_average, machine

BLOCK_S: Final = 2
MONEY: Final = 10**15
PREPARE_TIMEOUT_S: Final = 120.0
EXTRA_S: Final = 60.0
OFFICIAL_KEY: Final = DEV_KEYS[4]


class Sizes(NamedTuple):
    """How long and how much."""

    verify_s: float
    verify_warm_up_s: float
    verify_connections: int
    verify_requests: int
    settle_s: float
    settle_connections: int
    settle_requests: int


FULL: Final = Sizes(15.0, 3.0, 32, 60_000, 20.0, 200, 6_000)
QUICK: Final = Sizes(2.0, 0.5, 8, 20_000, 4.5, 20, 600)


class Server(NamedTuple):
    """A facilitator that runs."""

    name: str
    port: int
    process: Child
    bearer: str


class Bench:
    """One run."""

    def __init__(self, folder: Path, anvil: Anvil, children: Children, sizes: Sizes) -> None:
        """Nothing is started yet but the chain."""
        self._anvil = anvil
        self._children = children
        self._sizes = sizes
        self._site = Site(folder, anvil, children)

    async def run(self) -> dict[str, Any]:
        """All figures, by the facilitator's name; the official one comes first."""
        await self._site.deploy(http=True)
        self._anvil.mint(self._site.token, PAYER.address, MONEY)
        await self._site.serve()
        token = await self._site.seller_token("bench", [RECEIVER], ["charge"])
        ours = Server("tallystick", int(self._site.facilitator.rpartition(":")[2]), self._site.aggregator, token)
        official = await self._start_official()
        self._anvil.automine(on=False)
        self._anvil.rpc("evm_setIntervalMining", BLOCK_S)
        return {server.name: await self._measure(server) for server in (official, ours)}

    async def _start_official(self) -> Server:
        settings = {
            "key": f"0x{OFFICIAL_KEY.hex()}",
            "rpc": self._anvil.url,
            "network": self._site.terms["network"],
        }
        child = await self._children.start_with("benchmarks.official_facilitator", settings)
        return Server("official", (await child.read(PREPARE_TIMEOUT_S))["port"], child, "none")

    async def _measure(self, server: Server) -> dict[str, Any]:
        sizes = self._sizes
        verify = await self._load(
            server, "/verify", sizes.verify_connections, sizes.verify_requests, sizes.verify_s, sizes.verify_warm_up_s
        )
        settle = await self._load(
            server, "/settle", sizes.settle_connections, sizes.settle_requests, sizes.settle_s, 0.0
        )
        return {"verify": verify, "settle": settle}

    async def _load(
        self, server: Server, path: str, connections: int, requests: int, duration_s: float, warm_up_s: float
    ) -> dict[str, Any]:
        print(f"{server.name} {path}: ", end="", flush=True)
        settings = {
            "port": server.port,
            "path": path,
            "bearer": server.bearer,
            "token": self._site.terms["tokens"][0] | {"network": self._site.terms["network"]},
            "label": f"{server.name} {path}",
            "connections": connections,
            "requests": requests,
            "duration_s": duration_s,
            "warm_up_s": warm_up_s,
        }
        load = await self._children.start_with("benchmarks.exact_load", settings)
        await load.read(PREPARE_TIMEOUT_S)
        before = cpu_s(server.process.pid)
        await load.tell({})
        result = await load.read(duration_s + EXTRA_S)
        used_s = cpu_s(server.process.pid) - before
        await load.end()
        result["connections"] = connections
        result["server_cpu_ms"] = used_s / max(1, result["answered"]) * 1_000
        print(f"{result['per_s']:.1f}/s, {result['server_cpu_ms']:.2f} ms of processor time each", flush=True)
        return result


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """Ours by the official one's: settlements a second, verifications a second and a second of processor time."""
    ours, official = results["tallystick"], results["official"]
    return {
        "exact_vs_official": ours["settle"]["per_s"] / official["settle"]["per_s"],
        "verify_vs_official": ours["verify"]["per_s"] / official["verify"]["per_s"],
        "verify_cpu_vs_official": official["verify"]["server_cpu_ms"] / ours["verify"]["server_cpu_ms"],
    }


BOUNDS: Final = {"exact_vs_official": 10.0, "verify_vs_official": 3.0, "verify_cpu_vs_official": 3.0}
"""What is promised at least."""


def rendered(results: dict[str, Any]) -> str:
    """Both, side by side."""
    rows = [["", "per second", "processor ms each", "p50 ms", "p99 ms"]]
    for path in ("verify", "settle"):
        for name in ("official", "tallystick"):
            one = results[name][path]
            figures = (one["per_s"], one["server_cpu_ms"], one["p50_ms"], one["p99_ms"])
            rows.append([f"/{path}, {name}", *(f"{figure:,.2f}" for figure in figures)])
    lines = [
        f"{name}: {results[name]:.1f}, at least {bound:g}{'' if results[name] >= bound else ': MISSED'}"
        for name, bound in BOUNDS.items()
    ]
    return "\n".join([table(rows), "", *lines])


async def measure(sizes: Sizes) -> dict[str, Any]:
    """All figures, as the JSON file has them."""
    load_before = load_average()
    with tempfile.TemporaryDirectory(prefix="tallystick-bench-") as folder, Anvil() as anvil:
        async with Children(Path(folder)) as children:
            results = await Bench(Path(folder), anvil, children, sizes).run()
    load = {"before": load_before, "after": load_average()}
    return {
        **ratios(results),
        **results,
        "block_s": BLOCK_S,
        "machine": machine(),
        "commit": commit(),
        "load_average": load,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="scripts/bench facilitator", description=__doc__)
    add_json_option(parser)
    parser.add_argument("--quick", action="store_true", help="a smoke run: shows that it works")
    options = parser.parse_args(arguments)
    results = asyncio.run(measure(QUICK if options.quick else FULL))
    print("\n" + rendered(results))
    write(options.json, results)
