"""Tallystick's HTTP facilitator for exact beside the official package's, one after the other on the same chain.

Two loads each: `/verify` as fast as it answers, and `/settle` with many payments at once while a block takes 2 s. Both
have one worker process and a sender of their own. Processor time is that of the facilitator's processes; the chain's
own is left out. Then ours alone: how long a `/verify` takes while 500 payments that came at once are settled, and while
500 are always being settled. At last vouchers of batch-settlement that ours manages, beside the official package's
server (`vouchers`). With --only, `exact` or `vouchers` alone.
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
from benchmarks import vouchers
from benchmarks.exact_requests import PAYER, RECEIVER
from benchmarks.measure import commit, cpu_s, latencies, load_average, machine

BLOCK_S: Final = 2
MONEY: Final = 10**15
PREPARE_TIMEOUT_S: Final = 120.0
EXTRA_S: Final = 60.0
OFFICIAL_KEY: Final = DEV_KEYS[4]


class Load(NamedTuple):
    """How long, how much, and how long a connection pauses between two requests."""

    path: str
    duration_s: float
    warm_up_s: float
    connections: int
    requests: int
    pause_s: float = 0.0
    once: bool = False
    """One request on each connection, instead of one after the other; all must be answered in this time."""


class Sizes(NamedTuple):
    """The loads: each facilitator alone, then `meanwhile` together with `burst`, and with `busy`."""

    verify: Load
    settle: Load
    burst: Load
    busy: Load
    meanwhile: Load


FULL: Final = Sizes(
    verify=Load("/verify", 15.0, 3.0, 32, 60_000),
    settle=Load("/settle", 20.0, 0.0, 200, 6_000),
    burst=Load("/settle", 60.0, 0.0, 500, 500, once=True),
    busy=Load("/settle", 20.0, 0.0, 500, 8_000),
    meanwhile=Load("/verify", 20.0, 0.0, 4, 2_000, pause_s=0.1),
)
QUICK: Final = Sizes(
    verify=Load("/verify", 2.0, 0.5, 8, 20_000),
    settle=Load("/settle", 4.5, 0.0, 20, 600),
    burst=Load("/settle", 30.0, 0.0, 20, 20, once=True),
    busy=Load("/settle", 4.5, 0.0, 20, 600),
    meanwhile=Load("/verify", 4.5, 0.0, 4, 400, pause_s=0.1),
)


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
        results: dict[str, Any] = {server.name: await self._measure(server) for server in (official, ours)}
        for shape, load in (("verify_while_burst", self._sizes.burst), ("verify_while_settling", self._sizes.busy)):
            results[ours.name][shape] = await self._verify_while(ours, load)
        return results

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
        figures: dict[str, Any] = {}
        for name, load in (("verify", sizes.verify), ("settle", sizes.settle)):
            figures[name] = await self._run(server, await self._prepare(server, load, "alone"), load)
            del figures[name]["taken"]
        return figures

    async def _verify_while(self, server: Server, settling: Load) -> dict[str, Any]:
        """What was verified while at least one payment of this load was being settled."""
        together = (settling, self._sizes.meanwhile)
        label = "burst" if settling.once else "together"
        children = [await self._prepare(server, load, label) for load in together]
        settled, verified = await asyncio.gather(
            *(self._run(server, child, load) for child, load in zip(children, together, strict=True))
        )
        until_s = max(sent_at_s + took_s for sent_at_s, took_s in settled["taken"])
        took_s = [took_s for sent_at_s, took_s in verified["taken"] if sent_at_s < until_s]
        return {
            **latencies(took_s),
            "answered": len(took_s),
            "per_s": len(took_s) / min(settled["elapsed_s"], verified["elapsed_s"]),
            "settling": settling.connections,
            "settled": settled["answered"],
            "settled_in_s": settled["elapsed_s"],
        }

    async def _prepare(self, server: Server, load: Load, label: str) -> Child:
        """Have the requests made, and the server warmed up by some of them."""
        settings = {
            **load._asdict(),
            "port": server.port,
            "bearer": server.bearer,
            "token": self._site.terms["tokens"][0] | {"network": self._site.terms["network"]},
            "label": f"{server.name} {load.path} {label}",
        }
        child = await self._children.start_with("benchmarks.exact_load", settings)
        await child.read(PREPARE_TIMEOUT_S)
        return child

    async def _run(self, server: Server, child: Child, load: Load) -> dict[str, Any]:
        before = cpu_s(server.process.pid)
        await child.tell({})
        result = await child.read(load.duration_s + EXTRA_S)
        used_s = cpu_s(server.process.pid) - before
        await child.end()
        result["connections"] = load.connections
        result["server_cpu_ms"] = used_s / max(1, result["answered"]) * 1_000
        figures = f"{result['per_s']:.1f}/s, {result['server_cpu_ms']:.2f} ms of processor time each"
        print(f"{server.name} {load.path}: {figures}", flush=True)
        return result


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """Ours by the official one's: settlements a second, verifications a second and a second of processor time."""
    ours, official = results["tallystick"], results["official"]
    return {
        "exact_vs_official": ours["settle"]["per_s"] / official["settle"]["per_s"],
        "verify_vs_official": ours["verify"]["per_s"] / official["verify"]["per_s"],
        "verify_cpu_vs_official": official["verify"]["server_cpu_ms"] / ours["verify"]["server_cpu_ms"],
    }


