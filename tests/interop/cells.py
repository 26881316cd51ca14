"""Which pairs of a client and a server the matrix has for each scheme, and why the other ones cannot be.

This is the one place that says so: `CANNOT` names what a client or a server cannot do. A pair is run where both can.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Scheme = Literal["exact", "permit2", "upto", "deferred", "facilitator-managed", "server-managed"]

SCHEMES: Final[dict[Scheme, str]] = {
    "exact": "exact by ERC-3009",
    "permit2": "exact by Permit2",
    "upto": "upto",
    "deferred": "deferred",
    "facilitator-managed": "batch-settlement, facilitator-managed",
    "server-managed": "batch-settlement, server-managed",
}
CLIENTS: Final = {
    "httpx": "official Python client, httpx",
    "requests": "official Python client, requests",
    "fetch": "npm @x402/fetch",
    "axios": "npm @x402/axios",
    "transport": "Tallystick's transport",
}
SERVERS: Final = {
    "fastapi": "official middleware, FastAPI",
    "flask": "official middleware, Flask",
    "express": "npm @x402/express",
    "paywall": "Tallystick's paywall",
}

CANNOT: Final[Mapping[tuple[str, Scheme], str]] = {
    ("paywall", "server-managed"): "our paywall keeps no vouchers: its aggregator does",
}
"""What a client or server cannot do, by its name and the scheme, and why: a sentence."""


class Cell(NamedTuple):
    """One pair under one scheme; `why_not` is empty where it can exist."""

    client: str
    server: str
    scheme: Scheme
    why_not: str = ""

    @property
    def name(self) -> str:
        """Names it for `--only`."""
        return f"{self.client}-{self.server}-{self.scheme}"


def all_cells(cannot: Mapping[tuple[str, Scheme], str] = CANNOT) -> list[Cell]:
    """Every pair under every scheme, those of one client and scheme together."""
    return [
        Cell(client, server, scheme, cannot.get((client, scheme)) or cannot.get((server, scheme), ""))
        for client in CLIENTS
        for scheme in SCHEMES
        for server in SERVERS
    ]


def covering() -> list[Cell]:
    """A choice of cells in which each client, each server and each scheme is at least once: what CI runs every time."""
    left = {*CLIENTS, *SERVERS, *SCHEMES}
    chosen: list[Cell] = []
    cells = [cell for cell in all_cells() if not cell.why_not]
    while new := max(cells, key=lambda cell: len(left & set(cell[:3]))):
        if not left & set(new[:3]):
            break
        chosen.append(new)
        left -= set(new[:3])
    return chosen
