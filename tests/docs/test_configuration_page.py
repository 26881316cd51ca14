"""The page about the configuration names every setting, and no other."""

import re
from pathlib import Path

import msgspec
import pytest

from tallystick_aggregator.runtime.config import chains, file

PAGE = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
SECTIONS = {
    "`[server]`": file.ServerSection,
    "`[store]`": file.StoreSection,
    "`[settlement]`": file.SettlementSection,
    "`[limits]`": file.LimitsSection,
    "`[[chain]]`": chains.ChainSection,
    "`[[chain.token]]`": chains.TokenSection,
}


def part(heading: str) -> str:
    """The page from a heading to the next one."""
    return re.split(r"\n#{2,3} ", PAGE.partition(heading)[2])[0]


@pytest.mark.parametrize(("heading", "section"), SECTIONS.items())
def test_the_page_lists_exactly_the_settings_of_a_section(heading: str, section: type[msgspec.Struct]) -> None:
    rows = [line.split("|")[1] for line in part(heading).splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == set(section.__struct_fields__) - {"token"}


@pytest.mark.parametrize(("heading", "section"), SECTIONS.items())
def test_the_page_tells_the_defaults_that_are_in_force(heading: str, section: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(section):
        if isinstance(field.default, bool | int | float):
            rows = [line for line in part(heading).splitlines() if line.startswith("| `")]
            row = next(line for line in rows if f"`{field.name}`" in line.split("|")[1])
            assert f"`{str(field.default).lower()}`" in row, f"{field.name}: {field.default}"
