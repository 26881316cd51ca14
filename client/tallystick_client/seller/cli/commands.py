"""The sellers' commands of `tallystick`: what was settled, and settle now."""

import asyncio
import functools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tallystick.errors import MalformedError, TallystickError
from tallystick.hexadecimal import checksum, shorten, to_hex
from tallystick.settlements import LeftOut, Settlement
from tallystick_client.cli import EXIT_CONFIGURATION, EXIT_FAILED
from tallystick_client.rpc import AggregatorError
from tallystick_client.seller.client.aggregator import Aggregator
from tallystick_client.seller.client.messages import SettledNow

Command = Callable[..., Awaitable[Sequence[Settlement]]]


def _prints_settlements(*, none: str) -> Callable[[Command], Callable[..., None]]:
    """Give a command the options that reach an aggregator, run it, and print the settlements that it returns, or `none`
    if there are none.
    """
    return lambda command: _with_aggregator(command, none)


def _with_aggregator(command: Command, none: str) -> Callable[..., None]:
    @click.option("--aggregator", "target", default="127.0.0.1:7402", show_default=True, metavar="HOST:PORT")
    @click.option(
        "--token",
        default="env:TALLYSTICK_TOKEN",
        show_default=True,
        metavar="REF",
        help="The seller's token: env:NAME or file:PATH.",
    )
    @click.option("--insecure", is_flag=True, help="Plain text to a host that is not this one.")
    @click.option(
        "--json", "as_json", is_flag=True, help="Print data instead of a table; addresses and hashes in full."
    )
    @functools.wraps(command)
    def run(target: str, token: str, insecure: bool, as_json: bool, **options: object) -> None:
        async def connect_and_run() -> Sequence[Settlement]:
            async with Aggregator(target, token=token, insecure=insecure) as aggregator:
                return await command(aggregator, **options)

        try:
            settlements = asyncio.run(connect_and_run())
        except AggregatorError as error:
            click.echo(f"tallystick: {target}: {error}", err=True)
            sys.exit(EXIT_FAILED)
        except TallystickError as error:
            click.echo(f"tallystick: {error}", err=True)
            sys.exit(EXIT_CONFIGURATION if isinstance(error, MalformedError) else EXIT_FAILED)
        left_out = settlements.left_out if isinstance(settlements, SettledNow) else []
        if as_json:
            click.echo(json.dumps([_as_json(settlement) for settlement in settlements], indent=2))
        elif settlements:
            _print_table(settlements)
        elif not left_out:
            click.echo(none)
        for one in left_out:
            click.echo(f"tallystick: not claimed: {_described(one)}", err=True)
        if left_out and not settlements:
            sys.exit(EXIT_FAILED)

    return run


@click.command()
@_prints_settlements(none="Nothing waits to be settled; `tallystick settlements` lists what was paid before.")
async def settle(aggregator: Aggregator) -> SettledNow:
    """Claim now what is owed to the token's receivers, and wait until it is on chain.

    What is owed and could not be claimed is named with its reason.
    """
    return await aggregator.settle_now()


@click.command()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1_000))
@_prints_settlements(none="No settlements: nothing was paid to this token's receivers yet.")
async def settlements(aggregator: Aggregator, limit: int) -> list[Settlement]:
    """List the settlements that paid the token's receivers, newest first."""
    return await aggregator.list_settlements(limit=limit)


def _print_table(found: Sequence[Settlement]) -> None:
    """One line for each payout, in 80 columns; addresses and hashes in short, as --json has them whole."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("id", justify="right", no_wrap=True)
    for heading in ("network", "status"):
        table.add_column(heading, no_wrap=True)
    table.add_column("when (UTC)")  # gives way where amounts are long; these are never cut
    table.add_column("atomic units", justify="right", overflow="fold")
    for heading in ("to", "transaction"):
        table.add_column(heading, no_wrap=True)
    for settlement in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(settlement.created_at))
        for payout in settlement.payouts:
            table.add_row(
                str(settlement.id),
                settlement.network,
                settlement.status.name.lower(),
                when,
                f"{payout.amount:,}",
                shorten(checksum(payout.receiver)),
                shorten(to_hex(settlement.transaction)),
            )
    Console().print(table)


def _described(left_out: LeftOut) -> str:
    return (
        f"{left_out.amount:,} atomic units of {checksum(left_out.token)} to {checksum(left_out.receiver)}"
        f" on {left_out.network}: {left_out.reason}"
    )


def _as_json(settlement: Settlement) -> dict[str, Any]:
    return {
        "id": settlement.id,
        "network": settlement.network,
        "transaction": to_hex(settlement.transaction),
        "status": settlement.status.name.lower(),
        "created_at": settlement.created_at,
        "block_number": settlement.block_number,
        "gas_used": settlement.gas_used,
        "rows": settlement.rows,
        "payouts": [
            {"receiver": checksum(payout.receiver), "token": checksum(payout.token), "amount": str(payout.amount)}
            for payout in settlement.payouts
        ],
    }
