"""From raw results to the figures that count, and to text that a person reads."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from _figures import table
from benchmarks.scenarios import BY_KEY, REPEATS, UNARY_REPEATS

Raw = Mapping[str, Any]


class Target(NamedTuple):
    """A figure and what it must be."""

    key: str
    title: str
    bound: float
    at_least: bool

    def met(self, value: float) -> bool:
        """Whether a value will do."""
        return value >= self.bound if self.at_least else value <= self.bound


TARGETS: Final = (
    Target("stream64_vs_official_http", "stream, batches of 64, against the official HTTP server", 45, at_least=True),
    Target("share_of_signature_limit", "the same, as a share of the pure signature limit", 0.55, at_least=True),
    Target("spend_key_vs_distinct", "the same by spend key, against a voucher each", 2.5, at_least=True),
    Target("unary_vs_official_http", "unary Charge against the official HTTP server", 7, at_least=True),
    Target("p99_ms_half_peak_batch16", "p99 at half the peak, batches of 16 (ms)", 20, at_least=False),
    Target("channels_100k_vs_1k", "throughput with 100,000 channels against 1,000", 0.85, at_least=True),
    Target("ids_10m_vs_none", "throughput with 10 million payment ids against none", 0.85, at_least=True),
    Target("bytes_per_idle_channel", "resident bytes per idle channel", 1536, at_least=False),
    Target("replay_s", "replay of 1,000,000 channels and 1,000,000 ids (s)", 20, at_least=False),
)


def figures(raw: Raw) -> dict[str, float]:
    """The figures, by their keys."""
    rates = {name: result["charges_per_s"] for name, result in raw["scenarios"].items()}
    official_http = [one["charges_per_s"] for one in raw["official"]["http"]]
    # Of three measurements, each of whose parts were taken right after one another.
    stream64 = median(rates[name] for name in REPEATS)
    return {
        # Against its best: what is compared with gets the benefit of the doubt.
        "stream64_vs_official_http": stream64 / max(official_http),
        "share_of_signature_limit": median(
            rates[name] / checks["authorship_per_s"]
            for name, checks in zip(REPEATS, raw["signature_checks"], strict=True)
        ),
        "spend_key_vs_distinct": median(rates[name + BY_KEY] / rates[name] for name in REPEATS),
        "unary_vs_official_http": median(
            rates[name] / official for name, official in zip(UNARY_REPEATS, official_http, strict=True)
        ),
        "p99_ms_half_peak_batch16": raw["scenarios"]["stream16_half"]["p99_ms"],
        "channels_100k_vs_1k": rates["stream64_100k_channels"] / stream64,
        "ids_10m_vs_none": rates["stream64_10m_ids"] / stream64,
        "bytes_per_idle_channel": raw["replay"]["bytes_per_idle_channel"],
        "replay_s": raw["replay"]["full"]["load_s"],
    }


def line(result: Raw) -> str:
    """One scenario in one line."""
    text = (
        f"{result['charges_per_s']:,.0f} charges/s, p50 {result['p50_ms']:.1f} p95 {result['p95_ms']:.1f} "
        f"p99 {result['p99_ms']:.1f} ms, processor per charge: server {result['server_cpu_us_per_charge']:.1f} µs, "
        f"load {result['client_cpu_us_per_charge']:.1f} µs"
    )
    return text + (" (the load ran out)" if result.get("ran_out") else "")


def rows(result: Raw) -> list[Sequence[str]]:
    """The scenarios as rows, with their names: charges/s, latency, processor time of server and load a charge."""
    official = result["official"]
    in_process = f"{official['in_process']['charges_per_s']:,.0f}"
    return [
        ("", "charges/s", "p50 ms", "p95 ms", "p99 ms", "server µs per charge", "load µs per charge"),
        *(_row("official package over HTTP (FastAPI, uvicorn, memory store)", one) for one in official["http"]),
        ("official package in process, verify and settle", in_process, *[""] * 5),
        *(_row(one["title"], one) for one in result["scenarios"].values()),
    ]


def goals(result: Raw) -> list[Sequence[str]]:
    """The figures that count as rows, with their names: what each is, what it must be, and whether it is missed."""
    found: list[Sequence[str]] = [("figure", "is", "must be", "")]
    for target in TARGETS:
        bound = f"{'at least' if target.at_least else 'at most'} {target.bound:g}"
        missed = "" if target.met(result[target.key]) else "MISSED"
        found.append((target.title, f"{result[target.key]:,.2f}", bound, missed))
    return found


def text(result: Raw) -> str:
    """All results as text."""
    return "\n\n".join([table(rows(result)), limits(result), table(goals(result))])


def limits(result: Raw) -> str:
    """The yardstick in one sentence."""
    checks = result["signature_checks"]
    plain, chain = (", ".join(f"{one[kind]:,.0f}" for one in checks) for kind in ("authorship_per_s", "chain_per_s"))
    return f"Pure signature checks on all cores, a second, each time: {plain}; as the chain checks them: {chain}."


def _row(title: str, result: Raw) -> Sequence[str]:
    latencies = (f"{result[f'p{percent}_ms']:.1f}" for percent in (50, 95, 99))
    costs = (f"{result[f'{side}_cpu_us_per_charge']:.1f}" for side in ("server", "client"))
    return (title, f"{result['charges_per_s']:,.0f}", *latencies, *costs)
