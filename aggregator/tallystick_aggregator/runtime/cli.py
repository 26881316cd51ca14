"""The operator's commands of `tallystick`, registered as entry points (`tallystick.commands`)."""

import asyncio
import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum, parse_address
from tallystick.origins import parse_origin
from tallystick_aggregator.auth.credentials import Credentials, CredentialsError, Listed, Scope
from tallystick_aggregator.chain.settings import ConfigurationError
from tallystick_aggregator.runtime.config.chains import DEFAULT_WITHDRAW_DELAY_S
from tallystick_aggregator.runtime.config.file import DEFAULT_INTERVAL_S, DEFAULT_LISTEN, Config

EXIT_CONFIGURATION = 2
_FILE = click.Path(path_type=Path, dir_okay=False)


def fail(error: Exception) -> NoReturn:
    """One sentence on standard error, and the exit code for what the caller has to change."""
    click.echo(f"tallystick: {error}", err=True)
    sys.exit(EXIT_CONFIGURATION)


@click.command()
@click.option(
    "--config",
    "config_path",
    type=_FILE,
    default="aggregator.toml",
    show_default=True,
    help="The configuration; `tallystick deploy` writes one.",
)
def serve(config_path: Path) -> None:
    """Run the aggregator until it is told to stop (Ctrl-C or SIGTERM).

    Prints "listening on HOST:PORT" once it takes calls, and before that "HTTP facilitator at URL" where the
    configuration has a table [http]; its log goes to standard error.

    \b
    tallystick serve --config playground/aggregator.toml
    """
    # Before gRPC's core starts; measured to make single calls a sixth cheaper.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from tallystick_aggregator.runtime.serve import StartError, run  # noqa: PLC0415

    try:
        code = run(config_path, click.echo)
    except StartError as error:
        fail(error)
    sys.exit(code)


_config_option = click.option(
    "--config",
    "config_path",
    type=_FILE,
    default="aggregator.toml",
    show_default=True,
    help="The aggregator's configuration: it tells where the tokens are kept.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print data instead of text.")


@click.group()
def seller() -> None:
    """Sellers' tokens: who may charge, read and settle for which receivers.

    They take effect within a second, while the aggregator runs.
    """


@seller.command("add")
@click.argument("name")
@click.option(
    "--receiver", "receivers", multiple=True, required=True, metavar="ADDRESS", help="Who is paid; repeatable."
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What the token is for; repeatable. Default: all.",
)
@click.option(
    "--origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="An origin, such as https://news.example, whose resources it may have listed; repeatable.",
)
@_config_option
@_json_option
def seller_add(
    name: str,
    receivers: tuple[str, ...],
    scopes: tuple[str, ...],
    origins: tuple[str, ...],
    config_path: Path,
    as_json: bool,
) -> None:
    """Make a seller and print its token, this once.

    \b
    tallystick seller add news --receiver 0x… --scope charge --scope read
    """
    with _credentials(config_path) as credentials:
        addresses = [parse_address(receiver, "--receiver") for receiver in receivers]
        bound = [parse_origin(origin, "--origin") for origin in origins]
        token = credentials.add(name, addresses, [Scope(scope) for scope in scopes] or list(Scope), bound)
    _print_token(name, token, as_json=as_json)


@seller.command("origins")
@click.argument("name")
@click.argument("origins", nargs=-1, metavar="[URL]...")
@_config_option
def seller_origins(name: str, origins: tuple[str, ...], config_path: Path) -> None:
    """Say of which origins a seller may have resources listed at /discovery/resources: of these and no others.

    \b
    tallystick seller origins news https://news.example https://www.news.example
    """
    with _credentials(config_path) as credentials:
        bound = sorted({parse_origin(origin, "URL") for origin in origins})
        credentials.bind(name, bound)
    click.echo(f"{name} may list {' '.join(bound) or 'nothing'}")


@seller.command("rotate")
@click.argument("name")
@click.option(
    "--grace",
    "grace_s",
    type=float,
    default=0.0,
    show_default=True,
    metavar="S",
    help="How long the old token stays good.",
)
@_config_option
@_json_option
def seller_rotate(name: str, grace_s: float, config_path: Path, as_json: bool) -> None:
    """Make a new token for a seller and print it, this once.

    \b
    tallystick seller rotate news --grace 3600
    """
    with _credentials(config_path) as credentials:
        token = credentials.rotate(name, grace_s)
    _print_token(name, token, as_json=as_json)


@seller.command("revoke")
@click.argument("name")
@_config_option
def seller_revoke(name: str, config_path: Path) -> None:
    """End all tokens of a seller, for good."""
    with _credentials(config_path) as credentials:
        credentials.revoke(name)
    click.echo(f"revoked {name}")


