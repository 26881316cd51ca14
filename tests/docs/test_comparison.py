"""docs/comparison.md: our figures are those of the contract's gas tests, and its sums are right."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "comparison.md").read_text()
SNAPSHOTS = ROOT / "contracts" / "snapshots"


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_our_gas_is_what_the_contracts_tests_measured() -> None:
    rows = json.loads((SNAPSHOTS / "claim_per_row.json").read_text())
    other = json.loads((SNAPSHOTS / "other.json").read_text())
    for figure in (rows["10x100_by_vouchers"], rows["10x100_by_approval"], other["first_deposit_by_authorization"]):
        assert f"{int(figure):,}" in PAGE


def test_products_and_sums_are_right() -> None:
    products = re.findall(r"([\d,]+) \u00d7 ([\d,]+) = ([\d,]+)", PAGE)
    assert len(products) == 5
    assert all(number(one) * number(other) == number(product) for one, other, product in products)
    ours, theirs = [0], [0]
    for line in PAGE.splitlines():
        for column, total in zip(line.split("|")[2:4], (ours, theirs), strict=False):
            total[0] += sum(number(found) for found in re.findall(r"= ([\d,]+)", column))
    in_all = re.search(r"in all \| ([\d,]+) \| ([\d,]+)", PAGE)
    assert in_all is not None
    assert [number(found) for found in in_all.groups()] == [ours[0], theirs[0]]
