"""`scripts/bench intake`: what the aggregator's way of a charge can do, beside what people use today, in one run.

Every scenario has a server process of its own, on a store that was filled before, and a load process of its own.
"""

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from _arguments import output_file
from benchmarks import pool, report, world
from benchmarks.children import Child, Children
from benchmarks.measure import commit, cpu_s, load_average, machine, resident_bytes
from benchmarks.scenarios import CALLERS, CHANNELS, REPEATS, SPEND_KEY, UNARY_REPEATS, Scenario, scenarios
from benchmarks.sizes import FULL, QUICK, Sizes

TLS: Final = Path(__file__).parents[2] / "tests" / "aggregator" / "edges" / "tls"
PREPARE_TIMEOUT_S: Final = 300.0
FILL_TIMEOUT_S: Final = 1_800.0
EXTRA_S: Final = 120.0
"""Beyond a measurement's own duration, before it is given up."""
OFFICIAL_PER_CHANNEL: Final = 200
YARDSTICK_S: Final = 3.0


class Bench:
    """One run: its folder, its children, what was prepared so far."""

    def __init__(self, folder: Path, children: Children, sizes: Sizes, cores: int) -> None:
        self._folder = folder
        self._children = children
        self._sizes = sizes
        self._cores = cores
        self._started = 0
        self._payers = folder / "payers"
        self.results: dict[str, Any] = {}

    # The yardstick and the official package.

    async def yardstick(self) -> dict[str, float]:
        """Signature checks a second on all cores at once, by kind."""
        settings = {"duration_s": min(YARDSTICK_S, self._sizes.duration_s)}
        children = [await self._start("benchmarks.yardstick", settings) for _ in range(self._cores)]
        for child in children:
            await child.read(PREPARE_TIMEOUT_S)
        rates: dict[str, float] = {}
        for _ in ("authorship", "chain"):
            for child in children:
                await child.tell({})
            for child in children:
                for kind, rate in (await child.read(EXTRA_S)).items():
                    rates[kind] = rates.get(kind, 0.0) + rate
        for child in children:
            await child.end()
        return rates

    async def official_in_process(self) -> dict[str, Any]:
        """The official package verifying and settling in its own process, memory store."""
        per_channel = int(OFFICIAL_PER_CHANNEL * min(1, self._sizes.duration_s))
        settings = {"mode": "in_process", "channels": self._sizes.official_channels, "per_channel": per_channel}
        child = await self._start("benchmarks.official", settings)
        await child.read(PREPARE_TIMEOUT_S)
        await child.tell({})
        result = await child.read(EXTRA_S)
        await child.end()
        return result

    async def official_http(self) -> dict[str, Any]:
        """The official middleware on FastAPI and uvicorn, one worker, paid from one channel per connection."""
        sizes = self._sizes
        connections = sizes.official_channels
        server = await self._start("benchmarks.official", {"mode": "serve", "channels": connections})
        port = (await server.read(PREPARE_TIMEOUT_S))["port"]
        load = await self._start(
            "benchmarks.official_load",
            {
                "port": port,
                "connections": connections,
                "requests_per_connection": sizes.charges(sizes.official_per_s_max) // connections,
                "warm_up_s": sizes.warm_up_s,
                "duration_s": sizes.duration_s,
            },
        )
        return await self._measure(server, load, sizes)

    # The aggregator.

    async def prepare(self) -> None:
        """Make the payers that every scenario shares."""
        most = max(CHANNELS, self._sizes.channels_many, self._sizes.replay_channels)
        await asyncio.to_thread(world.write_payers, self._payers, most, self._cores)

    async def run(self, scenario: Scenario) -> dict[str, Any]:
        """Measure one scenario."""
        store = await self._store(scenario)
        tls = str(TLS) if scenario.tls else ""
        server = await self._start("benchmarks.server", {"store": str(store), "processes": self._cores, "tls": tls})
        ready = await server.read(PREPARE_TIMEOUT_S)
        half_of = self.results.get(scenario.half_of, {}).get("charges_per_s", 0.0)
        sizes = self._sizes.open_loop() if half_of else self._sizes
        charges = self._pool_size(scenario)
        if half_of:
            charges = min(charges, sizes.charges(int(half_of / 2 * 1.1)) + 2 * scenario.batch)
        load = await self._start(
            "benchmarks.load",
            {
                "port": ready["port"],
                "token": ready["token"],
                "tls": tls,
                "payers": str(self._payers),
                "signatures": str(await self._signatures(scenario)) if scenario.proof != SPEND_KEY else "",
                "proof": scenario.proof,
                "channels": scenario.channels,
                "burst": scenario.burst,
                "start": 0,
                "stop": charges,
                "batch": scenario.batch,
                "streams": scenario.streams,
                "window": scenario.window,
                "callers": CALLERS,
                "charges_per_s": half_of / 2,
                "warm_up_s": sizes.warm_up_s,
                "duration_s": sizes.duration_s,
            },
        )
        result = await self._measure(server, load, sizes)
        for file in self._folder.glob("running*"):
            file.unlink()
        if result["refused"]:
            raise AssertionError(f"{scenario.name}: charges were refused: {result['refused']}")
        return result

    async def memory_and_replay(self) -> dict[str, Any]:
        """What a loaded ledger occupies, and how long the start-up of a big one takes."""
        sizes, store = self._sizes, self._folder / "replay"
        common = {"mode": "fill", "payers": str(self._payers), "store": str(store), "spend_keys": False}
        await self._child("benchmarks.store", {**common, "channels": sizes.replay_channels, "checkpoint": True})
        idle = await self._child("benchmarks.store", {"mode": "measure", "store": str(store)})
        past = {"payment_ids": sizes.replay_ids, "age_s": sizes.payment_ids_age_s, "checkpoint": False}
        await self._child("benchmarks.store", {**common, **past})
        full = await self._child("benchmarks.store", {"mode": "measure", "store": str(store)})
        for file in self._folder.glob("replay*"):
            file.unlink()
        return {"idle": idle, "full": full, "bytes_per_idle_channel": idle["resident_bytes"] / idle["channels"]}

    # Parts.

    async def _measure(self, server: Child, load: Child, sizes: Sizes) -> dict[str, Any]:
        await load.read(PREPARE_TIMEOUT_S)
        server_before = cpu_s(server.pid)
        await load.tell({})
        result = await load.read(sizes.warm_up_s + sizes.duration_s + EXTRA_S)
        accepted = result["accepted_in_all"]
        result["server_cpu_us_per_charge"] = (cpu_s(server.pid) - server_before) / accepted * 1e6
        result["client_cpu_us_per_charge"] = result.pop("client_cpu_s") / accepted * 1e6
        result["server_resident_mib"] = resident_bytes(server.pid) / 2**20
        await load.end()
        await server.end()
        return result

    def _pool_size(self, scenario: Scenario) -> int:
        sizes = self._sizes
        if scenario.batch <= 1:
            return sizes.charges(sizes.stream1_per_s_max if scenario.batch else sizes.unary_per_s_max)
        return sizes.charges(sizes.spend_key_per_s_max if scenario.proof == SPEND_KEY else sizes.voucher_per_s_max)

    async def _signatures(self, scenario: Scenario) -> Path:
        path = self._folder / f"signatures-{scenario.channels}-{scenario.burst}"
        if not path.exists():
            charges = self._sizes.charges(self._sizes.voucher_per_s_max)
            order = pool.Order(scenario.channels, scenario.burst)
            await asyncio.to_thread(pool.write_signatures, path, self._payers, order, charges, self._cores)
        return path

    async def _store(self, scenario: Scenario) -> Path:
        """Make a fresh copy of a store that was filled for scenarios like this."""
        spend_keys = scenario.proof == SPEND_KEY
        filled = self._folder / f"store-{scenario.channels}-{spend_keys}-{scenario.payment_ids}"
        if not filled.exists():
            settings = {
                "mode": "fill",
                "payers": str(self._payers),
                "store": str(filled),
                "channels": scenario.channels,
                "spend_keys": spend_keys,
                "payment_ids": scenario.payment_ids,
                "age_s": self._sizes.payment_ids_age_s,
                "checkpoint": True,
            }
            await self._child("benchmarks.store", settings)
        running = self._folder / "running"
        await asyncio.to_thread(_copy, filled, running)
        return running

    async def _start(self, module: str, settings: dict[str, Any]) -> Child:
        self._started += 1
        environment = {"GRPC_EXPERIMENTS": "-event_engine_listener"}
        return await self._children.start(module, settings, environment, self._started)

    async def _child(self, module: str, settings: dict[str, Any]) -> dict[str, Any]:
        self._started += 1
        return await self._children.run(module, settings, FILL_TIMEOUT_S, self._started)