@seller.command("list")
@_config_option
@_json_option
def seller_list(config_path: Path, as_json: bool) -> None:
    """List all sellers, revoked ones included."""
    with _credentials(config_path) as credentials:
        listed = credentials.list()
    if as_json:
        click.echo(json.dumps([_described(one) for one in listed], indent=2))
        return
    for one in listed:
        described = _described(one)
        tokens = "1 token" if one.tokens == 1 else f"{one.tokens} tokens"
        state = f"revoked {described['revoked_at']}" if one.revoked_at else tokens
        click.echo(f"{described['name']}  {' '.join(described['receivers'])}  {','.join(described['scopes'])}  {state}")
        for origin in described["origins"]:
            click.echo(f"  lists {origin}")


def _described(one: Listed) -> dict[str, Any]:
    return {
        "name": one.principal.name,
        "receivers": sorted(checksum(receiver) for receiver in one.principal.receivers),
        "scopes": sorted(scope.value for scope in one.principal.scopes),
        "origins": sorted(one.origins),
        "created_at": one.created_at,
        "revoked_at": one.revoked_at,
        "tokens": one.tokens,
    }


def _print_token(name: str, token: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"name": name, "token": token}))
        return
    if sys.stdout.isatty():
        click.echo(f"The token of {name}, shown this once:", err=True)
    else:
        click.echo(f"The token of {name} went to standard output; it is not shown again.", err=True)
    click.echo(token)  # alone on standard output, so that a shell can take it into a variable


@contextmanager
def _credentials(config_path: Path) -> Generator[Credentials, None, None]:
    """Open the file of tokens; what goes wrong ends the command with one sentence."""
    try:
        credentials = Credentials.open(Config.load(config_path, with_keys=False).credentials_path)
        try:
            yield credentials
        finally:
            credentials.close()
    except (ConfigurationError, CredentialsError, MalformedError) as error:
        fail(error)


@click.command()
@click.option("--rpc", "rpc_url", required=True, metavar="URL", help="A JSON-RPC endpoint of the chain, or env:NAME.")
@click.option("--sender-key", metavar="REF", help="Pays for gas: keystore:PATH, file:PATH or env:NAME.")
@click.option(
    "--operator-key",
    metavar="REF",
    help="The operator's identity on chain, the receiverAuthorizer of all channels. Not the sender's key.",
)
@click.option("--token", metavar="ADDRESS", help="The token of deposits: an ERC-20 with ERC-3009, such as USDC.")
@click.option("--dev", is_flag=True, help="On a development chain: a test token, and the keys that such chains have.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=".", show_default=True)
@click.option("--listen", default=DEFAULT_LISTEN, show_default=True, metavar="HOST:PORT", help="Where serve listens.")
@click.option("--public", metavar="HOST:PORT", help="Where payers reach it. Default: where it listens.")
@click.option(
    "--tls-certificate",
    type=_FILE,
    help="PEM; serve needs one beyond loopback. Of an authority of your own: payers set ca_file in operator.json.",
)
@click.option("--tls-key", type=_FILE, help="Of the certificate.")
@click.option("--insecure", is_flag=True, help="Listen in plain text beyond loopback: something in front does TLS.")
@click.option(
    "--interval", "interval_s", default=DEFAULT_INTERVAL_S, show_default=True, metavar="S", help="Between settlements."
)
@click.option(
    "--withdraw-delay",
    "withdraw_delay_s",
    default=DEFAULT_WITHDRAW_DELAY_S,
    show_default=True,
    metavar="S",
    help="How long payers wait who leave by themselves; more than two intervals.",
)
@click.option("--min-deposit", metavar="AMOUNT", help="In atomic units.  [default: one whole token]")
def deploy(dev: bool, listen: str, public: str | None, **options: Any) -> None:
    """Deploy the escrow to a chain and write aggregator.toml and operator.json.

    \b
    tallystick deploy --dev --rpc http://127.0.0.1:8545 --out playground
    tallystick deploy --rpc https://… --token 0x… \\
        --sender-key keystore:gas.json --operator-key keystore:operator.json \\
        --listen 0.0.0.0:7402 --public pay.example:7402 \\
        --tls-certificate pay.pem --tls-key pay.key
    """
    # Here, because web3 takes most of a second to import.
    from tallystick_aggregator.runtime.deploy import Plan, carry_out, payers_reach  # noqa: PLC0415

    try:
        options |= {"listen": listen, "public": payers_reach(listen, public)}
        plan = Plan.of_options(dev=dev, **options)
        asyncio.run(carry_out(plan, click.echo))
    except (ConfigurationError, MalformedError) as error:
        fail(error)
