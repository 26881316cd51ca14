"""`scripts/bench plot FILE.json`: docs/intake.svg and the tables of docs/benchmarks.md, from the results of a run."""

import argparse
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from _figures import markdown
from benchmarks.report import Raw, goals, limits, rows

DOCS: Final = Path(__file__).parents[2] / "docs"
BEGIN: Final = "<!-- intake: made by scripts/bench plot -->"
END: Final = "<!-- intake: end -->"
BATCHES: Final = (1, 16, 64, 256)
OURS: Final = "#1f6f8b"
OURS_BY_KEY: Final = "#7fb7be"
THEIRS: Final = "#c8553d"


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(prog="scripts/bench plot", description=__doc__)
    parser.add_argument("results", type=Path, metavar="FILE.json", help="what `scripts/bench intake --json` wrote")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder to write to")
    options = parser.parse_args(arguments)
    try:
        result = json.loads(options.results.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"FILE.json: {options.results} cannot be read: {error}")
    draw(result, options.docs / "intake.svg")
    page = options.docs / "benchmarks.md"
    page.write_text(with_tables(page.read_text(), result))


def draw(result: Raw, path: Path) -> None:
    """Throughput on the left, latency at half of the peak on the right."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second that only this needs

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    mpl.rcParams.update({"svg.hashsalt": "tallystick", "font.size": 9, "axes.spines.top": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(3, 2))
    _draw_rates(left, result)
    _draw_latencies(right, result)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw_rates(axes: Any, result: Raw) -> None:
    scenarios = result["scenarios"]
    bars = [
        ("official, HTTP", max(one["charges_per_s"] for one in result["official"]["http"]), THEIRS),
        ("official, in process", result["official"]["in_process"]["charges_per_s"], THEIRS),
        ("unary", scenarios["unary"]["charges_per_s"], OURS),
        *((f"stream of {batch}", scenarios[f"stream{batch}"]["charges_per_s"], OURS) for batch in BATCHES),
        *(
            (f"stream of {batch}, spend key", scenarios[f"stream{batch}_spend_key"]["charges_per_s"], OURS_BY_KEY)
            for batch in BATCHES
        ),
    ]
    positions = range(len(bars) - 1, -1, -1)
    drawn = axes.barh(list(positions), [rate for _, rate, _ in bars], color=[color for _, _, color in bars])
    axes.bar_label(drawn, [f"{rate:,.0f}" for _, rate, _ in bars], padding=3)
    axes.set_yticks(list(positions), [name for name, _, _ in bars])
    limit = median(one["authorship_per_s"] for one in result["signature_checks"])
    axes.axvline(limit, color="grey", linestyle=":", linewidth=1)
    axes.text(limit, len(bars) - 0.4, "signature checks alone", color="grey", ha="right", va="bottom", fontsize=8)
    axes.set_xlim(right=max(rate for _, rate, _ in bars) * 1.15)
    axes.set_title("charges per second, durable (the official package's are not)")


def _draw_latencies(axes: Any, result: Raw) -> None:
    scenarios = result["scenarios"]
    names = {"unary": "unary", "stream1": "stream of 1", "stream16": "stream of 16", "stream64": "stream of 64"}
    shown = [(title, scenarios[f"{name}_half"]) for name, title in names.items()]
    for offset, percent in ((-0.25, "p50"), (0.0, "p95"), (0.25, "p99")):
        values = [one[f"{percent}_ms"] for _, one in shown]
        drawn = axes.bar([place + offset for place in range(len(shown))], values, width=0.23, label=percent)
        axes.bar_label(drawn, [f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in values], fontsize=7)
    axes.set_xticks(range(len(shown)), [f"{title}\n{one['charges_per_s']:,.0f}/s" for title, one in shown])
    axes.axhline(20, color="grey", linestyle=":", linewidth=1)
    axes.set_ylabel("ms")
    axes.legend(frameon=False)
    axes.set_title("latency at half of the peak rate (open loop)")


def with_tables(page: str, result: Raw) -> str:
    """The page with the tables between its two marks replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in rest:
        raise SystemExit(f"docs/benchmarks.md lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{tables(result)}\n{END}{after}"


def tables(result: Raw) -> str:
    """Machine, figures and scenarios, in Markdown."""
    about = result["machine"]
    when = dt.datetime.fromtimestamp(result["started_at"], dt.UTC).date().isoformat()
    load = result["load_average"]
    measured = (
        f"Measured on {when} at commit {result['commit'] or 'unknown'}: {about['processor']}, {about['cores']} cores "
        f"for server, signature checks and load together, {about['memory_mib'] // 1024} GiB, {about['system']}, "
        f"Python {about['python']}; load average before the run {load['before']:.1f}. {limits(result)}"
    )
    figures = markdown([row[:3] for row in goals(result)])
    return "\n\n".join([measured, figures, "![throughput and latency](intake.svg)", markdown(rows(result))])
