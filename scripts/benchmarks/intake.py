"""`scripts/bench intake`: what the aggregator's way of a charge can do, beside what people use today, in one run.

With --only, some scenarios alone; with --against, processor time a charge beside another checkout's.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _arguments import add_json_option, checkout
from _children import Children
from _figures import write
from benchmarks import pairs, report
from benchmarks.bench import Bench
from benchmarks.measure import commit, load_average, machine
from benchmarks.scenarios import REPEATS, UNARY_REPEATS, Scenario, scenarios
from benchmarks.sizes import FULL, QUICK, Sizes


async def measure(bench: Bench) -> dict[str, Any]:
    """Everything, in order; says on the way what it does."""
    started, load_before = time.time(), load_average()
    yardsticks: list[dict[str, float]] = []
    official_http: list[dict[str, Any]] = []
    print("the official package in process ...", flush=True)
    official_in_process = await bench.official_in_process()
    print("payers and their signatures ...", flush=True)
    await bench.prepare()
    for scenario in scenarios(bench.sizes.payment_ids, bench.sizes.channels_many):
        if scenario.name in REPEATS:
            yardsticks.append(await bench.yardstick())
        if scenario.name in UNARY_REPEATS:
            official_http.append(await bench.official_http())
            print(f"the official package over HTTP: {report.line(official_http[-1])}", flush=True)
        await bench.run_and_tell(scenario)
    print("memory and replay ...", flush=True)
    replay = await bench.memory_and_replay()
    raw = {
        "started_at": int(started),
        "took_s": time.time() - started,
        "load_average": {"before": load_before, "after": load_average()},
        "signature_checks": yardsticks,
        "official": {"in_process": official_in_process, "http": official_http},
        "scenarios": bench.results,
        "replay": replay,
    }
    return {**report.figures(raw), **raw}


async def measure_only(bench: Bench, chosen: Sequence[Scenario]) -> dict[str, Any]:
    """These scenarios alone."""
    await bench.prepare(max(scenario.channels for scenario in chosen))
    for scenario in chosen:
        await bench.run_and_tell(scenario)
    return {"scenarios": bench.results}


async def run(chosen: Sequence[Scenario], sizes: Sizes, folder: Path) -> dict[str, Any]:
    """The chosen scenarios, or everything."""
    about = {"machine": machine(), "commit": commit()}
    async with Children(folder) as children:
        bench = Bench(folder, children, sizes)
        return about | (await measure_only(bench, chosen) if chosen else await measure(bench))


def choose(names: str, sizes: Sizes) -> list[Scenario]:
    """The scenarios of these names, in the order of a full run.

    Raises ArgumentTypeError on a name that is none, and on one that is measured at half of another's rate.
    """
    known = {one.name: one for one in scenarios(sizes.payment_ids, sizes.channels_many) if not one.half_of}
    wanted = names.split(",")
    strange = [name for name in wanted if name not in known]
    if strange:
        raise argparse.ArgumentTypeError(f"got {strange[0]!r}, allowed {', '.join(known)}")
    return [scenario for name, scenario in known.items() if name in wanted]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="scripts/bench intake", description=__doc__)
    parser.add_argument("--only", metavar="NAMES", help="these scenarios alone, such as stream64,stream64_spend_key")
    parser.add_argument("--against", type=checkout, metavar="FOLDER", help="with --only: compare with this checkout")
    parser.add_argument("--pairs", type=int, default=5, help="with --against: so many interleaved pairs (default: 5)")
    add_json_option(parser)
    parser.add_argument("--quick", action="store_true", help="a minute only: shows that it works; figures mean nothing")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work here, and leave stores and logs behind")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    try:
        chosen = choose(options.only, sizes) if options.only else []
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --only: {error}")
    if options.against and not chosen:
        parser.error("argument --against: needs --only")
    if options.pairs < 1:
        parser.error(f"argument --pairs: got {options.pairs}, allowed 1 or more")
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tallystick-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        if options.against:
            result = asyncio.run(pairs.measure(chosen, sizes, folder, options.against, options.pairs))
        else:
            result = asyncio.run(run(chosen, sizes, folder))
    if not chosen:
        print(report.text(result))
    write(options.json, {**result, "quick": options.quick})
