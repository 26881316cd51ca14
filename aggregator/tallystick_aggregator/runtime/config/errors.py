"""What is wrong with a configuration, in one sentence that names the setting."""

import re
from collections.abc import Mapping
from typing import Any, Final, get_type_hints

import msgspec

from tallystick_aggregator.chain.settings import ConfigurationError

_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_TYPE: Final = re.compile(r"Expected `(?P<allowed>[^`]+)`, got `(?P<got>[^`]+)`")
_RANGE: Final = re.compile(r"Expected `\w+` [<>]=? [-\d.e+]+ - at `\$\.(?P<name>\w+)`")
_NAMES: Final = {"object": "a table", "array": "an array", "str": "text", "int": "an integer", "bool": "true or false"}


def what_is_wrong(error: msgspec.ValidationError) -> str:
    """What the TOML library's reader says, in the words of this project; no value is ever shown."""
    message, _, path = str(error).partition(" - at `")
    path = path.removesuffix("`").removeprefix("$").removeprefix(".")
    section = f"{path}." if path else ""
    if match := _UNKNOWN.fullmatch(message):
        return f"{section}{match['name']}: got it, but there is no such setting"
    if match := _MISSING.fullmatch(message):
        return f"{section}{match['name']}: got nothing, but it is needed"
    if match := _TYPE.fullmatch(message):
        return f"{path}: got {_named(match['got'])}, allowed {_named(match['allowed'])}"
    return f"{path}: {message}"


def read_table(table: Mapping[str, Any], section: str, *kinds: type[Any]) -> list[Any]:
    """Read a table into frozen dataclasses, whose annotations say what each setting may be.

    Each takes the settings that it has a field for. Raises ConfigurationError, also for one that none has.
    """
    fields = [get_type_hints(kind, include_extras=True) for kind in kinds]
    for name in table:
        if not any(name in known for known in fields):
            raise ConfigurationError(f"{section}.{name}: got it, but there is no such setting")
    values: list[Any] = []
    for kind, known in zip(kinds, fields, strict=True):
        try:
            values.append(msgspec.convert({name: table[name] for name in known if name in table}, kind))
        except msgspec.ValidationError as error:
            if match := _RANGE.fullmatch(str(error)):
                name = match["name"]
                meta = next(extra for extra in known[name].__metadata__ if isinstance(extra, msgspec.Meta))
                between(meta.ge or 0, table[name], meta.le or 0, f"{section}.{name}")
            raise ConfigurationError(f"{section}.{what_is_wrong(error)}") from None
    return values


def _named(types: str) -> str:
    return " or ".join(_NAMES.get(name, name) for name in types.split(" | "))


def between(least: float, value: float, most: float, setting: str) -> None:
    """Raise ConfigurationError unless a setting is in its range."""
    if not least <= value <= most:
        raise ConfigurationError(f"{setting}: got {value}, allowed {least} to {most}")