def _copy(filled: Path, running: Path) -> None:
    """With what is copied on disk: the first fsync of what is measured would have to wait for all of it."""
    shutil.copyfile(filled, running)
    with running.open("rb") as file:
        os.fsync(file.fileno())


async def measure(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Everything, in order; says on the way what it does."""
    about, measured = machine(), commit()
    cores = int(about["cores"])
    started = time.time()
    load_before = load_average()
    async with Children(folder) as children:
        bench = Bench(folder, children, sizes, cores)
        yardsticks: list[dict[str, float]] = []
        official_http: list[dict[str, Any]] = []
        print("the official package in process ...", flush=True)
        official_in_process = await bench.official_in_process()
        print("payers and their signatures ...", flush=True)
        await bench.prepare()
        for scenario in scenarios(sizes.payment_ids, sizes.channels_many):
            if scenario.name in REPEATS:
                yardsticks.append(await bench.yardstick())
            if scenario.name in UNARY_REPEATS:
                official_http.append(await bench.official_http())
                print(f"the official package over HTTP: {report.line(official_http[-1])}", flush=True)
            print(f"{scenario.name}: ", end="", flush=True)
            result = await bench.run(scenario)
            bench.results[scenario.name] = {"title": scenario.title, **result}
            print(report.line(result), flush=True)
        print("memory and replay ...", flush=True)
        replay = await bench.memory_and_replay()
    return {
        "machine": about,
        "commit": measured,
        "started_at": int(started),
        "took_s": time.time() - started,
        "load_average": {"before": load_before, "after": load_average()},
        "signature_checks": yardsticks,
        "official": {"in_process": official_in_process, "http": official_http},
        "scenarios": bench.results,
        "replay": replay,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="scripts/bench intake", description=__doc__)
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the figures and all raw results here")
    parser.add_argument("--quick", action="store_true", help="a minute only: shows that it works; figures mean nothing")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work here, and leave stores and logs behind")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tallystick-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        raw = asyncio.run(measure(QUICK if options.quick else FULL, folder))
    result = {**report.figures(raw), "quick": options.quick, **raw}
    print(report.table(result))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
