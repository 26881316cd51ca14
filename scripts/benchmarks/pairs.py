"""What a change does to the way of a charge: two checkouts measured in turns, on the same payers and signatures.

Each tree's own code fills its stores, serves and charges, under this run's interpreter and libraries. What counts is
the ratio within a pair, both of whose halves are measured right after one another, each tree first in every other pair:
a machine that others use has moods of minutes. The median over the pairs is the answer.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from _children import Children
from benchmarks.bench import Bench
from benchmarks.measure import commit, machine
from benchmarks.scenarios import Scenario
from benchmarks.sizes import Sizes

HERE: Final = Path(__file__).parents[2]
BEFORE: Final = "before"
AFTER: Final = "after"


async def measure(
    scenarios: Sequence[Scenario], sizes: Sizes, folder: Path, before: Path, pairs: int
) -> dict[str, Any]:
    """Processor time of the server for each charge, in microseconds: this tree's ("after") against another's."""
    about = machine()
    stores = {name: folder / name for name in (BEFORE, AFTER)}
    for path in stores.values():
        path.mkdir(exist_ok=True)
    rounds: list[dict[str, Any]] = []
    async with Children(stores[BEFORE], before) as others, Children(stores[AFTER], HERE) as ours:
        benches = {
            BEFORE: Bench(folder, others, sizes, stores=stores[BEFORE]),
            AFTER: Bench(folder, ours, sizes, stores=stores[AFTER]),
        }
        await benches[AFTER].prepare(max(scenario.channels for scenario in scenarios))
        for number in range(pairs):
            order = (BEFORE, AFTER) if number % 2 == 0 else (AFTER, BEFORE)
            for scenario in scenarios:
                raw = {name: await benches[name].run(scenario) for name in order}
                cost = {name: raw[name]["server_cpu_us_per_charge"] for name in order}
                rounds.append({"scenario": scenario.name, "ratio": cost[AFTER] / cost[BEFORE], **cost, "raw": raw})
                print(
                    f"pair {number + 1} of {pairs}, {scenario.name}: {cost[BEFORE]:.2f} µs a charge before, "
                    f"{cost[AFTER]:.2f} after, ratio {cost[AFTER] / cost[BEFORE]:.3f}",
                    flush=True,
                )
    medians = {
        scenario.name: median(one["ratio"] for one in rounds if one["scenario"] == scenario.name)
        for scenario in scenarios
    }
    for name, ratio in medians.items():
        print(f"{name}: median ratio {ratio:.3f}")
    return {
        "machine": about,
        "commits": {BEFORE: commit(before), AFTER: commit()},
        "median_ratio": medians,
        "pairs": rounds,
    }
