"""The `[http]` table of the configuration: the HTTP edge, which there is only where the table is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tallystick_aggregator.api.http.limits import HttpLimits
from tallystick_aggregator.runtime.config.errors import between, read_table

DEFAULT_LISTEN: Final = "127.0.0.1:8402"


@dataclass(frozen=True, slots=True)
class _HttpSection:
    listen: str = DEFAULT_LISTEN


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where it listens, and its limits."""

    listen: str
    limits: HttpLimits


def read_http(table: Mapping[str, Any], check_listen: Callable[[str, str, str], None]) -> HttpSettings:
    """Read the table; raises ConfigurationError. `check_listen` checks an address, the setting's name, an example."""
    section, limits = read_table(table, "http", _HttpSection, HttpLimits)
    check_listen(section.listen, "http.listen", DEFAULT_LISTEN)
    between(1, limits.requests_per_seller_max, limits.requests_max, "http.requests_per_seller_max")
    between(1, limits.requests_of_strangers_max, limits.requests_max, "http.requests_of_strangers_max")
    return HttpSettings(section.listen, limits)
