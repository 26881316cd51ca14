"""`scripts/slither` lets no finding pass without an answer, and no answer without a finding."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from _slither import answered, findings

ROOT = Path(__file__).resolve().parent.parent.parent
FOUND = {"check": "timestamp", "description": "Exits.end(uint256) (src/Exits.sol#1-2) uses timestamp\n"}
OTHER = {"check": "naming", "description": "Variable Operator.ESCROW (src/Operator.sol#21) is not in mixedCase\n"}
DOCUMENT = "# Answers\n\n## timestamp\nSeconds do not matter.\n- `Exits.end(uint256)`\n"


def report(*detectors: dict[str, str]) -> str:
    return json.dumps({"success": True, "error": None, "results": {"detectors": detectors}})


def compare(tmp_path: Path, report_: str, document: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "findings.json").write_text(report_)
    (tmp_path / "SLITHER.md").write_text(document)
    command = [sys.executable, ROOT / "scripts/_slither.py", tmp_path / "findings.json", tmp_path / "SLITHER.md"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_findings_are_named_by_detector_and_subject() -> None:
    assert findings(report(FOUND, OTHER)) == {"timestamp: Exits.end(uint256)", "naming: Operator.ESCROW"}
    assert findings('{"success": true, "error": null, "results": {}}') == set()


def test_a_report_of_failure_is_no_report() -> None:
    with pytest.raises(ValueError, match="slither: it broke"):
        findings('{"success": false, "error": "it broke", "results": {}}')


def test_answers_are_the_items_below_their_detector() -> None:
    assert answered(DOCUMENT) == {"timestamp: Exits.end(uint256)"}


def test_everything_answered_passes(tmp_path: Path) -> None:
    assert compare(tmp_path, report(FOUND), DOCUMENT).returncode == 0


def test_a_new_finding_fails(tmp_path: Path) -> None:
    result = compare(tmp_path, report(FOUND, OTHER), DOCUMENT)
    assert (result.returncode, result.stdout) == (1, "not answered: naming: Operator.ESCROW\n")


def test_an_answer_to_nothing_fails(tmp_path: Path) -> None:
    result = compare(tmp_path, report(), DOCUMENT)
    assert (result.returncode, result.stdout) == (
        1,
        "answered, but not found any more: timestamp: Exits.end(uint256)\n",
    )


def test_the_project_answers_what_is_certain_to_be_found() -> None:
    known = answered((ROOT / "contracts/SLITHER.md").read_text(encoding="utf-8"))
    assert "assembly: TokenCalls.tryTransfer(address,address,uint256)" in known
    assert "timestamp: Exits.finalizeWithdraw(IEscrow.ChannelConfig)" in known
