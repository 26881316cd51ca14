"""The operator's commands of `tallystick`, registered as entry points (`tallystick.commands`)."""

import asyncio
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from tallystick.errors import MalformedError
from tallystick_aggregator.chain.settings import ConfigurationError
from tallystick_aggregator.config import DEFAULT_LISTEN

EXIT_CONFIGURATION = 2


def fail(error: Exception) -> NoReturn:
    """One sentence on standard error, and the exit code for what the caller has to change."""
    click.echo(f"tallystick: {error}", err=True)
    sys.exit(EXIT_CONFIGURATION)


@click.command()
@click.option("--rpc", "rpc_url", required=True, metavar="URL", help="A JSON-RPC endpoint of the chain.")
@click.option("--sender-key", metavar="REF", help="Pays for gas: keystore:PATH, file:PATH or env:NAME.")
@click.option(
    "--operator-key",
    metavar="REF",
    help="The operator's identity on chain, the receiverAuthorizer of all channels. Keep it apart from the sender's.",
)
@click.option("--token", metavar="ADDRESS", help="The token of deposits: an ERC-20 with ERC-3009, such as USDC.")
@click.option("--dev", is_flag=True, help="On a development chain: a test token, and the keys that such chains have.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=".", show_default=True)
@click.option("--listen", default=DEFAULT_LISTEN, show_default=True, metavar="HOST:PORT", help="Where serve listens.")
@click.option("--interval", "interval_s", default=3_600, show_default=True, metavar="S", help="Between settlements.")
@click.option("--withdraw-delay", "withdraw_delay_s", default=86_400, show_default=True, metavar="S")
@click.option("--min-deposit", default="0", show_default=True, metavar="AMOUNT", help="In atomic units.")
def deploy(dev: bool, out: Path, **options: Any) -> None:
    r"""Deploy the escrow to a chain and write aggregator.toml and operator.json.

    \b
    tallystick deploy --dev --rpc http://127.0.0.1:8545 --out playground
    tallystick deploy --rpc https://… --token 0x… --sender-key keystore:gas.json --operator-key keystore:operator.json
    """
    # Here, because web3 takes most of a second to import.
    from tallystick_aggregator.deploy import Plan, carry_out  # noqa: PLC0415

    try:
        plan = Plan.of_dev_chain(**options) if dev else Plan.of_options(**options)
        asyncio.run(carry_out(plan, out, click.echo))
    except (ConfigurationError, MalformedError) as error:
        fail(error)
