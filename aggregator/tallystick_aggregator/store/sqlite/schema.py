"""The tables of the store, and how a file becomes one.

`log` holds what happened, one row for each commit. A checkpoint writes down what came of it in the tables of state, and
the log's beginning goes. The tables of state are written in many small statements, with charges in between, and yet
count all at once: each row keeps its present and its earlier form, and says as of which commit the present one is;
`store.folded` says up to which commit the present ones count. The one update of `store.folded` is the checkpoint.

Payments are in tables of `PARTITION_MS` each, by the time in their ids (`payments_<n>`), created and dropped as time
goes by. They need no earlier form: a payment's row is final, or its reservation's row says what it was.
"""

import sqlite3
from typing import Final

from tallystick_aggregator.store.port import StoreDamagedError, StoreUnusableError

APPLICATION_ID: Final = 0x54414C59
"""In the header of the file ("TALY"): tells it from other programs' databases."""

PARTITION_MS: Final = 6 * 3_600_000
"""Payment ids of six hours share a table: nine or ten tables with the usual retention of two days."""
PARTITION_PREFIX: Final = "payments_"

ORDINALS: Final = 8_192
"""`ordinals` holds 0 to this, exclusive: it cuts a blob of equal pieces into rows, so that a thousand rows are one
parameter of one statement."""

STATE_TABLES: Final = ("accounts", "channels", "spend_keys", "reservations", "heads")
ENDING_TABLES: Final = ("spend_keys", "reservations")
"""Of these, those whose rows end: as NULL first, so that the checkpoint before still counts, then they are dropped."""

_STATE_TABLE: Final = """
CREATE TABLE {table} (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    seq INTEGER NOT NULL,
    row BLOB,
    earlier BLOB
) STRICT"""

_VERSION_1: Final = (
    """
CREATE TABLE store (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    created_at INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    folded INTEGER NOT NULL,
    forgotten_ms INTEGER NOT NULL,
    settled INTEGER NOT NULL
) STRICT""",
    "INSERT INTO store VALUES (1, unixepoch(), 0, 0, 0, 0)",
    "CREATE TABLE log (seq INTEGER PRIMARY KEY, entries BLOB NOT NULL) STRICT",
    *(_STATE_TABLE.format(table=table) for table in STATE_TABLES),
    "CREATE TABLE ordinals (n INTEGER PRIMARY KEY) STRICT",
    """
WITH RECURSIVE counted (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted WHERE n < 8191)
INSERT INTO ordinals SELECT n FROM counted""",
    """
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    network TEXT NOT NULL,
    kind INTEGER NOT NULL,
    reference BLOB NOT NULL,
    sender BLOB NOT NULL,
    nonce INTEGER NOT NULL,
    status INTEGER NOT NULL,
    receivers BLOB NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (kind, reference)
) STRICT""",
    "CREATE INDEX outbox_by_sender ON outbox (network, sender, nonce)",
    "CREATE INDEX outbox_open ON outbox (network, nonce) WHERE status IN (1, 2)",
    "CREATE TABLE outbox_receivers (receiver BLOB, id INTEGER, PRIMARY KEY (receiver, id)) STRICT, WITHOUT ROWID",
    # Triggers, so that a transaction and the receivers by which it is found are written by one statement.
    """
CREATE TRIGGER outbox_added AFTER INSERT ON outbox BEGIN
    INSERT OR IGNORE INTO outbox_receivers
    SELECT substr(new.receivers, 20 * n + 1, 20), new.id FROM ordinals WHERE n < length(new.receivers) / 20;
END""",
    """
CREATE TRIGGER outbox_updated AFTER UPDATE OF receivers ON outbox WHEN new.receivers <> old.receivers BEGIN
    DELETE FROM outbox_receivers WHERE id = old.id AND receiver IN
        (SELECT substr(old.receivers, 20 * n + 1, 20) FROM ordinals WHERE n < length(old.receivers) / 20);
    INSERT OR IGNORE INTO outbox_receivers
    SELECT substr(new.receivers, 20 * n + 1, 20), new.id FROM ordinals WHERE n < length(new.receivers) / 20;
END""",
)

_VERSION_2: Final = ()
"""Accounts and heads name their escrow where they named its network: no statement, but a number that keeps earlier
programs from the file. Names without an address stay until `Ledger.name_escrows` has found their escrow."""

_VERSION_3: Final = (
    "ALTER TABLE outbox ADD COLUMN payment_id BLOB",
    "CREATE UNIQUE INDEX outbox_by_payment_id ON outbox (payment_id) WHERE payment_id IS NOT NULL",
)

_VERSION_4: Final = ("CREATE TABLE listings (seller TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID",)

_VERSION_5: Final = ()
"""Channels count charges in step, for claims to attest: a number that keeps programs from the file that would take such
rows and log entries for damaged. Rows without a count are as they were."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5)
"""The statements that lead to version 1, from 1 to 2, and so on. What is here is never changed, only added to."""


def partition_of(payment_ms: int) -> int:
    """The number of the partition for payment ids of this time."""
    return payment_ms // PARTITION_MS


def partition_table(number: int) -> str:
    """The name of a partition's table."""
    return f"{PARTITION_PREFIX}{number}"


def create_partition(number: int) -> str:
    """The statement that makes a partition's table, if it is not there."""
    return (
        f"CREATE TABLE IF NOT EXISTS {partition_table(number)} "
        "(key BLOB PRIMARY KEY, row BLOB NOT NULL) STRICT, WITHOUT ROWID"
    )


def partitions(connection: sqlite3.Connection) -> set[int]:
    """The numbers of the partitions that are there."""
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB ?", (PARTITION_PREFIX + "[0-9]*",)
    )
    return {int(name.removeprefix(PARTITION_PREFIX)) for (name,) in names}


def make_current(connection: sqlite3.Connection, path: str) -> None:
    """Make the tables of a new file, or bring those of an older version up to date, in one transaction.

    Raises StoreUnusableError if the file is another program's or a newer version's.
    """
    application_id = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    if application_id != APPLICATION_ID and not _is_empty(connection, application_id, version):
        raise StoreUnusableError(f"{path} is a database of another program (application id {application_id:#010x})")
    if version > len(MIGRATIONS):
        raise StoreUnusableError(
            f"{path} was written by a newer version (format {version}; this one knows {len(MIGRATIONS)})"
        )
    if version == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check_integrity(connection: sqlite3.Connection, path: str) -> None:
    """Check the structure of what is read in full at every start; raises StoreDamagedError.

    Rows carry checksums of their own. The partitions are left out: they may hold tens of millions of payments, and
    charges must not wait for that.
    """
    for table in ("store", "log", *STATE_TABLES, "outbox", "listings"):
        (verdict,) = connection.execute(f"PRAGMA quick_check('{table}')").fetchone()
        if verdict != "ok":
            raise StoreDamagedError(f"{path} is damaged: {verdict}")


def _is_empty(connection: sqlite3.Connection, application_id: int, version: int) -> bool:
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return bool((application_id, version, tables) == (0, 0, 0))


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
