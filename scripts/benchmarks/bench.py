"""One run of `scripts/bench intake`, and what it can measure.

Every scenario has a server process of its own, on a store that was filled before, and a load process of its own.
"""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any, Final

from _children import Child, Children
from benchmarks import pool, report, world
from benchmarks.measure import cpu_s, resident_bytes
from benchmarks.scenarios import CALLERS, CHANNELS, SPEND_KEY, Scenario
from benchmarks.sizes import Sizes

TLS: Final = Path(__file__).parents[2] / "tests" / "aggregator" / "api" / "tls"
PREPARE_TIMEOUT_S: Final = 300.0
FILL_TIMEOUT_S: Final = 1_800.0
EXTRA_S: Final = 120.0
"""Beyond a measurement's own duration, before it is given up."""
OFFICIAL_PER_CHANNEL: Final = 200
YARDSTICK_S: Final = 3.0


class Bench:
    """One run: its folder, its children, what was prepared so far."""

    def __init__(self, folder: Path, children: Children, sizes: Sizes, *, stores: Path | None = None) -> None:
        """Payers and signatures lie in `folder`; `stores`, if others than there, take what one tree's code fills."""
        self._folder = folder
        self._stores = stores or folder
        self._children = children
        self.sizes = sizes
        self._cores = len(os.sched_getaffinity(0))
        self._payers = folder / "payers"
        self.results: dict[str, Any] = {}

    # The yardstick and the official package.

    async def yardstick(self) -> dict[str, float]:
        """Signature checks a second on all cores at once, by kind."""
        settings = {"duration_s": min(YARDSTICK_S, self.sizes.duration_s)}
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
        per_channel = int(OFFICIAL_PER_CHANNEL * min(1, self.sizes.duration_s))
        settings = {"mode": "in_process", "channels": self.sizes.official_channels, "per_channel": per_channel}
        child = await self._start("benchmarks.official", settings)
        await child.read(PREPARE_TIMEOUT_S)
        await child.tell({})
        result = await child.read(EXTRA_S)
        await child.end()
        return result

    async def official_http(self) -> dict[str, Any]:
        """The official middleware on FastAPI and uvicorn, one worker, paid from one channel per connection."""
        sizes = self.sizes
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

    async def prepare(self, payers: int = 0) -> None:
        """Make the payers that every scenario shares; as many as the largest needs if no number is given."""
        most = payers or max(CHANNELS, self.sizes.channels_many, self.sizes.replay_channels)
        await asyncio.to_thread(world.write_payers, self._payers, most, self._cores)

    async def run(self, scenario: Scenario) -> dict[str, Any]:
        """Measure one scenario."""
        store = await self._store(scenario)
        tls = str(TLS) if scenario.tls else ""
        server = await self._start("benchmarks.server", {"store": str(store), "processes": self._cores, "tls": tls})
        ready = await server.read(PREPARE_TIMEOUT_S)
        half_of = self.results.get(scenario.half_of, {}).get("charges_per_s", 0.0)
        sizes = self.sizes.open_loop() if half_of else self.sizes
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
        for file in self._stores.glob("running*"):
            file.unlink()
        if result["refused"]:
            raise AssertionError(f"{scenario.name}: charges were refused: {result['refused']}")
        return result

    async def run_and_tell(self, scenario: Scenario) -> None:
        """Measure one scenario, keep its result and print it."""
        print(f"{scenario.name}: ", end="", flush=True)
        self.results[scenario.name] = {"title": scenario.title, **await self.run(scenario)}
        print(report.line(self.results[scenario.name]), flush=True)

    async def memory_and_replay(self) -> dict[str, Any]:
        """What a loaded ledger occupies, and how long the start-up of a big one takes."""
        sizes, store = self.sizes, self._stores / "replay"
        common = {"mode": "fill", "payers": str(self._payers), "store": str(store), "spend_keys": False}
        await self._child({**common, "channels": sizes.replay_channels, "checkpoint": True})
        idle = await self._child({"mode": "measure", "store": str(store)})
        past = {"payment_ids": sizes.replay_ids, "age_s": sizes.payment_ids_age_s, "checkpoint": False}
        await self._child({**common, **past})
        full = await self._child({"mode": "measure", "store": str(store)})
        for file in self._stores.glob("replay*"):
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
        sizes = self.sizes
        if scenario.batch <= 1:
            return sizes.charges(sizes.stream1_per_s_max if scenario.batch else sizes.unary_per_s_max)
        return sizes.charges(sizes.spend_key_per_s_max if scenario.proof == SPEND_KEY else sizes.voucher_per_s_max)

    async def _signatures(self, scenario: Scenario) -> Path:
        path = self._folder / f"signatures-{scenario.channels}-{scenario.burst}"
        if not path.exists():
            charges = self.sizes.charges(self.sizes.voucher_per_s_max)
            order = pool.Order(scenario.channels, scenario.burst)
            await asyncio.to_thread(pool.write_signatures, path, self._payers, order, charges, self._cores)
        return path

    async def _store(self, scenario: Scenario) -> Path:
        """Make a fresh copy of a store that was filled for scenarios like this."""
        spend_keys = scenario.proof == SPEND_KEY
        filled = self._stores / f"store-{scenario.channels}-{spend_keys}-{scenario.payment_ids}"
        if not filled.exists():
            settings = {
                "mode": "fill",
                "payers": str(self._payers),
                "store": str(filled),
                "channels": scenario.channels,
                "spend_keys": spend_keys,
                "payment_ids": scenario.payment_ids,
                "age_s": self.sizes.payment_ids_age_s,
                "checkpoint": True,
            }
            await self._child(settings)
        running = self._stores / "running"
        await asyncio.to_thread(_copy, filled, running)
        return running

    async def _start(self, module: str, settings: dict[str, Any]) -> Child:
        return await self._children.start_with(module, settings, {"GRPC_EXPERIMENTS": "-event_engine_listener"})

    async def _child(self, settings: dict[str, Any]) -> dict[str, Any]:
        return await self._children.ask("benchmarks.store", settings, FILL_TIMEOUT_S)


def _copy(filled: Path, running: Path) -> None:
    """With what is copied on disk: the first fsync of what is measured would have to wait for all of it."""
    shutil.copyfile(filled, running)
    with running.open("rb") as file:
        os.fsync(file.fileno())
