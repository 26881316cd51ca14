"""The book as a person or a program reads it: ids and addresses in hex, amounts in atomic units."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tallystick.hexadecimal import checksum, to_hex
from tallystick_client.payer.book import Book
from tallystick_client.payer.operators import Operator, Token
from tallystick_client.payer.rows import Account


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """One seller's channel; see `book` for what the amounts mean."""

    channel_id: str
    receiver: str
    host: str
    ceiling: int
    charged: int
    unknown: int
    disputed: int
    granted: int


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """One deposit. `deposits` is how many there were; `free` is what can still be granted from it."""

    account_id: str
    network: str
    operator: str
    escrow: str
    token: str
    symbol: str
    decimals: int
    active: bool
    deposits: int
    deposits_pending: int
    deposited: int
    returned: int
    charged: int
    unknown: int
    disputed: int
    granted: int
    free: int
    spent_today: int
    spent_total: int
    channels: list[ChannelStatus]


@dataclass(frozen=True, slots=True)
class WalletStatus:
    """All of a wallet's accounts."""

    payer: str
    accounts: list[AccountStatus]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the accounts, and beside them all channels, each with its account's id."""
        accounts = [asdict(account) for account in self.accounts]
        channels = [
            {"account_id": account["account_id"], **channel}
            for account in accounts
            for channel in account.pop("channels")
        ]
        return {"payer": self.payer, "accounts": accounts, "channels": channels}


def read_status(
    book: Book, payer: bytes, accounts: Iterable[tuple[Account, Operator, Token]], today: int
) -> WalletStatus:
    """The status of these accounts; `today` is in days since the epoch."""
    return WalletStatus(checksum(payer), [_account(book, *account, today) for account in accounts])


def _account(book: Book, account: Account, operator: Operator, token: Token, today: int) -> AccountStatus:
    channels = [
        ChannelStatus(
            channel_id=to_hex(channel.id),
            receiver=checksum(channel.config.receiver),
            host=channel.host,
            ceiling=channel.ceiling,
            charged=channel.charged,
            unknown=channel.unknown,
            disputed=channel.disputed,
            granted=channel.committed - channel.charged - channel.unknown - channel.disputed,
        )
        for channel in book.channels_of(account.id)
    ]
    deposits = [deposit.status for deposit in book.deposits.values() if deposit.account_id == account.id]
    spent = book.spent(account.asset, "", today)
    return AccountStatus(
        account_id=to_hex(account.id),
        network=account.asset.network,
        operator=checksum(operator.operator),
        escrow=checksum(operator.escrow),
        token=checksum(token.token),
        symbol=token.symbol,
        decimals=token.decimals,
        active=account.active,
        deposits=deposits.count("landed"),
        deposits_pending=deposits.count("pending"),
        deposited=account.deposited,
        returned=account.returned,
        charged=sum(channel.charged for channel in channels),
        unknown=sum(channel.unknown for channel in channels),
        disputed=sum(channel.disputed for channel in channels),
        granted=account.open,
        free=account.free,
        spent_today=spent["day"],
        spent_total=spent["total"],
        channels=channels,
    )
