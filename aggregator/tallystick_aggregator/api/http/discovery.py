"""The port of what /discovery/resources lists (x402 specification v2, §8)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class ResourcePage(NamedTuple):
    """Some of the resources, each as the specification's JSON object, and how many there are."""

    items: Sequence[Mapping[str, Any]]
    total: int


class Resources(Protocol):
    """What can be bought, as far as the aggregator was told."""

    def page(self, kind: str, limit: int, offset: int) -> ResourcePage:
        """Return at most `limit` resources after the first `offset`.

        `kind` is such as "http"; empty: of every kind.
        """
        ...


class NoResources:
    """Nothing is listed."""

    def page(self, kind: str, limit: int, offset: int) -> ResourcePage:
        """See Resources."""
        del kind, limit, offset
        return ResourcePage((), 0)