AT_LEAST: Final = {
    "exact_vs_official": 10.0,
    "verify_vs_official": 3.0,
    "verify_cpu_vs_official": 3.0,
    "verify_settle_vs_official": vouchers.AT_LEAST,
}
AT_MOST: Final = {"verify_p99_burst_ms": 50.0, "verify_p99_ms": 50.0}
"""What is promised; while 500 payments are settled that came at once, and while 500 are always being settled."""


EXACT: Final = "exact"
VOUCHERS: Final = "vouchers"
PARTS: Final = (EXACT, VOUCHERS)


def rendered(results: dict[str, Any]) -> str:
    """What was measured, both side by side, and whether it is what is promised."""
    tables = [exact_rendered(results)] if "tallystick" in results else []
    if VOUCHERS in results:
        tables.append(vouchers.rendered(results[VOUCHERS]))
    lines = [
        f"{name}: {results[name]:.1f}, at least {bound:g}{'' if results[name] >= bound else ': MISSED'}"
        for name, bound in AT_LEAST.items()
        if name in results
    ]
    lines += [
        f"{name}: {results[name]:.1f}, at most {bound:g}{'' if results[name] <= bound else ': MISSED'}"
        for name, bound in AT_MOST.items()
        if name in results
    ]
    return "\n\n".join([*tables, "\n".join(lines)])


def exact_rendered(results: dict[str, Any]) -> str:
    """The table of `exact`."""
    rows = [["", "per second", "processor ms each", "p50 ms", "p99 ms"]]
    measured = {
        f"/{path}, {name}": results[name][path] for path in ("verify", "settle") for name in ("official", "tallystick")
    }
    burst, busy = (results["tallystick"][shape] for shape in ("verify_while_burst", "verify_while_settling"))
    measured[f"/verify, tallystick, while a burst of {burst['settling']} settles"] = burst
    measured[f"/verify, tallystick, while {busy['settling']} settle"] = busy
    for label, one in measured.items():
        cpu = f"{one['server_cpu_ms']:,.2f}" if "server_cpu_ms" in one else ""
        rows.append([label, f"{one['per_s']:,.2f}", cpu, f"{one['p50_ms']:,.2f}", f"{one['p99_ms']:,.2f}"])
    return table(rows)


async def measure(sizes: Sizes, voucher_sizes: vouchers.Sizes, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """All figures of these parts, as the JSON file has them."""
    load_before = load_average()
    figures: dict[str, Any] = {}
    if EXACT in parts:
        figures |= await measure_exact(sizes)
    if VOUCHERS in parts:
        paid = await vouchers.measure(voucher_sizes)
        figures |= {"verify_settle_vs_official": paid["ratio"], "pair_cpu_us": paid["cpu_us"], VOUCHERS: paid}
    load = {"before": load_before, "after": load_average()}
    return figures | {"machine": machine(), "commit": commit(), "load_average": load}


async def measure_exact(sizes: Sizes) -> dict[str, Any]:
    """All figures of `exact`."""
    with tempfile.TemporaryDirectory(prefix="tallystick-bench-") as folder, Anvil() as anvil:
        async with Children(Path(folder)) as children:
            results = await Bench(Path(folder), anvil, children, sizes).run()
    return {
        **ratios(results),
        "verify_p99_burst_ms": results["tallystick"]["verify_while_burst"]["p99_ms"],
        "verify_p99_ms": results["tallystick"]["verify_while_settling"]["p99_ms"],
        **results,
        "block_s": BLOCK_S,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="scripts/bench facilitator", description=__doc__)
    add_json_option(parser)
    parser.add_argument("--quick", action="store_true", help="a smoke run: shows that it works")
    parser.add_argument("--only", choices=PARTS, help="this part alone")
    options = parser.parse_args(arguments)
    sizes = (QUICK, vouchers.QUICK) if options.quick else (FULL, vouchers.FULL)
    results = asyncio.run(measure(*sizes, parts=[options.only] if options.only else PARTS))
    print("\n" + rendered(results))
    write(options.json, results)
