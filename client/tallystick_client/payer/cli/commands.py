"""The payer's commands of `tallystick`: look after a wallet, and pay for one URL."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
import httpx2

from tallystick.errors import Described, MalformedError, TallystickError
from tallystick.hexadecimal import checksum, to_hex
from tallystick.keys import PASSWORD_VARIABLE, create_keystore
from tallystick_client.cli import EXIT_CONFIGURATION, EXIT_FAILED
from tallystick_client.payer.cli.approvals import approve_token
from tallystick_client.payer.cli.giving_back import refund_all
from tallystick_client.payer.cli.options import JSON, OpenWallet, with_existing_wallet, with_wallet
from tallystick_client.payer.cli.status_text import print_status
from tallystick_client.payer.cli.withdrawals import Step, withdraw_all
from tallystick_client.payer.http.receipts import payment_of
from tallystick_client.payer.http.transport import PayingTransport
from tallystick_client.payer.policy.answers import told_error
from tallystick_client.payer.policy.budgets import Budgets, DepositPolicy
from tallystick_client.payer.policy.offers import preference
from tallystick_client.payer.texts import show
from tallystick_client.payer.wallet.schemes.port import Scheme
from tallystick_client.payer.wallet.wallet import RECONCILE_EVERY_S


@click.group()
def wallet() -> None:
    """Look after a payer's wallet: its deposits, its book, its money back.

    A wallet is a key, and a book that only one process opens at a time. The options can also be set as
    TALLYSTICK_WALLET, TALLYSTICK_KEY and TALLYSTICK_OPERATOR.
    """


@wallet.command()
@click.argument("keystore", default="wallet.key.json", type=click.Path(path_type=Path, dir_okay=False))
@JSON
def create(keystore: Path, as_json: bool) -> None:
    """Make a new key in an encrypted KEYSTORE, and say its address.

    The password is asked for, or taken from TALLYSTICK_KEYSTORE_PASSWORD.

    \b
    tallystick wallet create wallet.key.json
    """
    password = os.environ.get(PASSWORD_VARIABLE) or click.prompt("Password", hide_input=True, confirmation_prompt=True)
    try:
        address = checksum(create_keystore(keystore, password))
    except (OSError, TallystickError) as error:
        reason = "it exists already" if isinstance(error, FileExistsError) else error
        click.echo(f"tallystick: the keystore {keystore} was not written: {reason}", err=True)
        sys.exit(EXIT_CONFIGURATION)
    if as_json:
        click.echo(json.dumps({"address": address, "key": f"keystore:{keystore}"}))
    else:
        click.echo(f"{address}\nSend it the tokens that it may spend, and use it as --key keystore:{keystore}")


@wallet.command()
@JSON
@with_existing_wallet
async def status(open_wallet: OpenWallet, as_json: bool) -> None:
    """Show the book: what was deposited, charged, and is still free. Asks nobody.

    Per seller: charged, as its answers or the aggregator say; granted, to requests or workers that may spend it;
    unknown, sent and never answered, which counts as spent until it is reconciled; disputed, charged beyond what this
    wallet ever sent; and signed, the sum that vouchers are signed up to. A deposit or refund that is under way is
    shown, and what was signed for exact transfers. Text shortens ids and addresses, and leaves unknown and disputed out
    where there is nothing of them.

    A channel with one seller alone shows what was deposited into it and came back, what its seller charged, the total
    that its highest voucher allows (signed), and what is left of the deposit.

    \b
    tallystick wallet status --key env:PAYER_KEY
    """
    async with await open_wallet() as opened:
        found = await opened.status()
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
        return
    print_status(found)


# A negative amount is told as one, not as an option that there is not.
@wallet.command(context_settings={"ignore_unknown_options": True})
@click.argument("amount")
@with_wallet
async def deposit(open_wallet: OpenWallet, amount: str) -> None:
    """Deposit as much as brings the account up to AMOUNT (in the token's unit), without gas.

    Where the payer's address holds less than that, nothing is deposited.

    \b
    tallystick wallet deposit 2
    """
    policy = DepositPolicy(low=amount, high=amount)
    async with await open_wallet(amounts={"AMOUNT": amount}, deposit=policy) as opened:
        await opened.deposit()
        for account in (await opened.status()).accounts:
            free = show(account.free, account.decimals, account.symbol)
            click.echo(f"{free} free at {account.operator} on {account.network}")


@wallet.command()
@JSON
@with_existing_wallet
async def refund(open_wallet: OpenWallet, as_json: bool) -> None:
    """Bring back all that is not owed to sellers: at once, and without gas.

    From accounts by their operator; from channels with one seller alone by that seller, each asked at its site.

    \b
    tallystick wallet refund --json
    """
    async with await open_wallet() as opened:
        refunds = await refund_all(opened)
        has_any = bool(opened.accounts() or opened.channels.known)
    if as_json:
        click.echo(json.dumps([refunded.as_dict() for refunded in refunds], indent=2))
    for refunded in refunds:
        if refunded.problem or not as_json:
            click.echo(str(refunded), err=bool(refunded.problem))
    if not refunds and not as_json:
        click.echo("Nothing to bring back." if has_any else "No account or channel yet: nothing to bring back.")
    if any(refunded.problem for refunded in refunds):
        sys.exit(EXIT_FAILED)


@wallet.command()
@JSON
@with_existing_wallet
async def reconcile(open_wallet: OpenWallet, as_json: bool) -> None:
    """Learn what became of payments whose answer was lost.

    \b
    tallystick wallet reconcile
    """
    async with await open_wallet() as opened:
        result = await opened.reconcile()
    if as_json:
        fields = {name: getattr(result, name) for name in ("freed", "charged", "unknown", "disputed")}
        click.echo(json.dumps(fields, indent=2))
    else:
        click.echo(
            f"charged {result.charged}, free again {result.freed}, still unknown {result.unknown}, "
            f"disputed {result.disputed} (atomic units)"
        )


@wallet.command()
@click.option(
    "--rpc", required=True, envvar="TALLYSTICK_RPC", show_envvar=True, metavar="URL", help="A node of the chain."
)
@click.option("--finalize", is_flag=True, help="Take the money, after the delay.")
@click.option("--cancel", is_flag=True, help="Give the withdrawal up.")
@JSON
@with_existing_wallet
async def withdraw(open_wallet: OpenWallet, rpc: str, finalize: bool, cancel: bool, as_json: bool) -> None:
    """Leave without the operator: by the payer's own transactions, after the account's delay. Needs gas.

    Without --finalize or --cancel it starts to withdraw everything. What was charged is paid first. Channels with one
    seller alone are withdrawn from, too; their contract has no way to give that up.

    \b
    tallystick wallet withdraw --rpc https://rpc.example
    tallystick wallet withdraw --rpc https://rpc.example --finalize
    """
    if finalize and cancel:
        raise MalformedError("--finalize, --cancel", Described("both"), "one of them, or neither to start")
    step: Step = "finalize" if finalize else "cancel" if cancel else "initiate"
    async with await open_wallet() as opened:
        steps = await withdraw_all(opened, rpc, step)
    if as_json:
        click.echo(json.dumps([taken.as_dict() for taken in steps], indent=2))
    for taken in steps:
        if taken.problem or not as_json:
            click.echo(str(taken), err=bool(taken.problem))
    if not steps and not as_json:
        click.echo(f"No account {'holds anything' if step == 'initiate' else 'is being withdrawn'}: nothing to do.")
    if any(taken.problem for taken in steps):
        sys.exit(EXIT_FAILED)


@wallet.command()
@click.option(
    "--rpc", required=True, envvar="TALLYSTICK_RPC", show_envvar=True, metavar="URL", help="A node of the chain."
)
@click.option("--token", required=True, metavar="SYMBOL", help="Which of the allow-list's tokens.")
@click.option("--amount", metavar="PRICE", help='As in "20 USDC". Left out: everything; each payment is signed anyway.')
@JSON
@with_existing_wallet
async def approve(open_wallet: OpenWallet, rpc: str, token: str, amount: str | None, as_json: bool) -> None:
    """Let Permit2 move a token as far as the payer signs for it: once, before payments by Permit2. Needs gas.

    \b
    tallystick wallet approve --rpc https://rpc.example --token USDC
    """
    async with await open_wallet() as opened:
        transaction = await approve_token(opened, rpc, token, amount)
    click.echo(json.dumps({"transaction": to_hex(transaction)}) if as_json else f"approved in {to_hex(transaction)}")


def _file(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _certificate(chain: str | None, key: str | None) -> tuple[bytes | None, bytes | None]:
    if (chain is None) != (key is None):
        raise MalformedError("--tls-cert, --tls-key", "one of them", "both or neither")
    return _file(chain), _file(key)


_PEM: Final = click.Path(exists=True, dir_okay=False)


@wallet.command()
@click.option("--listen", default="127.0.0.1:7410", show_default=True, metavar="HOST:PORT|unix:PATH")
@click.option(
    "--token", default="env:TALLYSTICK_WALLET_TOKEN", show_default=True, metavar="REF",
    help="What workers have to show: env:NAME or file:PATH.",
)  # fmt: skip
@click.option("--per-request", metavar="AMOUNT", help="Budget, in the token's unit.")
@click.option("--per-host", metavar="AMOUNT", help="Budget, in the token's unit.")
@click.option("--per-day", metavar="AMOUNT", help="Budget, in the token's unit.")
@click.option("--total", metavar="AMOUNT", help="Budget, in the token's unit.")
@click.option("--deposit-low", metavar="AMOUNT", default="0", help="Deposit when less than this is left.")
@click.option("--deposit-high", metavar="AMOUNT", help="Deposit up to this; without it, no deposit is made.")
@click.option("--max-headroom", default=64, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--approve-every", default=0.0, metavar="SECONDS", help="Approve the totals of the next claim so often.")
@click.option(
    "--lease", default=30.0, show_default=True, metavar="SECONDS", help="Silence that means a worker is dead."
)
@click.option("--tls-cert", type=_PEM, help="The server's certificate chain (PEM).")
@click.option("--tls-key", type=_PEM, help="Its private key (PEM).")
@click.option("--tls-client-ca", type=_PEM, help="Workers must show a certificate of this authority (PEM).")
@click.option("--insecure", is_flag=True, help="Plain text beyond this machine.")
@with_wallet
async def serve(
    open_wallet: OpenWallet,
    listen: str,
    token: str,
    per_request: str | None,
    per_host: str | None,
    per_day: str | None,
    total: str | None,
    deposit_low: str,
    deposit_high: str | None,
    max_headroom: int,
    approve_every: float,
    lease: float,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    insecure: bool,
) -> None:
    """Serve this wallet to workers on many machines: one deposit, one book, one budget.

    Workers use `await Wallet.connect("HOST:PORT", token="env:...")`. Prints "listening on ..." once it takes calls.

    \b
    tallystick wallet serve --listen unix:wallet.sock --per-day 5 --deposit-high 10
    """
    from tallystick_client.payer.fleet.serving import ServerCredentials, WalletServer  # noqa: PLC0415
    from tallystick_client.rpc import read_token  # noqa: PLC0415

    chain, key = _certificate(tls_cert, tls_key)
    tls = ServerCredentials(chain, key, _file(tls_client_ca)) if chain and key else None
    opened = await open_wallet(
        amounts={
            "--per-request": per_request,
            "--per-host": per_host,
            "--per-day": per_day,
            "--total": total,
            "--deposit-low": deposit_low,
            "--deposit-high": deposit_high,
        },
        budgets=Budgets(per_request, per_host, per_day, total),
        deposit=DepositPolicy(deposit_low, deposit_high) if deposit_high is not None else None,
        max_headroom=max_headroom,
        approve_every_s=approve_every,
        reconcile_every_s=RECONCILE_EVERY_S,
        keep_workers=True,
    )
    stopped = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    async with (
        opened,
        WalletServer(opened, listen, read_token(token), credentials=tls, insecure=insecure, lease_s=lease) as server,
    ):
        click.echo(f"listening on {server.target}")
        await stopped.wait()


@click.command()
@click.argument("url")
@click.option("--max-price", metavar="AMOUNT", help="The most that the page may cost, in the token's unit.")
@click.option("--deposit", "deposit_", metavar="AMOUNT", help="Deposit up to this much where it is not covered yet.")
@click.option("-X", "--method", default="GET", show_default=True)
@click.option("-d", "--data", help="A body to send.")
@click.option("-v", "--verbose", is_flag=True, help="Say on standard error what it cost.")
@click.option("--allow-http", is_flag=True, help="Pay over plain http too, where anybody between can take the payment.")
@with_wallet
async def fetch(
    open_wallet: OpenWallet,
    url: str,
    max_price: str | None,
    deposit_: str | None,
    method: str,
    data: str | None,
    verbose: bool,
    allow_http: bool,
) -> None:
    """Fetch one URL, pay for it if it asks, and print its body.

    \b
    tallystick fetch https://example.org/articles/1 --max-price 0.01
    """
    opened = await open_wallet(
        amounts={"--max-price": max_price, "--deposit": deposit_},
        budgets=Budgets(per_request=max_price),
        deposit=DepositPolicy(low=0, high=deposit_) if deposit_ is not None else None,
    )
    transport = PayingTransport(opened, require_https=not allow_http)
    async with opened, httpx2.AsyncClient(transport=transport, follow_redirects=True) as http:
        try:
            response = await http.request(method, url, content=data)
        except httpx2.InvalidURL as error:
            raise MalformedError("url", url, f"a URL of http or https ({error})") from None
    if verbose:
        click.echo(_cost(response, opened.schemes), err=True)
    sys.stdout.buffer.write(response.content)
    ends_open = not response.content.endswith(b"\n") and sys.stdout.isatty()
    if response.is_error or ends_open:
        sys.stdout.buffer.write(b"\n")
    if response.is_error:
        sys.stdout.flush()
        why = told_error(response.headers)
        click.echo(f"tallystick: {url} answered {response.status_code}{': ' if why else ''}{why}", err=True)
        sys.exit(EXIT_FAILED)


def _cost(response: httpx2.Response, schemes: Mapping[str, Scheme]) -> str:
    receipt = payment_of(response)
    if receipt is None:
        return "it cost nothing"
    token = receipt.offer.token
    why = preference(receipt.offer, schemes)
    by = f"by {receipt.scheme}" + (f"\npaid by {why}" if why else "")
    if receipt.charged is None:
        return f"it cost at most {show(receipt.amount, token.decimals, token.symbol)} {by}"
    return f"it cost {show(receipt.charged, token.decimals, token.symbol)} {by}"
