"""docs/comparison.md: our figures are those of the contract's gas tests, and its sums are right."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from tallystick_client.cli import main
from tallystick_client.estimate import figures
from tallystick_contracts import claim_batch

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


def test_the_estimates_gas_is_what_the_contracts_tests_measured() -> None:
    other = json.loads((SNAPSHOTS / "other.json").read_text())
    assert {name: int(gas) for name, gas in other.items()} == {
        "first_deposit_by_authorization": figures.FIRST_DEPOSIT_GAS,
        "top_up_by_authorization": figures.TOP_UP_GAS,
        "transfer_by_authorization": figures.TRANSFER_GAS,
    }


@pytest.mark.parametrize("name", json.loads((SNAPSHOTS / "claim_per_row.json").read_text()))
def test_the_estimates_claims_are_those_that_the_contracts_tests_measured(name: str) -> None:
    measured = int(json.loads((SNAPSHOTS / "claim_per_row.json").read_text())[name])
    size, _, by = name.partition("_")
    payers, sellers = map(int, size.split("x"))
    costs = figures.BY_VOUCHERS if by == "by_vouchers" else figures.BY_APPROVAL
    claims = -(-payers * sellers // 1_250)  # what the gas tests put into a transaction
    gas = claims * (figures.CLAIM_GAS + sellers * figures.PAYMENT_GAS)
    gas += payers * costs.account_gas + payers * sellers * costs.row_gas
    per_row = gas / (payers * sellers)
    if payers * sellers == 1:
        assert measured <= per_row <= measured * 1.02
    else:
        assert abs(per_row - measured) <= 1


def test_the_estimates_bytes_are_those_of_the_encoding() -> None:
    assert figures.HEADER_BYTES == claim_batch.HEADER_BYTES + claim_batch.COUNT_BYTES
    assert figures.RECEIVER_BYTES == claim_batch.RECEIVER_BYTES
    vouchers, approval = figures.BY_VOUCHERS, figures.BY_APPROVAL
    assert (vouchers.account_bytes, vouchers.row_bytes) == (claim_batch.ACCOUNT_BYTES, claim_batch.VOUCHER_ROW_BYTES)
    assert approval.account_bytes == claim_batch.ACCOUNT_BYTES + claim_batch.APPROVAL_BYTES
    assert approval.row_bytes == claim_batch.APPROVAL_ROW_BYTES


def test_the_page_shows_the_figures_of_the_estimate() -> None:
    ours = {figures.FIRST_DEPOSIT_GAS, figures.TOP_UP_GAS, figures.FIRST_CLAIM_GAS, figures.TRANSFER_GAS}
    published = {
        figures.STANDARD_FIRST_DEPOSIT_GAS,
        figures.STANDARD_TOP_UP_GAS,
        figures.STANDARD_ROW_GAS_OF_10,
        figures.STANDARD_ROW_GAS_OF_100,
        figures.STANDARD_SETTLE_GAS,
    }
    tables = PAGE.partition("## Estimate your own")[0]
    assert [figure for figure in ours | published if f"{figure:,}" not in tables] == []
    assert f"{figures.STANDARD_ROW_BYTES} bytes" in " ".join(tables.split()).replace("\n", " ")


def test_the_standards_line_goes_through_the_published_claims() -> None:
    for rows, per_row in ((10, figures.STANDARD_ROW_GAS_OF_10), (100, figures.STANDARD_ROW_GAS_OF_100)):
        gas = figures.STANDARD_CLAIM_GAS + rows * figures.STANDARD_ROW_GAS
        assert rows * per_row <= gas <= rows * (per_row + 1)


def test_the_example_is_what_the_command_prints() -> None:
    command, shown = re.findall(r"\$ tallystick (estimate [^\n]*)\n(.*?)```", PAGE, re.DOTALL)[0]
    printed = CliRunner().invoke(main, shlex.split(command), env={"COLUMNS": "80"})
    assert printed.exit_code == 0
    assert printed.output == shown
