"""`scripts/chaos` kills what it says and finds what is wrong with the books."""

import json
from pathlib import Path

import pytest

from chaos_runs import fleet, intake


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
