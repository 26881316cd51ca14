"""What is wrong with a configuration, in one sentence that names the setting."""

import re
from typing import Final

import msgspec

from tallystick_aggregator.chain.settings import ConfigurationError

SECONDS_MAX: Final = 10 * 365 * 24 * 3_600
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_TYPE: Final = re.compile(r"Expected `(?P<allowed>[^`]+)`, got `(?P<got>[^`]+)`")
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


def _named(types: str) -> str:
    return " or ".join(_NAMES.get(name, name) for name in types.split(" | "))


def between(least: int, value: int, most: int, setting: str) -> None:
    """Raise ConfigurationError unless a setting is in its range."""
    if not least <= value <= most:
        raise ConfigurationError(f"{setting}: got {value}, allowed {least} to {most}")
