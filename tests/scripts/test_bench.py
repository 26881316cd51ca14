"""`scripts/bench intake` and `facilitator` run and count right. The official package's resource server is left out."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from _children import Children
from benchmarks import facilitator, http2, intake, pairs, plot, pool, report, vouchers, world
from benchmarks import scenarios as scenarios_
from benchmarks.bench import Bench
from benchmarks.measure import percentile
from benchmarks.scenarios import SPEND_KEY, Scenario, scenarios
from benchmarks.sizes import QUICK

TINY = QUICK._replace(duration_s=0.3, warm_up_s=0.1, channels_many=20, replay_channels=50, replay_ids=100)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Children(tmp_path) as children:
        bench = Bench(tmp_path, children, TINY)
        await bench.prepare()
        yield bench


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("stream", "vouchers", batch=16, channels=20),
        Scenario("keys", "spend keys", SPEND_KEY, batch=16, channels=20, payment_ids=100),
        Scenario("unary", "TLS", batch=0, channels=20, tls=True),
    ],
    ids=lambda scenario: scenario.name,
)
async def test_a_scenario_charges_and_is_measured(bench: Bench, scenario: Scenario) -> None:
    result = await bench.run(scenario)

    assert result["accepted"] > 0
    assert result["refused"] == {}
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert result["server_cpu_us_per_charge"] > 0


@pytest.mark.timeout(240)
async def test_two_checkouts_are_measured_in_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = pairs.HERE
    scenarios = [Scenario("keys", "spend keys", SPEND_KEY, batch=16, channels=20)]

    result = await pairs.measure(scenarios, TINY, tmp_path, here, 2)

    assert [list(one["raw"]) for one in result["pairs"]] == [["before", "after"], ["after", "before"]]
    for one in result["pairs"]:
        assert one["ratio"] == pytest.approx(one["after"] / one["before"])
    assert min(one["ratio"] for one in result["pairs"]) <= result["median_ratio"]["keys"]
    assert "pair 2 of 2, keys: " in capsys.readouterr().out


def test_scenarios_are_chosen_by_name_and_a_wrong_name_is_told_the_right_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = intake.choose("stream64_spend_key,stream64", QUICK)
    assert [scenario.name for scenario in chosen] == ["stream64", "stream64_spend_key"]

    with pytest.raises(SystemExit):
        intake.main(["--only", "stream63"])
    assert "argument --only: got 'stream63', allowed unary, unary_spend_key, stream1," in capsys.readouterr().err
    with pytest.raises(SystemExit):
        intake.main(["--against", "/"])
    assert "argument --against: got '/', allowed the folder of another checkout" in capsys.readouterr().err


@pytest.mark.timeout(240)
async def test_a_call_that_fails_fails_the_run(bench: Bench, tmp_path: Path) -> None:
    server = await bench._start("benchmarks.server", {"store": str(tmp_path / "store"), "processes": 1, "tls": ""})
    port = (await server.read(60))["port"]
    answers: list[bytes] = []
    connection = await http2.Connection.open(
        port, "/tallystick.v1.ChargeService/Charge", "no token of this server", lambda _, body: answers.append(body)
    )
    connection.call(b"")

    with pytest.raises(http2.CallFailedError, match="without an answer"):
        await asyncio.wait_for(connection.lost, 30)
    assert answers == []


def test_a_connection_names_its_header_fields_once() -> None:
    first, again = http2.header_blocks("/a.Service/Method", "localhost:1", "token", "http")

    assert b"/a.Service/Method" in first
    assert b"Bearer token" in first
    assert again == bytes([0x83, 0x86, 0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62])


@pytest.mark.timeout(240)
async def test_yardstick_memory_and_replay_are_measured(bench: Bench) -> None:
    checks = await bench.yardstick()
    replay = await bench.memory_and_replay()

    assert checks["authorship_per_s"] > 0
    assert checks["chain_per_s"] > 0
    assert replay["idle"]["channels"] == 50
    assert replay["full"]["payments_in_memory"] == 100


def test_the_vouchers_of_a_pool_ascend_on_every_channel() -> None:
    order = pool.Order(channels=3, burst=4)
    ceilings: dict[int, list[int]] = {}
    for number in range(100):
        ceilings.setdefault(order.payer(number), []).append(order.ceiling(number))

    assert sorted(ceilings) == [0, 1, 2]
    for ascending in ceilings.values():
        assert ascending == [world.PRICE * (ordinal + 1) for ordinal in range(len(ascending))]


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (99, 99), (100, 100)])
def test_a_percentile_is_the_value_of_its_rank(percent: float, expected: float) -> None:
    assert percentile(list(range(1, 101)), percent) == expected
    assert percentile([], percent) == 0


def raw() -> dict[str, object]:
    """Results of a run in which everything is just good enough."""
    one = {
        "title": "a scenario",
        "charges_per_s": 45_000.0,
        "p50_ms": 1.0,
        "p95_ms": 2.0,
        "p99_ms": 20.0,
        "server_cpu_us_per_charge": 1.0,
        "client_cpu_us_per_charge": 1.0,
    }
    named = {scenario.name: one for scenario in scenarios(10, 10)}
    # Of what is measured three times the median counts.
    for repeat, rate in zip(scenarios_.REPEATS, (112_500.0, 150_000.0, 50_000.0), strict=True):
        named[repeat + scenarios_.BY_KEY] = one | {"charges_per_s": rate}
    for repeat, rate in zip(scenarios_.UNARY_REPEATS, (5_600.0, 2_000.0, 9_000.0), strict=True):
        named[repeat] = one | {"charges_per_s": rate}
    official = [one | {"charges_per_s": rate} for rate in (800.0, 1_000.0, 900.0)]
    return {
        "official": {"in_process": one, "http": official},
        "signature_checks": [
            {"authorship_per_s": rate, "chain_per_s": 70_000.0} for rate in (80_000.0, 10_000.0, 90_000.0)
        ],
        "scenarios": named,
        "replay": {"bytes_per_idle_channel": 1_536.0, "full": {"load_s": 20.0}},
        "machine": {"processor": "a processor", "cores": 2, "memory_mib": 4096, "system": "a system", "python": "3"},
        "commit": "0123abc",
        "started_at": 0,
        "load_average": {"before": 0.5, "after": 2.0},
    }


def test_figures_are_ratios_of_the_same_run() -> None:
    result = report.figures(raw())

    assert result == {
        "stream64_vs_official_http": 45.0,
        "share_of_signature_limit": 0.5625,
        "spend_key_vs_distinct": 2.5,
        "unary_vs_official_http": 7.0,
        "p99_ms_half_peak_batch16": 20.0,
        "channels_100k_vs_1k": 1.0,
        "ids_10m_vs_none": 1.0,
        "bytes_per_idle_channel": 1536.0,
        "replay_s": 20.0,
    }
    assert [target.key for target in report.TARGETS] == list(result)
    assert all(target.met(result[target.key]) for target in report.TARGETS)


@pytest.mark.parametrize("target", report.TARGETS, ids=lambda target: target.key)
def test_a_figure_beyond_its_bound_is_called_missed(target: report.Target) -> None:
    beyond = target.bound * (0.99 if target.at_least else 1.01)
    result = {**report.figures(raw()), **raw(), target.key: beyond}

    assert report.text(result).count("MISSED") == 1


def test_the_page_gets_its_tables_and_keeps_its_text() -> None:
    result = {**report.figures(raw()), **raw()}
    page = f"# Title\n\nbefore\n{plot.BEGIN}\nold\n{plot.END}\nafter\n"

    written = plot.with_tables(page, result)

    assert written.startswith("# Title\n\nbefore\n")
    assert written.endswith(f"{plot.END}\nafter\n")
    assert "old" not in written
    assert "| throughput with 10 million payment ids against none | 1.00 | at least 0.85 |" in written


@pytest.mark.timeout(240)
async def test_both_facilitators_verify_and_settle_and_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    settle_s = 2 * facilitator.BLOCK_S + 0.5
    sizes = facilitator.Sizes(
        verify=facilitator.Load("/verify", 0.5, 0.1, 2, 5_000),
        settle=facilitator.Load("/settle", settle_s, 0.0, 5, 200),
        burst=facilitator.Load("/settle", 30.0, 0.0, 5, 5, once=True),
        busy=facilitator.Load("/settle", settle_s, 0.0, 5, 200),
        meanwhile=facilitator.Load("/verify", settle_s, 0.0, 1, 200, pause_s=0.1),
    )

    few = vouchers.Sizes(2, 2, 0.1, 0.5, {vouchers.OFFICIAL: 800, vouchers.OURS: 2_000})

    results = await facilitator.measure(sizes, few)

    for name in ("official", "tallystick"):
        for path in ("verify", "settle"):
            assert results[name][path]["answered"] > 0
            assert 0 < results[name][path]["p50_ms"] <= results[name][path]["p99_ms"]
    busy = results["tallystick"]["verify_while_settling"]
    assert (busy["settling"], results["verify_p99_ms"]) == (5, busy["p99_ms"])
    assert 0 < busy["answered"] <= settle_s / 0.1 + 1, "it pauses between two"
    assert busy["settled"] > 0
    burst = results["tallystick"]["verify_while_burst"]
    assert (burst["settling"], burst["settled"], results["verify_p99_burst_ms"]) == (5, 5, burst["p99_ms"])
    assert 0 < burst["answered"] <= burst["settled_in_s"] / 0.1 + 1, "none that began after the last settlement"
    assert results["exact_vs_official"] > 1, "five at once, and one after the other"
    assert [list(one) for one in results["vouchers"]["rounds"]] == [
        [vouchers.OFFICIAL, vouchers.OURS],
        [vouchers.OURS, vouchers.OFFICIAL],
    ]
    assert all(side["paid"] > 0 for one in results["vouchers"]["rounds"] for side in one.values())
    assert results["verify_settle_vs_official"] == results["vouchers"]["ratio"]
    assert "tallystick /settle: " in capsys.readouterr().out


@pytest.mark.timeout(120)
async def test_the_vouchers_alone_are_measured_and_told() -> None:
    few = vouchers.Sizes(2, 1, 0.1, 0.3, {vouchers.OFFICIAL: 500, vouchers.OURS: 1_500})
    results = await facilitator.measure(facilitator.QUICK, few, parts=[facilitator.VOUCHERS])
    assert ("exact_vs_official" in results, len(results["vouchers"]["rounds"])) == (False, 1)
    text = facilitator.rendered(results)
    assert ("exact_vs_official" in text, "verify_p99_ms" in text) == (False, False)
    assert f"verify_settle_vs_official: {results['verify_settle_vs_official']:.1f}, at least 3" in text


def test_a_facilitator_that_is_not_fast_enough_is_called_so() -> None:
    def one(per_s: float, cpu_ms: float) -> dict[str, float]:
        return {"per_s": per_s, "server_cpu_ms": cpu_ms, "p50_ms": 1.0, "p99_ms": 2.0}

    raw = {
        "official": {"verify": one(50, 9.0), "settle": one(0.5, 80.0)},
        "tallystick": {
            "verify": one(150, 4.5),
            "settle": one(5, 20.0),
            "verify_while_burst": one(40, 9.0) | {"settling": 500},
            "verify_while_settling": one(40, 9.0) | {"settling": 500},
        },
    }

    ratios = facilitator.ratios(raw)

    assert ratios == {"exact_vs_official": 10.0, "verify_vs_official": 3.0, "verify_cpu_vs_official": 2.0}
    side = {"server_cpu_us": 1_000.0, "p50_ms": 1.0, "p99_ms": 2.0}
    rounds = [
        {vouchers.OFFICIAL: side | {"per_s": rate}, vouchers.OURS: side | {"per_s": 1_000.0, "server_cpu_us": 250.0}}
        for rate in (100.0, 500.0, 400.0)
    ]
    paid = vouchers.figures(rounds)
    assert (paid["ratio"], paid["cpu_ratio"]) == (2.5, 4.0)
    assert paid["cpu_us"] == {vouchers.OFFICIAL: 1_000.0, vouchers.OURS: 250.0}
    told = {
        "verify_p99_ms": 51.0,
        "verify_p99_burst_ms": 49.0,
        "verify_settle_vs_official": paid["ratio"],
        "vouchers": {"rounds": rounds},
    }
    text = facilitator.rendered(raw | ratios | told)
    assert "verify_settle_vs_official: 2.5, at least 3: MISSED" in text
    assert "exact_vs_official: 10.0, at least 10\n" in text
    assert "verify_cpu_vs_official: 2.0, at least 3: MISSED" in text
    assert "verify_p99_ms: 51.0, at most 50: MISSED" in text
    assert "verify_p99_burst_ms: 49.0, at most 50\n" in text
    assert "/verify, tallystick, while 500 settle" in text
