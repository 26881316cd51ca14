"""docs/escrow.md names everything that the contracts' ABIs have, and nothing in code that they do not."""

import re
from pathlib import Path

import pytest

from tallystick_contracts import ContractName, load
from tallystick_contracts.events import SkipReason

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs/escrow.md").read_text(encoding="utf-8")
NAMED = {re.match(r"\w*", code)[0] for code in re.findall(r"`([^`]+)`", PAGE)}  # type: ignore[index]


@pytest.mark.parametrize("contract", ["Escrow", "Operator"])
@pytest.mark.parametrize("kind", ["function", "event", "error"])
def test_every_name_of_the_abi_is_on_the_page(contract: ContractName, kind: str) -> None:
    names = {entry["name"] for entry in load(contract).abi if entry["type"] == kind}
    assert names
    assert names - NAMED == set()


def test_every_reason_to_skip_a_row_is_on_the_page() -> None:
    words = {"".join(part.title() for part in reason.name.split("_")) for reason in SkipReason if reason}
    assert words - NAMED == set()


def test_operations_are_shown_with_the_arguments_that_they_have() -> None:
    functions = {
        entry["name"]: [argument["name"] for argument in entry["inputs"]]
        for entry in load("Escrow").abi
        if entry["type"] == "function"
    }
    shown = re.findall(r"`(\w+)\(([^)`]*)\)`", "\n".join(re.findall(r"^### .*$", PAGE, re.MULTILINE)))
    assert len(shown) >= 12
    for name, arguments in shown:
        assert [argument.strip() for argument in arguments.split(",")] == functions[name]
