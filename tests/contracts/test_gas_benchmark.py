"""`scripts/bench gas` measures what it says, on shapes small enough for a test."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gas import CANONICAL, QUICK_SHAPES, canonical_row_gas, main, measure, rendered


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return measure(QUICK_SHAPES)


def test_every_shape_is_measured_both_ways_on_both_tokens(result: dict[str, Any]) -> None:
    cases = {(r["payers"], r["sellers"], r["by"], r["changed"], r["token"]) for r in result["rows"]}
    tokens, ways = ("minimal", "proxied"), ("voucher", "approval")
    assert cases == {
        (payers, sellers, by, changed, token)
        for token in tokens
        for by in ways
        for payers, sellers, changed in ((1, 1, 1.0), (3, 10, 1.0), (3, 10, 0.1))
    }
    assert len(result["rows"]) == len(cases)


def test_many_rows_by_approval_are_cheapest_and_a_proxy_costs_more(result: dict[str, Any]) -> None:
    gas = {(r["sellers"], r["changed"], r["by"], r["token"]): r["gas_per_row"] for r in result["rows"]}
    assert gas[10, 1.0, "approval", "minimal"] < gas[10, 1.0, "voucher", "minimal"] < canonical_row_gas(3, 10, 1.0)
    assert gas[10, 1.0, "voucher", "minimal"] < gas[10, 1.0, "voucher", "proxied"]
    assert gas[10, 1.0, "voucher", "minimal"] < gas[10, 0.1, "voucher", "minimal"]


def test_single_transactions_are_cheaper_than_on_the_canonical_contract(result: dict[str, Any]) -> None:
    for name, canonical in CANONICAL.items():
        assert 21_000 < result[name] < canonical
        assert result[name] < result["proxied"][name]
    assert result["deposit_with_authorization"] <= 100_000


def test_calldata_is_that_of_the_encoding(result: dict[str, Any]) -> None:
    row = next(r for r in result["rows"] if (r["sellers"], r["by"]) == (1, "voucher"))
    # selector, ABI head, the batch (header, receiver, account, row) padded to whole words
    assert row["calldata_bytes_per_row"] == 4 + 64 + -(-(42 + 20 + 2 + 80 + 98) // 32) * 32


def test_the_figures_are_printed_and_written(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gas.json"
    main(["--quick", "--json", str(file)])
    written = json.loads(file.read_text())
    assert written.keys() == result.keys()
    assert capsys.readouterr().out == rendered(written) + "\n"
