"""The pages for payers and sellers name every setting, option, error and reason of the client, with their defaults."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

import tallystick.errors
import tallystick_client.payer.errors
import tallystick_client.rpc
from tallystick.errors import TallystickError
from tallystick.reasons import Reason
from tallystick_client import Aggregator, Budgets, DepositPolicy, Paywall, Receipt, RequestInfo, Rule, Wallet
from tallystick_client.payer.cli.commands import wallet
from tallystick_client.payer.wallet.schemes.port import by_name

DOCS = Path(__file__).parents[2] / "docs"
PAYERS = (DOCS / "payers.md").read_text()
SELLERS = (DOCS / "sellers.md").read_text()


class Table(NamedTuple):
    """A page's table that lists the settings of these."""

    page: str
    heading: str
    of: tuple[Callable[..., Any], ...]

    def rows(self) -> Iterator[tuple[set[str], str]]:
        """The names in each row, and its default."""
        lines = self.page.partition(f"\n| {self.heading} | ")[2].partition("\n\n")[0].splitlines()[2:]
        assert lines, f"no table {self.heading}"
        for line in lines:
            names, default = line.split("|")[1:3]
            yield set(re.findall(r"`([\w-]+)`", names)), default.strip()


TABLES = [
    Table(PAYERS, "`Wallet.open`", (Wallet.open,)),
    Table(PAYERS, "`Budgets` and `DepositPolicy`", (Budgets, DepositPolicy)),
    Table(SELLERS, "`Paywall`", (Paywall,)),
    Table(SELLERS, "`Rule`", (Rule,)),
    Table(SELLERS, "`Aggregator`", (Aggregator,)),
]
SERVE = Table(PAYERS, "`wallet serve`", ())


def settings(table: Table) -> dict[str, object]:
    """The names of the settings, and their defaults."""
    return {
        name: parameter.default
        for callable_ in table.of
        for name, parameter in inspect.signature(callable_).parameters.items()
    }


def shown(default: object) -> str:
    """A default as the pages write it; empty where there is none, or words say it better."""
    if default is None or default is inspect.Parameter.empty:
        return ""
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{default}`" if isinstance(default, int) else "`"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.heading)
def test_the_page_lists_exactly_the_settings_there_are(table: Table) -> None:
    listed = [name for names, _ in table.rows() for name in names]
    assert sorted(listed) == sorted(settings(table))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.heading)
def test_the_page_tells_the_defaults_that_are_in_force(table: Table) -> None:
    defaults = settings(table)
    for names, told in table.rows():
        for name in names:
            assert shown(defaults[name]) in told, f"{name}: {defaults[name]}"
            assert bool(told) is (defaults[name] is not inspect.Parameter.empty), name


def test_the_page_lists_every_option_of_wallet_serve_and_its_default() -> None:
    options = {
        option.opts[0]: option
        for option in wallet.commands["serve"].params
        if isinstance(option, click.Option) and not option.hidden
    }
    rows = list(SERVE.rows())
    assert sorted(name for names, _ in rows for name in names) == sorted(options)
    for names, told in rows:
        for name in names:
            default = options[name].default
            for value in default if isinstance(default, list | tuple) else [default]:
                if isinstance(value, str | int | float) and not isinstance(value, bool):
                    assert f"`{value:g}`" in told if isinstance(value, float) else f"`{value}`" in told, name


@pytest.mark.parametrize("retry", [True, False])
def test_the_page_says_of_every_reason_whether_it_is_final(retry: bool) -> None:
    row = next(line for line in PAYERS.splitlines() if line.startswith("| retry," if retry else "| final,"))
    assert set(re.findall(r"`(\w+)`", row)) == {reason.code for reason in Reason if reason.retry is retry}


def test_the_page_names_every_error_that_a_payer_may_meet() -> None:
    table = PAYERS.partition("\n## Errors")[2].partition("\n## ")[0]
    errors = {
        name
        for module in (tallystick.errors, tallystick_client.payer.errors, tallystick_client.rpc)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, TallystickError) and not value.__subclasses__()
    }
    assert errors - set(re.findall(r"`(\w+)`", table)) == set()


@pytest.mark.parametrize(("page", "class_"), [(PAYERS, Receipt), (SELLERS, RequestInfo)])
def test_the_pages_name_every_field_of_what_they_hand_out(page: str, class_: type) -> None:
    missing = {field.name for field in dataclasses.fields(class_)} - set(re.findall(r"`(\w+)`", page))
    assert missing == set()


def test_the_payers_page_makes_schemes_that_a_wallet_takes() -> None:
    blocks = re.findall(r"(?:^    .*\n|^\n)+", PAYERS, re.MULTILINE)
    (block,) = [block for block in blocks if "any_authorizer=True" in block]
    made: dict[str, Any] = {}
    exec(textwrap.dedent(block), made)
    assert list(by_name(made["schemes"])) == ["deferred", "batch-settlement", "exact"]
