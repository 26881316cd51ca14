"""The command `tallystick estimate`. It needs no chain and no aggregator; it asks a node only where it is told one."""

import json
import re
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from textwrap import fill
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from tallystick.errors import MalformedError, describe
from tallystick_client.cli import EXIT_FAILED
from tallystick_client.estimate.costs import (
    DAY_S,
    DEPOSITS_PER_DAY_MAX,
    INTERVAL_S_MIN,
    MILLI,
    PARTIES_MAX,
    REQUESTS_PER_HOUR_MAX,
    Workload,
)
from tallystick_client.estimate.figures import BY_APPROVAL, BY_VOUCHERS, CHAINS
from tallystick_client.estimate.report import (
    MICRO,
    Estimate,
    Prices,
    Row,
    as_dict,
    assumptions,
    heading,
    per_request_table,
    table,
    verdict,
)

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": DAY_S}
_HOURS: Final = 24
_GWEI: Final = 10**9
_WIDTH: Final = 80


Read = Callable[[click.Context, click.Parameter, str | None], int | None]
"""An option's callback: its text read and checked; None where the option was left out."""


def _reads(read: Callable[[str], int | None], allowed: str) -> Read:
    """Have `read` read the text; where it returns None, the error tells what came and what is allowed."""

    def checked(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
        if text is None:
            return None
        value = read(text)
        if value is None:
            raise click.BadParameter(f"got {describe(text)}, allowed {allowed}", context, parameter)
        return value

    return checked


def _count(most: int) -> Read:
    """A whole number from 1 to `most`."""

    def read(text: str) -> int | None:
        return int(text) if re.fullmatch(r"[0-9]{1,12}", text) and 1 <= int(text) <= most else None

    return _reads(read, f"a whole number from 1 to {most:,}")


def _scaled(scale: int, least: Decimal, most: Decimal) -> Read:
    """A decimal from `least` to `most`, as a whole number of its `scale`-th parts."""

    def read(text: str) -> int | None:
        try:
            number = Decimal(text)
        except InvalidOperation:
            return None
        if not number.is_finite() or not least <= number <= most or number * scale % 1:
            return None
        return int(number * scale)

    digits = len(str(scale)) - 1
    return _reads(read, f"a decimal from {least:,f} to {most:,f}, with at most {digits} digits after the point")


def _seconds(text: str) -> int | None:
    """A duration that divides a day, in seconds."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
    return seconds if INTERVAL_S_MIN <= seconds <= DAY_S and DAY_S % seconds == 0 else None


@click.command()
@click.option("--payers", callback=_count(PARTIES_MAX), required=True, metavar="N", help="How many pay.")
@click.option("--sellers", callback=_count(PARTIES_MAX), required=True, metavar="N", help="How many are paid.")
@click.option(
    "--sellers-per-payer",
    callback=_count(PARTIES_MAX),
    metavar="N",
    help="Of these, how many each payer buys from.  [default: all]",
)
@click.option(
    "--requests-per-hour",
    callback=_count(REQUESTS_PER_HOUR_MAX),
    required=True,
    metavar="N",
    help="Paid requests of each payer, to all its sellers together.",
)
@click.option(
    "--interval",
    "interval_s",
    callback=_reads(_seconds, "1m to 1d that divides a day, as in 900s, 15m, 6h, 1d"),
    default="1h",
    show_default=True,
    metavar="TIME",
    help="Between settlements: 15m, 1h, 1d.",
)
@click.option(
    "--deposits-per-day",
    "deposits_milli",
    callback=_scaled(MILLI, Decimal(0), Decimal(DEPOSITS_PER_DAY_MAX)),
    default="1",
    show_default=True,
    metavar="X",
    help="How often each deposit is topped up; 0.1 is every ten days.",
)
@click.option(
    "--claims",
    type=click.Choice(["voucher", "approval"]),
    default="voucher",
    show_default=True,
    help="How rows of deferred are authorised: each alone, or a payer's all at once.",
)
@click.option("--chain", type=click.Choice(sorted(CHAINS)), default="base", show_default=True)
@click.option(
    "--gas-gwei",
    "gas_wei",
    callback=_scaled(_GWEI, Decimal("1e-9"), Decimal(1_000_000)),
    metavar="X",
    help="The price of gas.",
)
@click.option("--rpc-url", metavar="URL", help="A node to ask for the price of gas (eth_gasPrice) instead.")
@click.option(
    "--eth-usd",
    "usd_micro",
    callback=_scaled(MICRO, Decimal("1e-6"), Decimal(10**9)),
    metavar="X",
    help="The price of the chain's coin, in dollars.",
)
@click.option("--json", "as_json", is_flag=True, help="Print data instead of tables.")
def estimate(as_json: bool, **options: Any) -> None:
    """Estimate what a day costs by deferred, by batch-settlement and by exact.

    From measured and published gas, without a chain: what each scheme sends in a day, what that costs, and from how
    many requests deferred is cheapest. Without a price of gas it tells gas alone.

    \b
    tallystick estimate --payers 10 --sellers 100 --requests-per-hour 500 \\
      --gas-gwei 0.01 --eth-usd 3000
    """
    work = _workload(**{name: options[name] for name in _WORK})
    gas_wei, rpc_url, usd_micro = options["gas_wei"], options["rpc_url"], options["usd_micro"]
    if gas_wei is not None and rpc_url is not None:
        raise click.UsageError("--rpc-url: got one beside --gas-gwei, allowed either of the two.")
    if usd_micro is not None and gas_wei is None and rpc_url is None:
        raise click.UsageError("--eth-usd: got one without a price of gas, allowed beside --gas-gwei or --rpc-url.")
    if rpc_url is not None:
        gas_wei = _asked(rpc_url)
    found = Estimate.of(work, options["chain"], Prices(gas_wei, usd_micro))
    if as_json:
        click.echo(json.dumps(as_dict(found), indent=2))
    else:
        _print(found)


_WORK: Final = ("payers", "sellers", "sellers_per_payer", "requests_per_hour", "interval_s", "deposits_milli", "claims")


def _workload(
    *,
    payers: int,
    sellers: int,
    sellers_per_payer: int | None,
    requests_per_hour: int,
    interval_s: int,
    deposits_milli: int,
    claims: str,
) -> Workload:
    if sellers_per_payer is not None and sellers_per_payer > sellers:
        raise click.UsageError(
            f"--sellers-per-payer: got {sellers_per_payer:,}, allowed 1 to {sellers:,}, the number of --sellers."
        )
    return Workload(
        payers=payers,
        sellers=sellers,
        sellers_per_payer=sellers if sellers_per_payer is None else sellers_per_payer,
        requests=_HOURS * requests_per_hour,
        interval_s=interval_s,
        deposits_milli=deposits_milli,
        rows=BY_APPROVAL if claims == "approval" else BY_VOUCHERS,
    )


def _asked(rpc_url: str) -> int:
    # Imported only here: an estimate at a given price needs no HTTP library.
    from tallystick_client.estimate.gas_price import read_gas_price  # noqa: PLC0415

    try:
        return read_gas_price(rpc_url)
    except MalformedError as error:
        click.echo(f"tallystick: {error}", err=True)
        sys.exit(EXIT_FAILED)


def _print(found: Estimate) -> None:
    console = Console(width=_WIDTH, highlight=False, markup=False)
    console.print(heading(found))
    for headings, rows in (table(found), per_request_table(found)):
        console.print()
        _print_table(headings, rows)
    console.print()
    for line in verdict(found):
        console.print(fill(line, _WIDTH))
    console.print("\nAssumptions")
    for line in assumptions(found):
        console.print(fill(line, _WIDTH, initial_indent="- ", subsequent_indent="  "))


def _print_table(headings: Row, rows: list[Row]) -> None:
    """Figures are never cut: where they do not fit 80 columns, the lines are longer."""
    printed = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for at, name in enumerate(headings):
        printed.add_column(name, justify="right" if at else "left", no_wrap=True)
    for row in rows:
        printed.add_row(*row)
    wide = Console(width=10 * _WIDTH, highlight=False, markup=False)
    wide.print(printed)
