"""The matrix itself: each client, each server and each scheme at least once; every pair with `--full`."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import matrix
from cells import CLIENTS, SCHEMES, SERVERS, Cell, Scheme, all_cells, covering
from matrix import FAIL, NONE, PASS, Result

NO_DEFERRED: Mapping[tuple[str, Scheme], str] = {("fetch", "deferred"): "there is no client scheme for deferred"}


def failed(results: list[Result]) -> dict[str, str]:
    return {result.cell.name: result.why for result in results if result.result == FAIL}


@pytest.mark.timeout(400)
async def test_each_client_server_and_scheme_trades_through_tallystick() -> None:
    told: list[Result] = []

    results = await matrix.run(covering(), told.append)

    assert failed(results) == {}
    assert len(told) == len(results) == len(covering())


@pytest.mark.full
@pytest.mark.timeout(1_800)
async def test_every_pair_that_can_exist_trades_through_tallystick() -> None:
    results = await matrix.run(all_cells(), lambda _: None)

    assert failed(results) == {}
    assert {result.cell for result in results} == set(all_cells())


def test_what_runs_every_time_has_each_client_server_and_scheme() -> None:
    chosen = covering()

    assert {cell.client for cell in chosen} == set(CLIENTS)
    assert {cell.server for cell in chosen} == set(SERVERS)
    assert {cell.scheme for cell in chosen} == set(SCHEMES)
    assert not any(cell.why_not for cell in chosen)


def test_a_cell_that_cannot_be_says_why_and_is_not_run() -> None:
    cells = {cell.name: cell for cell in all_cells(NO_DEFERRED)}

    assert len(cells) == len(CLIENTS) * len(SERVERS) * len(SCHEMES)
    assert "no client scheme for deferred" in cells["fetch-express-deferred"].why_not
    assert cells["transport-paywall-deferred"].why_not == ""


def test_every_pair_can_exist_where_vouchers_need_no_manager() -> None:
    assert {cell.why_not for cell in all_cells() if not cell.scheme.endswith("-managed")} == {""}


def test_only_our_paywall_cannot_manage_vouchers_and_says_why() -> None:
    impossible = {(cell.server, cell.scheme): cell.why_not for cell in all_cells() if cell.why_not}
    assert set(impossible) == {("paywall", "server-managed")}
    assert "its aggregator does" in impossible["paywall", "server-managed"]


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("fetch,express,exact", ["fetch-express-exact"]),
        ("httpx,requests,flask,upto", ["httpx-flask-upto", "requests-flask-upto"]),
        ("axios,deferred", [f"axios-{server}-deferred" for server in SERVERS]),
    ],
)
def test_cells_are_chosen_by_the_names_of_their_parts(only: str, names: list[str]) -> None:
    assert [cell.name for cell in matrix.choose(only)] == names


def test_a_wrong_name_is_told_the_right_ones() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="got 'curl', allowed httpx, requests, fetch"):
        matrix.choose("curl,express")


def test_the_table_has_each_result_and_each_reason_once() -> None:
    none = [cell for cell in all_cells(NO_DEFERRED) if cell.why_not]
    results = [
        Result(Cell("fetch", "express", "exact"), PASS),
        Result(Cell("axios", "flask", "upto"), FAIL, "answered 402"),
        Result(Cell("axios", "express", "upto"), FAIL, "answered 402 with " + "a long sentence " * 20),
        *(Result(cell, NONE, cell.why_not) for cell in none),
    ]

    text = matrix.text(results)

    rows = [line.split() for line in text.splitlines()]
    assert ["fetch", "pass"] in rows
    assert ["axios", "fail", "fail"] in rows
    assert max(map(len, text.splitlines())) <= 80
    assert text.endswith("1 pass, 2 fail, 4 none")
    assert ["fetch", "none", "none", "none", "none"] in rows
    assert "fail: axios-flask-upto\n  answered 402" in text
    assert text.count(none[0].why_not) == 1


def test_results_are_written_for_programs_and_a_failure_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = Cell("fetch", "express", "exact")

    async def run(cells: list[Cell], tell: object) -> list[Result]:  # noqa: ARG001 - as the real one
        return [Result(cell, FAIL, "answered 402")]

    monkeypatch.setattr(matrix, "run", run)
    with pytest.raises(SystemExit) as ended:
        matrix.main(["--only", "fetch,express,exact", "--json", str(tmp_path / "cells.json")])

    assert ended.value.code == 1
    expected = {"client": "fetch", "server": "express", "scheme": "exact", "result": "fail", "why": "answered 402"}
    assert json.loads((tmp_path / "cells.json").read_text()) == {"cells": [expected]}
    assert "answered 402" in capsys.readouterr().out
