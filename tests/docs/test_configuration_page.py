"""The page about the configuration names every setting, and no other."""

import re
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest

from tallystick_aggregator.api.grpc.charge import ChargeLimits
from tallystick_aggregator.auth.limits import GasLimits
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.listing import ListingLimits
from tallystick_aggregator.runtime.config import chains, exact, file

PAGE = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
SECTIONS: dict[str, tuple[type, ...]] = {
    "`[server]`": (file.ServerSection,),
    "## `[discovery]`": (ListingLimits,),
    "`[store]`": (file.StoreSection,),
    "`[settlement]`": (file.SettlementSection,),
    "`[limits]`": (Rules, ChargeLimits),
    "`[gas]`": (GasLimits,),
    "`[exact]`": (exact.ExactSection,),
    "`[exact_open]`": (exact.ExactOpenSection,),
    "`[[chain]]`": (chains.ChainSection,),
    "`[[chain.token]]`": (chains.TokenSection,),
}


def defaults(*sections: type) -> dict[str, object]:
    """Return all settings with their defaults."""
    found: dict[str, object] = {}
    for section in sections:
        if issubclass(section, msgspec.Struct):
            found |= {field.name: field.default for field in msgspec.structs.fields(section)}
        else:
            found |= {field.name: field.default for field in fields(section)}
    return found


def part(heading: str) -> str:
    """The page from a heading to the next one."""
    return re.split(r"\n#{2,3} ", PAGE.partition(heading)[2])[0]


@pytest.mark.parametrize(("heading", "sections"), SECTIONS.items())
def test_the_page_lists_exactly_the_settings_of_a_section(heading: str, sections: tuple[type, ...]) -> None:
    rows = [line.split("|")[1] for line in part(heading).splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == defaults(*sections).keys() - {"token"}


@pytest.mark.parametrize(("heading", "sections"), SECTIONS.items())
def test_the_page_tells_the_defaults_that_are_in_force(heading: str, sections: tuple[type, ...]) -> None:
    for name, default in defaults(*sections).items():
        if isinstance(default, bool | int | float):
            rows = [line for line in part(heading).splitlines() if line.startswith("| `")]
            row = next(line for line in rows if f"`{name}`" in line.split("|")[1])
            assert f"`{str(default).lower()}`" in row.replace('"', ""), f"{name}: {default}"
