"""The status of a wallet on a terminal of 80 columns. Ids and addresses are shortened; `--json` has them whole."""

from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tallystick.hexadecimal import shorten
from tallystick_client.payer.texts import show, show_time
from tallystick_client.payer.wallet.status import AccountStatus, SellerChannelStatus, WalletStatus

_NO_DEPOSIT: Final = (
    "No deposit yet: each payment is an exact transfer of its own.\n"
    "`tallystick wallet deposit AMOUNT` makes a deposit that pays all sellers;\n"
    "`tallystick fetch URL --deposit AMOUNT` makes it with a payment."
)


def print_status(found: WalletStatus) -> None:
    """Print it."""
    click.echo(f"payer {found.payer}")
    # An account that was never deposited into is a place in the book, and nothing on chain.
    accounts = [account for account in found.accounts if account.deposited or account.deposits_under_way]
    if not accounts and not found.seller_channels:
        click.echo(_NO_DEPOSIT)
    for account in accounts:
        _print_account(account)
    for channel in found.seller_channels:
        _print_seller_channel(channel)
    for spent in found.exact:
        click.echo(f"signed for exact transfers {show(spent.paid, spent.decimals, spent.symbol)} on {spent.network}")


def _print_account(account: AccountStatus) -> None:
    where = f"operator {shorten(account.operator)} on {account.network}"
    click.echo(f"account {shorten(account.account_id)} at {where}, in {account.symbol}")
    named = ("deposited", "returned", "charged", "free")
    click.echo("  " + ", ".join(f"{name} {_bare(account, getattr(account, name))}" for name in named))
    for deposit in account.deposits_under_way:
        amount, until = _show(account, deposit.amount), show_time(deposit.landable_until)
        click.echo(f"  deposit of {amount} under way, may be landed until {until};")
        click.echo("  the next payment or `tallystick wallet reconcile` sends it again")
    for asked in account.refunds_under_way:
        what = _show(account, asked) if asked else "all that is not owed"
        click.echo(f"  refund of {what} under way;\n  `tallystick wallet refund` sends it again")
    if account.channels:
        Console().print(_channels(account))


def _print_seller_channel(channel: SellerChannelStatus) -> None:
    where = f"{shorten(channel.receiver)} on {channel.network}"
    click.echo(f"channel {shorten(channel.channel_id)} with {where}, in {channel.symbol}")
    click.echo(f"  at {channel.host}")
    named = ["deposited", "returned", "charged", "signed", "left", *(["missing"] if channel.missing else [])]
    click.echo("  " + ", ".join(f"{name} {_plain(channel, getattr(channel, name))}" for name in named))
    if not channel.active:
        click.echo("  is being withdrawn, and paid from no more")
    for deposit in channel.deposits_under_way:
        amount, until = _plain(channel, deposit.amount), show_time(deposit.landable_until)
        click.echo(f"  deposit of {amount} under way, may be landed until {until};")
        click.echo("  the next payment to this seller sends it again")


def _plain(channel: SellerChannelStatus, amount: int) -> str:
    return show(amount, channel.decimals, channel.symbol).removesuffix(f" {channel.symbol}")


def _channels(account: AccountStatus) -> Table:
    """The sellers, without a column for what is unknown or disputed where nothing is.

    Where there is no room, cells are folded, hosts first: nothing is cut off.
    """
    headings = ["charged", "granted", "unknown", "disputed", "ceiling"]
    for heading in ("unknown", "disputed"):
        if not any(getattr(channel, heading) for channel in account.channels):
            headings.remove(heading)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("seller", no_wrap=True)
    table.add_column("host", overflow="fold")
    for heading in headings:
        table.add_column("signed" if heading == "ceiling" else heading, overflow="fold", justify="right")
    for channel in account.channels:
        amounts = (_bare(account, getattr(channel, heading)) for heading in headings)
        # As text: a host in brackets is no markup.
        table.add_row(*map(Text, (shorten(channel.receiver), channel.host, *amounts)))
    return table


def _show(account: AccountStatus, amount: int) -> str:
    return show(amount, account.decimals, account.symbol)


def _bare(account: AccountStatus, amount: int) -> str:
    return _show(account, amount).removesuffix(f" {account.symbol}")
