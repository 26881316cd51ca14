"""`scripts/chaos` kills what it says and finds what is wrong with the books."""

import json
from pathlib import Path

import pytest

from chaos_runs import fleet, intake, lies
from chaos_runs.alarms import Alarms
from chaos_runs.books import AccountBooks, ExactBooks, compare
from chaos_runs.fast_server import FastClock


@pytest.mark.parametrize("kills", ["0", "-3", "many"])
def test_an_audit_after_no_kill_at_all_is_refused(kills: str, capsys: pytest.CaptureFixture[str]) -> None:
    for chaos in (intake, fleet):
        with pytest.raises(SystemExit, match="2"):
            chaos.main(["--kills", kills])
        assert f"got {kills!r}, allowed 1 and more" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_an_aggregator_that_is_killed_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    report = tmp_path / "intake.json"

    assert intake.main(["--kills", "2", "--json", str(report)]) == 0

    result = json.loads(report.read_text())
    assert result["kills"] == 2
    assert result["accepted"] > 100
    assert result["refused"] > 0, "some charges are such that they must be refused"
    assert (result["lost"], result["doubled"], result["contradictions"]) == (0, 0, [])


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_fleet_whose_workers_and_wallet_are_killed_spends_its_budget_and_no_more(tmp_path: Path) -> None:
    report = tmp_path / "fleet.json"

    assert fleet.main(["--quick", "--json", str(report)]) == 0

    result = json.loads(report.read_text())
    assert result["kills"] == fleet.QUICK.kills
    assert result["charged"] == result["charged_by_the_book"] <= result["budget"]


CLEAN = {
    "accepted": 10,
    "lost": 0,
    "doubled": 0,
    "charged_though_refused": 0,
    "wrong_totals": 0,
    "contradictions": [],
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"lost": 1},
        {"doubled": 1},
        {"charged_though_refused": 1},
        {"wrong_totals": 1},
        {"contradictions": ["accepted and refused"]},
        {"accepted": 0},
    ],
)
def test_whatever_is_wrong_with_the_books_fails_the_run(wrong: dict[str, object]) -> None:
    assert intake.is_clean(CLEAN)
    assert not intake.is_clean(CLEAN | wrong)


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "soon", "1441"])
def test_a_run_of_no_time_is_refused(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        lies.main(["--minutes", minutes])
    assert f"got {minutes!r}, allowed above 0" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_an_aggregator_whose_endpoints_lie_loses_and_doubles_nothing(tmp_path: Path) -> None:
    report = tmp_path / "lies.json"

    assert lies.main(["--quick", "--json", str(report)]) == 0

    result = json.loads(report.read_text())
    assert result["accepted"] > 10
    assert result["settlements"] > 0
    assert sum(result["lies"].values()) > 0


@pytest.mark.full
@pytest.mark.timeout(900)
def test_two_minutes_of_lies_cost_nothing_and_are_all_noticed(tmp_path: Path) -> None:
    report = tmp_path / "lies.json"

    assert lies.main(["--minutes", "2", "--seed", "7", "--json", str(report)]) == 0

    result = json.loads(report.read_text())
    assert (result["lost"], result["doubled"], result["unsettled"], result["unnoticed"]) == (0, 0, 0, 0)
    assert sum(result["lies_that_mattered"].values()) > 5
    assert result["withdrawals_finalised"] > 0
    assert result["refunds"] > 0


NEWS, MAPS = b"n" * 20, b"m" * 20


def account(accepted: int, charged: int, claimed: int, balance: int) -> AccountBooks:
    return AccountBooks("a", {NEWS: accepted}, {NEWS: charged}, {NEWS: claimed}, balance)


@pytest.mark.parametrize(
    ("books", "received", "lost", "doubled", "unsettled"),
    [
        (account(10, 10, 10, 5), 10, 0, 0, 0),
        (account(10, 10, 4, 9), 4, 0, 0, 6),
        (account(10, 10, 4, 2), 4, 4, 0, 2),
        (account(10, 13, 10, 9), 10, 0, 3, 0),
        (account(10, 10, 13, 9), 13, 0, 3, 0),
        (account(10, 0, 0, 10), 0, 0, 0, 10),
        (account(10, 10, 10, 0), 9, 1, 0, 0),
        (account(10, 10, 10, 0), 11, 0, 1, 0),
    ],
)
def test_books_that_differ_say_who_lost_what(
    books: AccountBooks, received: int, lost: int, doubled: int, unsettled: int
) -> None:
    verdict = compare([books], [], {NEWS: received})
    assert (verdict.lost, verdict.doubled, verdict.unsettled) == (lost, doubled, unsettled)
    assert bool(verdict.details) is (lost + doubled + unsettled > 0)


@pytest.mark.parametrize(
    ("accepted", "landed", "lost", "unsettled"),
    [
        (True, True, 0, 0),
        (False, False, 0, 0),
        (None, False, 0, 0),
        (True, False, 7, 0),
        (False, True, 7, 0),
        (None, True, 0, 7),
    ],
)
def test_an_exact_payment_is_paid_for_if_and_only_if_it_was_accepted(
    accepted: bool | None, landed: bool, lost: int, unsettled: int
) -> None:
    verdict = compare([], [ExactBooks(MAPS, 7, accepted, landed)], {MAPS: 7 * landed})
    assert (verdict.lost, verdict.doubled, verdict.unsettled) == (lost, 0, unsettled)


def test_alarms_are_read_from_whole_lines_of_the_log_as_they_come(tmp_path: Path) -> None:
    log = tmp_path / "aggregator.log"
    log.write_text(
        'listening on 127.0.0.1:1\n{"time": 1.5, "level": "info", "logger": "x", "message": "tallystick.alarm"}\n'
        '{"time": 2.5, "level": "critical", "logger": "tallystick.alarm", "message": "first"}\n'
        '{"time": 3.5, "logger": "tal'
    )
    alarms = Alarms(log)
    assert [(alarm.at, alarm.message) for alarm in alarms.look()] == [(2.5, "first")]
    with log.open("a") as file:
        file.write('lystick.alarm", "message": "second"}\n')
    assert [alarm.message for alarm in alarms.since(3.0)] == ["second"]
    assert len(alarms.all) == 2


def test_a_fast_clock_is_the_same_for_all_who_are_told_of_it() -> None:
    wall = [100.0]
    clock = FastClock(started=90.0, shown=1_000.0, speed=20.0, wall=lambda: wall[0])
    assert clock() == 1_200.0
    wall[0] += 0.5
    assert clock() == 1_210.0


HARMLESS = {"accepted": 9, "lies": {"empty logs": 1}, "lost": 0, "doubled": 0, "unsettled": 0, "unnoticed": 0}


@pytest.mark.parametrize("wrong", ["lost", "doubled", "unsettled", "unnoticed"])
def test_a_lie_that_did_harm_or_was_not_noticed_fails_the_run(wrong: str) -> None:
    assert lies.is_clean(HARMLESS)
    assert not lies.is_clean(HARMLESS | {wrong: 1})
    assert not lies.is_clean(HARMLESS | {"accepted": 0})
    assert not lies.is_clean(HARMLESS | {"lies": {}})
