"""Clocks, processor time and percentiles, from /proc; and what was measured on what."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Processor seconds that a process and its living descendants have used so far."""
    fields = _stat(pid)
    used_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return used_s + sum(cpu_s(child) for child in _children(pid))


def _stat(pid: int) -> list[str]:
    # The name, field 2, may hold blanks and brackets: fields are counted from its end.
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _children(pid: int) -> list[int]:
    numbers: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        numbers += map(int, (task / "children").read_text(encoding="ascii").split())
    return numbers


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value below which this share of the ordered values lies (nearest rank); 0 of none."""
    if not ordered:
        return 0.0
    rank = max(0, -(-len(ordered) * percent // 100) - 1)
    return ordered[min(len(ordered) - 1, int(rank))]


def latencies(seconds: Iterable[float]) -> dict[str, float]:
    """Percentiles of latencies, in milliseconds, by their names; `max_ms` is the longest."""
    ordered = sorted(seconds)
    named = ((f"p{percent}_ms", percent) for percent in (50, 95, 99))
    return {name: percentile(ordered, percent) * 1000 for name, percent in (*named, ("max_ms", 100))}


def load_average() -> float:
    """Processes that wanted a core, on average over the last minute: what else went on."""
    return os.getloadavg()[0]


def machine() -> dict[str, str | int]:
    """What was measured on."""
    model = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "processor": model[0] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": int(memory[0]) // 1024 if memory else 0,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def commit(tree: Path = Path(__file__).parent) -> str:
    """The commit that was measured, with "-dirty" if files differ from it; empty outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=tree,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return ""
    return described.stdout.strip()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
