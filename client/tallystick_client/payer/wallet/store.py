"""The wallet's book on disk: one SQLite file, one process at a time, on the disk before anything is promised.

WAL with `synchronous=FULL`: a commit returns after fsync. `locking_mode=EXCLUSIVE` keeps every other process out for as
long as the file is open, and the operating system lets go of it when the process dies. Amounts are decimal text:
SQLite's integers have 63 bits.

The file holds no key and no spend key's secret. Its signed deposit authorizations can only credit the payer's own
account. It is readable by its owner only.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import aiosqlite

from tallystick.channels import ChannelConfig
from tallystick.hexadecimal import checksum
from tallystick_client.payer.errors import BookUnavailableError
from tallystick_client.payer.policy.operators import Asset
from tallystick_client.payer.wallet.book import Book
from tallystick_client.payer.wallet.rows import (
    Account,
    Channel,
    ChannelDeposit,
    Counter,
    Deposit,
    ExactPayment,
    GrantRow,
    Refund,
    Row,
    SellerChannel,
    SpendKeyRow,
)

_FORMAT: Final = "2"
_FORMAT_WITHOUT_STATUS: Final = "1"
"""Its exact payments have neither a day nor a status; all of them count as spent."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS accounts (
    id BLOB PRIMARY KEY, network TEXT NOT NULL, escrow BLOB NOT NULL, payer BLOB NOT NULL,
    payer_authorizer BLOB NOT NULL, operator BLOB NOT NULL, token BLOB NOT NULL, withdraw_delay_s INTEGER NOT NULL,
    salt BLOB NOT NULL, salt_index INTEGER NOT NULL, active INTEGER NOT NULL, deposited TEXT NOT NULL,
    returned TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS channels (
    id BLOB PRIMARY KEY, account_id BLOB NOT NULL, receiver BLOB NOT NULL, host TEXT NOT NULL, ceiling TEXT NOT NULL,
    charged TEXT NOT NULL, unknown TEXT NOT NULL, disputed TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS grants (
    id INTEGER PRIMARY KEY, channel_id BLOB NOT NULL, host TEXT NOT NULL, holder TEXT NOT NULL, key_id BLOB NOT NULL,
    day INTEGER NOT NULL, granted TEXT NOT NULL, returned TEXT NOT NULL, charged TEXT NOT NULL, unknown TEXT NOT NULL,
    closed_at INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS spend_keys (
    key_id BLOB PRIMARY KEY, account_id BLOB NOT NULL, cap TEXT NOT NULL, expires_at INTEGER NOT NULL,
    revoked INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS deposits (
    salt BLOB PRIMARY KEY, account_id BLOB NOT NULL, amount TEXT NOT NULL, valid_after INTEGER NOT NULL,
    valid_before INTEGER NOT NULL, signature BLOB NOT NULL, status TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS refunds (
    refund_id BLOB PRIMARY KEY, account_id BLOB NOT NULL, amount TEXT NOT NULL, returned TEXT NOT NULL,
    status TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS exact_payments (
    nonce BLOB PRIMARY KEY, network TEXT NOT NULL, token BLOB NOT NULL, host TEXT NOT NULL, amount TEXT NOT NULL,
    valid_before INTEGER NOT NULL, day INTEGER NOT NULL, status TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS seller_channels (
    id BLOB PRIMARY KEY, network TEXT NOT NULL, payer BLOB NOT NULL, payer_authorizer BLOB NOT NULL,
    receiver BLOB NOT NULL, receiver_authorizer BLOB NOT NULL, token BLOB NOT NULL, withdraw_delay_s INTEGER NOT NULL,
    salt BLOB NOT NULL, salt_index INTEGER NOT NULL, host TEXT NOT NULL, url TEXT NOT NULL, active INTEGER NOT NULL,
    deposited TEXT NOT NULL, returned TEXT NOT NULL, missing TEXT NOT NULL, counted TEXT NOT NULL, signed TEXT NOT NULL,
    spent TEXT NOT NULL, open_id BLOB NOT NULL, open_request BLOB NOT NULL, open_amount TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS channel_deposits (
    salt BLOB PRIMARY KEY, channel_id BLOB NOT NULL, amount TEXT NOT NULL, valid_before INTEGER NOT NULL,
    signature BLOB NOT NULL, status TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS counters (
    network TEXT NOT NULL, token BLOB NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, amount TEXT NOT NULL,
    PRIMARY KEY (network, token, kind, name)) STRICT;
"""

Values = tuple[Any, ...]


class Statement(NamedTuple):
    """One SQL statement and its values, independent of the row that it was made from."""

    sql: str
    values: Values


class Store:
    """An open wallet file. `commit` is the only way into it."""

    def __init__(self, connection: aiosqlite.Connection, book: Book, path: str) -> None:
        self.book = book
        self._connection = connection
        self._path = path
        self._writing = asyncio.Lock()
        self._failure: str = ""

    @classmethod
    async def open(cls, path: str | os.PathLike[str], payer: bytes) -> Self:
        """Open or create the file of this payer and read its book.

        Raises BookUnavailableError where another process has it, it is of another payer or format, or cannot be used.
        """
        file = Path(path)
        try:
            _make_private(file)
            connection = await aiosqlite.connect(file, isolation_level=None, timeout=0)
        except (OSError, sqlite3.Error) as error:
            raise BookUnavailableError(f"the wallet {file} cannot be opened: {error}") from None
        try:
            await _prepare(connection, file, payer)
            return cls(connection, await _read(connection), str(file))
        except sqlite3.Error as error:
            await connection.close()
            # SQLITE_BUSY or SQLITE_LOCKED, with any extension.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise BookUnavailableError(
                    f"the wallet {file} is in use by another process; only one may open it"
                ) from None
            raise BookUnavailableError(f"the wallet {file} cannot be used: {error}") from None
        except BaseException:
            await connection.close()
            raise

    async def commit(self) -> None:
        """Return when everything that was changed in the book before this call is on disk.

        Callers that come while a transaction is being written share the next one. After a failed write the file's state
        is unknown, so nothing is promised any more: this and every later call raises BookUnavailableError.
        """
        # A caller that is cancelled does not take the transaction with it.
        await asyncio.shield(self._commit())

    async def _commit(self) -> None:
        async with self._writing:
            if self._failure:
                raise BookUnavailableError(self._failure)
            changes = self.book.take_changes()
            if not changes:
                return
            # Made before the first await: the rows go on changing while they are written.
            statements = list(map(_write, changes.rows))
            statements += [_write_counter(counter, amount) for counter, amount in changes.counters.items()]
            statements += [Statement("DELETE FROM grants WHERE id = ?", (grant,)) for grant in changes.removed_grants]
            try:
                await self.write(statements)
            except BaseException as error:
                self._failure = f"the wallet {self._path} could not be written ({error}); open it again"
                if isinstance(error, sqlite3.Error):
                    raise BookUnavailableError(self._failure) from error
                raise

    async def write(self, statements: list[Statement]) -> None:
        """Run the statements in one transaction; on disk when this returns."""
        await self._connection.execute("BEGIN IMMEDIATE")
        for sql, values in statements:
            await self._connection.execute(sql, values)
        await self._connection.commit()

    async def close(self) -> None:
        """Write what is left and let go of the file."""
        try:
            if not self._failure:
                await self.commit()
        finally:
            await self._connection.close()


def _make_private(file: Path) -> None:
    # SQLite would create it with the process's umask, and its WAL with the mode of the file.
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    os.close(descriptor)


async def _prepare(connection: aiosqlite.Connection, file: Path, payer: bytes) -> None:
    # Exclusive before WAL: then no shared memory is used, and the lock stays from the first transaction on.
    for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "trusted_schema=OFF"):
        await connection.execute(f"PRAGMA {pragma}")
    await connection.execute("BEGIN EXCLUSIVE")
    await connection.commit()
    await connection.executescript(_SCHEMA)
    expected = {"format": _FORMAT, "payer": checksum(payer)}
    await connection.execute("BEGIN IMMEDIATE")
    for name, value in expected.items():
        await connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
    await connection.commit()
    async with connection.execute("SELECT name, value FROM meta") as cursor:
        found = {str(name): str(value) async for name, value in cursor}
    if found["format"] == _FORMAT_WITHOUT_STATUS and found["payer"] == expected["payer"]:
        await _add_status(connection)
        found["format"] = _FORMAT
    for name, value in expected.items():
        if found[name] != value:
            raise BookUnavailableError(f"the wallet {file} cannot be used: its {name} is {found[name]}, here {value}")


async def _add_status(connection: aiosqlite.Connection) -> None:
    await connection.execute("BEGIN IMMEDIATE")
    await connection.execute("ALTER TABLE exact_payments ADD COLUMN day INTEGER NOT NULL DEFAULT 0")
    await connection.execute("ALTER TABLE exact_payments ADD COLUMN status TEXT NOT NULL DEFAULT 'spent'")
    await connection.execute("UPDATE meta SET value = ? WHERE name = 'format'", (_FORMAT,))
    await connection.commit()


# One function a row each way. The columns are in the order of the schema.


def _write(row: Row) -> Statement:
    match row:
        case Account():
            config = row.config
            return _replace(
                "accounts",
                row.id,
                row.asset.network,
                row.escrow,
                config.payer,
                config.payer_authorizer,
                config.receiver_authorizer,
                config.token,
                config.withdraw_delay_s,
                config.salt,
                row.index,
                int(row.active),
                str(row.deposited),
                str(row.returned),
            )
        case Channel():
            amounts = (str(row.ceiling), str(row.charged), str(row.unknown), str(row.disputed))
            return _replace("channels", row.id, row.account_id, row.config.receiver, row.host, *amounts)
        case GrantRow():
            amounts = (str(row.granted), str(row.returned), str(row.charged), str(row.unknown))
            head = (row.id, row.channel_id, row.host, row.holder, row.key_id, row.day)
            return _replace("grants", *head, *amounts, row.closed_at)
        case SpendKeyRow():
            return _replace("spend_keys", row.key_id, row.account_id, str(row.cap), row.expires_at, int(row.revoked))
        case Deposit():
            window = (row.valid_after, row.valid_before)
            return _replace("deposits", row.salt, row.account_id, str(row.amount), *window, row.signature, row.status)
        case Refund():
            return _replace("refunds", row.refund_id, row.account_id, str(row.amount), str(row.returned), row.status)
        case ExactPayment():
            tail = (row.host, str(row.amount), row.valid_before, row.day, row.status)
            return _replace("exact_payments", row.nonce, *row.asset, *tail)
        case SellerChannel():
            return _write_seller_channel(row)
        case ChannelDeposit():
            terms = (str(row.amount), row.valid_before)
            return _replace("channel_deposits", row.salt, row.channel_id, *terms, row.signature, row.status)


def _write_seller_channel(row: SellerChannel) -> Statement:
    config = row.config
    amounts = (row.deposited, row.returned, row.missing, row.counted, row.signed, row.spent)
    return _replace(
        "seller_channels",
        row.id,
        row.asset.network,
        config.payer,
        config.payer_authorizer,
        config.receiver,
        config.receiver_authorizer,
        config.token,
        config.withdraw_delay_s,
        config.salt,
        row.index,
        row.host,
        row.url,
        int(row.active),
        *map(str, amounts),
        row.open_id,
        row.open_request,
        str(row.open_amount),
    )


def _write_counter(counter: Counter, amount: int) -> Statement:
    return _replace("counters", *counter.asset, counter.kind, counter.name, str(amount))


def _replace(table: str, *values: Any) -> Statement:
    places = ", ".join("?" * len(values))
    return Statement(f"INSERT OR REPLACE INTO {table} VALUES ({places})", values)  # noqa: S608 - a name of ours


async def _read(connection: aiosqlite.Connection) -> Book:
    book = Book()
    accounts: dict[bytes, Account] = book.accounts
    # In an order in which every row finds those that it belongs to.
    readers: tuple[tuple[str, Callable[[Any], Row]], ...] = (
        ("accounts", _account),
        ("channels", lambda row: _channel(row, accounts[row[1]])),
        ("grants", lambda row: _grant(row, accounts[book.channels[row[1]].account_id])),
        ("spend_keys", lambda row: SpendKeyRow(row[0], row[1], int(row[2]), row[3], bool(row[4]))),
        ("deposits", lambda row: Deposit(row[0], row[1], int(row[2]), row[3], row[4], row[5], row[6])),
        ("refunds", lambda row: Refund(row[0], row[1], int(row[2]), int(row[3]), row[4])),
        ("seller_channels", _seller_channel),
    )
    for table, reader in readers:
        async with connection.execute(f"SELECT * FROM {table}") as cursor:  # noqa: S608 - a name of ours
            async for row in cursor:
                book.add(reader(row))
    async with connection.execute("SELECT * FROM exact_payments WHERE status = 'sent'") as cursor:
        async for nonce, network, token, host, amount, valid_before, day, status in cursor:
            book.add(ExactPayment(nonce, Asset(network, token), host, int(amount), valid_before, day, status))
    async with connection.execute("SELECT * FROM channel_deposits WHERE status = 'pending'") as cursor:
        async for salt, channel_id, amount, valid_before, signature, status in cursor:
            book.add(ChannelDeposit(salt, channel_id, int(amount), valid_before, signature, status))
    async with connection.execute("SELECT * FROM counters") as cursor:
        async for network, token, kind, name, amount in cursor:
            book.counters[Counter(Asset(network, token), kind, name)] = int(amount)
    book.take_changes()
    return book


def _account(row: Any) -> Account:
    id_, network, escrow, payer, authorizer, operator, token, delay, salt, index, active, deposited, returned = row
    config = ChannelConfig(payer, authorizer, bytes(20), operator, token, delay, salt)
    asset = Asset(network, token)
    return Account(id_, asset, escrow, config, index, bool(active), int(deposited), int(returned))


def _channel(row: Any, account: Account) -> Channel:
    id_, account_id, receiver, host, *amounts = row
    return Channel(id_, account_id, account.config.channel(receiver), host, *map(int, amounts))


def _grant(row: Any, account: Account) -> GrantRow:
    id_, channel_id, host, holder, key_id, day, granted, returned, charged, unknown, closed_at = row
    amounts = (int(granted), int(returned), int(charged), int(unknown))
    return GrantRow(id_, channel_id, account.asset, host, holder, key_id, day, *amounts, closed_at)


def _seller_channel(row: Any) -> SellerChannel:
    id_, network, payer, authorizer, receiver, operator, token, delay, salt, index, host, url, active, *rest = row
    config = ChannelConfig(payer, authorizer, receiver, operator, token, delay, salt)
    *amounts, open_id, open_request, open_amount = rest
    deposited, returned, missing, counted, signed, spent = map(int, amounts)
    return SellerChannel(
        id_,
        Asset(network, token),
        config,
        index,
        host,
        url,
        bool(active),
        deposited,
        returned,
        missing,
        counted,
        signed,
        spent,
        open_id,
        open_request,
        int(open_amount),
    )
