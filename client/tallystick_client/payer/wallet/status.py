"""The book as a program reads it: ids and addresses in hex, amounts in atomic units."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tallystick.hexadecimal import checksum, to_hex
from tallystick.tokens import Token
from tallystick_client.payer.policy.operators import Asset, Operator
from tallystick_client.payer.wallet.book import Book
from tallystick_client.payer.wallet.rows import Account, SellerChannel


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
class DepositUnderWay:
    """A deposit that is signed and not credited; until when it may be landed, in seconds since the epoch."""

    amount: int
    landable_until: int


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """One deposit. `deposits` is how many there were; `free` is what can still be granted from it.

    `salt` is part of the configs of its channels.
    `refunds_under_way` are the amounts that were asked for, 0 for all that is available.
    """

    account_id: str
    salt: str
    network: str
    operator: str
    escrow: str
    token: str
    symbol: str
    decimals: int
    active: bool
    deposits: int
    deposits_under_way: list[DepositUnderWay]
    refunds_under_way: list[int]
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
class ExactStatus:
    """What was signed for exact payments in one token; it counts as paid, whether it was used or not."""

    network: str
    token: str
    symbol: str
    decimals: int
    paid: int


@dataclass(frozen=True, slots=True)
class SellerChannelStatus:
    """A deposit with one seller alone; see `rows.SellerChannel` for what the amounts mean. `left`: neither charged nor
    back, as far as this book knows.
    """

    channel_id: str
    network: str
    receiver: str
    receiver_authorizer: str
    host: str
    token: str
    symbol: str
    decimals: int
    active: bool
    deposits_under_way: list[DepositUnderWay]
    deposited: int
    returned: int
    missing: int
    charged: int
    signed: int
    left: int


@dataclass(frozen=True, slots=True)
class WalletStatus:
    """All of a wallet's accounts, its channels with one seller alone, and what was paid without either."""

    payer: str
    accounts: list[AccountStatus]
    exact: list[ExactStatus]
    seller_channels: list[SellerChannelStatus]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the accounts, beside them all channels, each with its account's id, and exact payments."""
        status = asdict(self)
        status["channels"] = [
            {"account_id": account["account_id"], **channel}
            for account in status["accounts"]
            for channel in account.pop("channels")
        ]
        return status


def read_status(
    book: Book,
    payer: bytes,
    accounts: Iterable[tuple[Account, Operator, Token]],
    operators: Iterable[Operator],
    today: int,
) -> WalletStatus:
    """The status of these accounts, and of these operators' tokens; `today` is in days since the epoch."""
    found = [_account(book, *account, today) for account in accounts]
    # By asset: several operators may take the same token.
    tokens = {Asset(str(operator.network), token.address): token for operator in operators for token in operator.tokens}
    exact = [
        ExactStatus(asset.network, checksum(asset.token), token.symbol, token.decimals, paid)
        for asset, token in tokens.items()
        if (paid := book.spent_by_exact(asset))
    ]
    channels = [
        _seller_channel(book, channel, tokens[channel.asset])
        for channel in book.seller_channels.values()
        if channel.asset in tokens
    ]
    return WalletStatus(checksum(payer), found, exact, channels)


def _seller_channel(book: Book, channel: SellerChannel, token: Token) -> SellerChannelStatus:
    return SellerChannelStatus(
        channel_id=to_hex(channel.id),
        network=channel.asset.network,
        receiver=checksum(channel.config.receiver),
        receiver_authorizer=checksum(channel.config.receiver_authorizer),
        host=channel.host,
        token=checksum(token.address),
        symbol=token.symbol,
        decimals=token.decimals,
        active=channel.active,
        deposits_under_way=[
            DepositUnderWay(deposit.amount, deposit.landable_until)
            for deposit in book.channel_deposits.values()
            if deposit.channel_id == channel.id
        ],
        deposited=channel.deposited,
        returned=channel.returned,
        missing=channel.missing,
        charged=channel.counted,
        signed=channel.signed,
        left=max(0, channel.balance - channel.counted),
    )


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
    deposits = [deposit for deposit in book.deposits.values() if deposit.account_id == account.id]
    refunds = [refund for refund in book.refunds.values() if refund.account_id == account.id]
    spent = book.spent(account.asset, "", today)
    return AccountStatus(
        account_id=to_hex(account.id),
        salt=to_hex(account.config.salt),
        network=account.asset.network,
        operator=checksum(operator.operator),
        escrow=checksum(operator.escrow),
        token=checksum(token.address),
        symbol=token.symbol,
        decimals=token.decimals,
        active=account.active,
        deposits=sum(deposit.status == "landed" for deposit in deposits),
        deposits_under_way=[
            DepositUnderWay(deposit.amount, deposit.landable_until)
            for deposit in deposits
            if deposit.status == "pending"
        ],
        refunds_under_way=[refund.amount for refund in refunds if refund.status == "pending"],
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
