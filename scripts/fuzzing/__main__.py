"""`scripts/fuzz`: runs the targets, as many at once as there are cores, and says what came of each."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from _arguments import add_json_option
from _figures import write
from fuzzing.targets import TARGETS

FOLDER: Final = Path(__file__).parents[2] / ".fuzz"
MINUTES: Final = 10.0
EXTRA_S: Final = 120.0
"""Beyond a target's time, before its process is ended."""
INPUT_S: Final = 10
"""An input that takes longer is a finding."""
MEMORY_MIB: Final = 2_048
INPUT_BYTES_MAX: Final = 4_096
SEED: Final = 7461
_EXECUTIONS: Final = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_FINDING: Final = re.compile(r"Test unit written to (\S+)")
_COVERAGE: Final = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


def fuzz(name: str, minutes: float) -> dict[str, Any]:
    """Fuzz one target in a process of its own."""
    folder, corpus = FOLDER / name, FOLDER / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed-{number:02}").write_bytes(seed)
    options = {
        "max_total_time": max(1, round(minutes * 60)),
        "timeout": INPUT_S,
        "rss_limit_mb": MEMORY_MIB,
        "max_len": INPUT_BYTES_MAX,
        "seed": SEED,
        "print_final_stats": 1,
        "artifact_prefix": f"{folder}/finding-",
    }
    command = [sys.executable, "-m", "fuzzing.child", name, *(f"-{key}={value}" for key, value in options.items())]
    try:
        ended = subprocess.run(
            [*command, str(corpus)], capture_output=True, check=False, timeout=minutes * 60 + EXTRA_S
        )
        code, output = ended.returncode, (ended.stdout + ended.stderr).decode("utf-8", "replace")
    except subprocess.TimeoutExpired as late:
        code, output = -1, (late.stderr or b"").decode("utf-8", "replace") + "\nit did not end in its time"
    (folder / "log").write_text(output, encoding="utf-8")
    executions, coverage = _EXECUTIONS.search(output), _COVERAGE.findall(output)
    edges, features, inputs = map(int, coverage[-1]) if coverage else (0, 0, 0)
    return {
        "target": name,
        "minutes": minutes,
        "executions": int(executions[1]) if executions else 0,
        "edges": edges,
        "features": features,
        "corpus": inputs,
        "findings": _FINDING.findall(output),
        "ok": code == 0 and executions is not None,
        "log": str(folder / "log"),
    }


def line(result: dict[str, Any]) -> str:
    """One target's result in one line."""
    if result["ok"]:
        verdict = "nothing found"
    else:
        verdict = f"FAILED: {', '.join(result['findings']) or 'it did not run to its end'}; see {result['log']}"
    return (
        f"{result['target']:<18}{result['executions']:>14,} inputs {result['edges']:>6,} edges "
        f"{result['corpus']:>6,} kept   {verdict}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzz the decoders, guided by coverage.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="which decoders (default: all)")
    parser.add_argument("--minutes", type=float, default=MINUTES, metavar="N", help="for each (default: %(default)g)")
    add_json_option(parser)
    parser.add_argument("--list", action="store_true", help="name the targets and what each reads")
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="give this input to the one target and show what it does"
    )
    options = parser.parse_args(arguments)
    if options.list:
        for name, target in TARGETS.items():
            print(f"{name:<18}{(target.run.__doc__ or '').splitlines()[0]}")
        return 0
    if unknown := sorted(set(options.targets) - set(TARGETS)):
        parser.error(f"TARGET: got {', '.join(unknown)}; allowed {', '.join(TARGETS)}")
    if not options.minutes > 0:
        parser.error(f"--minutes: got {options.minutes:g}; allowed a number above 0")
    names = options.targets or list(TARGETS)
    if options.replay is not None:
        if len(names) != 1:
            parser.error("--replay: name the one TARGET that the input is for")
        try:
            data = options.replay.read_bytes()
        except OSError as error:
            parser.error(f"--replay: {options.replay} cannot be read: {error.strerror}")
        TARGETS[names[0]].run(data)
        print(f"{names[0]}: nothing found")
        return 0
    return run(names, options.minutes, options.json)


def run(names: Sequence[str], minutes: float, report: Path | None) -> int:
    """Fuzz these; 1 if anything was found."""
    at_once = min(len(names), os.cpu_count() or 1)
    print(f"{len(names)} targets, {minutes:g} minutes each, {at_once} at once", flush=True)
    results: list[dict[str, Any]] = []
    with ThreadPoolExecutor(at_once) as pool:
        for result in pool.map(lambda name: fuzz(name, minutes), names):
            results.append(result)
            print(line(result), flush=True)
    write(report, {"targets": results})
    return 0 if all(result["ok"] for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
