"""A file that a script could not write after its minutes of work is refused before them."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import chaos_runs.fleet
import chaos_runs.intake
import chaos_runs.lies
import demonstration.__main__ as demonstration
from _arguments import output_file
from benchmarks import gas, intake
from fuzzing import __main__ as fuzz


def demo(arguments: Sequence[str]) -> None:
    demonstration.main(arguments, prog_name="scripts/demo")


@pytest.mark.parametrize(
    "main",
    [intake.main, gas.main, chaos_runs.intake.main, chaos_runs.fleet.main, chaos_runs.lies.main, fuzz.main, demo],
    ids=["bench intake", "bench gas", "chaos intake", "chaos fleet", "chaos lies", "fuzz", "demo"],
)
def test_every_script_refuses_a_file_in_no_folder_at_once(
    main: Callable[[Sequence[str]], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--json", f"{tmp_path}/none/figures.json"])
    assert ended.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "--json" in told
    assert f"got '{tmp_path}/none/figures.json', which cannot be written (No such file or directory); allowed" in told


@pytest.mark.parametrize(("file", "problem"), [("/", "Is a directory"), ("/proc/self/figures.json", "")])
def test_what_can_be_no_file_is_refused(file: str, problem: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=rf"got '{file}', which cannot be written \({problem}"):
        output_file(file)


def test_new_files_and_old_ones_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_file("figures.json") == Path("figures.json")
    assert not list(tmp_path.iterdir()), "it may be that the run never ends"
    (tmp_path / "figures.json").write_text("old")
    assert output_file(f"{tmp_path}/figures.json") == tmp_path / "figures.json"
    assert (tmp_path / "figures.json").read_text() == "old"


def test_a_link_to_a_file_that_is_not_there_yet_is_left_as_it_is(tmp_path: Path) -> None:
    link, target = tmp_path / "latest.json", tmp_path / "today.json"
    link.symlink_to(target)
    output_file(str(link)).write_text("new")
    assert link.readlink() == target
    assert target.read_text() == "new"


def test_a_link_leaves_no_empty_file_where_it_leads(tmp_path: Path) -> None:
    link, target = tmp_path / "latest.json", tmp_path / "today.json"
    link.symlink_to(target)
    output_file(str(link))
    assert link.is_symlink()
    assert not target.exists()


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    link = tmp_path / "latest.json"
    link.symlink_to(link)
    with pytest.raises(argparse.ArgumentTypeError, match="which cannot be written"):
        output_file(str(link))
