"""What the demo found, as data and as a table."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

UNIT = 1_000_000
"""Atomic units in one USDC."""


@dataclass
class Seller:
    """One seller: what the aggregator charged for it, and what its address received on chain."""

    name: str
    address: str
    price: str
    charged: int
    charged_exact: int
    received_onchain: int


@dataclass
class Payer:
    """One payer: what it deposited, what its own book says it spent, what came back to its address."""

    name: str
    address: str
    scheme: str
    requests: int = 0
    deposits: int = 0
    deposited: int = 0
    spent: int = 0
    returned: int = 0
    returned_by: str = ""


@dataclass
class Report:
    """All figures of one run. Amounts in atomic units, gas in units of gas."""

    sellers: list[Seller]
    payers: list[Payer]
    """Those who deposited."""
    exact_payer: Payer
    charges: int
    refused: int
    max_in_flight: int
    exact_payments: int
    transactions: int
    transactions_by_kind: dict[str, int]
    gas_by_kind: dict[str, int]
    gas_used: int
    gas_per_charge: float
    exact_gas: int
    times_cheaper: float
    charges_per_s: float
    latency_ms: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """The same as data."""
        return asdict(self)

    def problems(self) -> list[str]:
        """What does not add up; empty is what everybody wants."""
        wrong = [
            f"{seller.name}: charged {seller.charged}, received {seller.received_onchain}"
            for seller in self.sellers
            if seller.charged != seller.received_onchain
        ]
        for payer in self.payers:
            if payer.deposited != payer.spent + payer.returned:
                wrong.append(
                    f"{payer.name}: deposited {payer.deposited}, spent {payer.spent} and got {payer.returned} back"
                )
            if payer.deposits != 1:
                wrong.append(f"{payer.name}: {payer.deposits} deposits instead of one")
        if self.refused:
            wrong.append(f"{self.refused} requests were refused")
        return wrong


def show(report: Report, console: Console) -> None:
    """Print the tables."""
    sellers = Table("seller", "price", "charged", "received on chain", title="Sellers", title_justify="left")
    for seller in report.sellers:
        sellers.add_row(seller.name, seller.price, usdc(seller.charged), usdc(seller.received_onchain))
    payers = Table(
        "payer", "pays by", "pages", "deposited", "spent", "returned", "by", title="Payers", title_justify="left"
    )
    for payer in (*report.payers, report.exact_payer):
        payers.add_row(
            payer.name,
            payer.scheme,
            f"{payer.requests:,}",
            usdc(payer.deposited) if payer.deposits else "-",
            usdc(payer.spent),
            usdc(payer.returned) if payer.deposits else "-",
            payer.returned_by,
        )
    for column in (2, 3):
        sellers.columns[column].justify = "right"
    for column in (2, 3, 4, 5):
        payers.columns[column].justify = "right"
    gas = Table("transactions", "number", "gas", title="On chain", title_justify="left")
    for kind, number in report.transactions_by_kind.items():
        gas.add_row(kind, str(number), f"{report.gas_by_kind[kind]:,}")
    gas.columns[1].justify = gas.columns[2].justify = "right"
    console.print(sellers, payers, gas, sep="\n")
    latency = report.latency_ms
    console.print(
        f"[bold]{report.gas_per_charge:,.0f} gas a request[/], deposits, claims and refunds included; "
        f"exact takes {report.exact_gas:,}: [bold]{report.times_cheaper:,.0f} times less[/].\n"
        f"{report.charges:,} charges at {report.charges_per_s:,.0f} a second, "
        f"latency {latency['p50']:.0f} ms (median), {latency['p95']:.0f} ms (p95), {latency['p99']:.0f} ms (p99); "
        f"up to {report.max_in_flight} in flight on one channel, {report.refused} refused."
    )


def usdc(amount: int) -> str:
    """Atomic units as a decimal figure."""
    return f"{amount // UNIT:,}.{amount % UNIT:06d}"
