"""Who calls, and what it may do: sellers by their tokens. Each edge takes the token from where its callers put it.

Payers have no token: they sign their calls (`accounts.signed_calls`). Tokens are never logged and never echoed.

Tokens are in a file of their own next to the store, which is locked for the server alone: so that `tallystick seller`
can add and revoke while the server runs. Only the SHA-256 of a token is stored; the token itself is shown once.
The server answers from memory and looks at most every `POLL_S` whether the file has changed: a revocation takes
effect within a second.
"""

import logging
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple, Self

from tallystick.hexadecimal import checksum
from tallystick.quantities import ZERO_ADDRESS

POLL_S: Final = 0.5
_UNKNOWN_POLL_S: Final = 0.01
"""For a token that is not known it looks as often as this: it may have been added a moment ago."""
PREFIX: Final = "ts_"
"""Makes a token that leaked easy to find by scanners; 32 random bytes in base64url follow."""
RECEIVERS_MAX: Final = 1_000

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_APPLICATION_ID: Final = 0x54414C4B
_VERSION: Final = 2
ORIGINS_MAX: Final = 100
"""Of one seller."""
_BUSY_S: Final = 5.0
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS principals (
    name TEXT PRIMARY KEY,
    receivers BLOB NOT NULL,
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS tokens (
    sha256 BLOB PRIMARY KEY,
    name TEXT NOT NULL REFERENCES principals (name),
    expires_at REAL
) STRICT;
CREATE TABLE IF NOT EXISTS origins (
    name TEXT NOT NULL REFERENCES principals (name),
    origin TEXT NOT NULL,
    PRIMARY KEY (name, origin)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
COMMIT"""

_log: Final = logging.getLogger(__name__)


class Scope(Enum):
    """What a token may be used for."""

    CHARGE = "charge"
    """Verify, reserve, charge, capture and release payments to its receivers."""
    READ = "read"
    """Read its receivers' channels, settlements and statements."""
    SETTLE = "settle"
    """Have its receivers' channels settled now."""


class Principal(NamedTuple):
    """Who a token stands for. `receivers` are addresses of 20 bytes."""

    name: str
    receivers: frozenset[bytes]
    scopes: frozenset[Scope]


class Listed(NamedTuple):
    """A principal as `Credentials.list` shows it; times in seconds since the epoch, `revoked_at` 0 if it is not.

    `tokens` counts those that are good now: two within the grace of a rotation.
    """

    principal: Principal
    created_at: int
    revoked_at: int
    tokens: int
    origins: frozenset[str] = frozenset()
    """Of which it may have resources listed."""


class CredentialsError(Exception):
    """What was asked cannot be done: one sentence says why. Never names a token."""


class Credentials:
    """The open file. Not for several threads."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, clock_s: Callable[[], float], monotonic_s: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._path = path
        self._clock_s = clock_s
        self._monotonic_s = monotonic_s
        self._principals: dict[bytes, tuple[Principal, float]] = {}
        self._origins: dict[str, frozenset[str]] = {}
        self._data_version = -1
        self._polled_at = float("-inf")
        self._refresh()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        clock_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Open or create the file, readable by its owner only; raises CredentialsError.

        `clock_s` tells the time since the epoch, by which tokens expire, `monotonic_s` when to look at the file again.
        """
        file = Path(path)
        try:
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise CredentialsError(f"{file} cannot be opened: {error}") from error
        try:
            _make_current(connection, file)
            return cls(connection, file, clock_s, monotonic_s)
        except sqlite3.Error as error:
            connection.close()
            raise CredentialsError(f"{file} cannot be used: {error}") from error
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the file; idempotent."""
        self._connection.close()

    def add(self, name: str, receivers: Iterable[bytes], scopes: Iterable[Scope], origins: Iterable[str] = ()) -> str:
        """Make a principal; return its token, which is shown this once. Raises CredentialsError.

        `origins`: those of which it may have resources listed, in their one spelling.
        """
        principal = Principal(name, frozenset(receivers), frozenset(scopes))
        _check(principal)
        token = _new_token()
        row = (
            name,
            b"".join(sorted(principal.receivers)),
            " ".join(sorted(scope.value for scope in principal.scopes)),
            int(self._clock_s()),
        )
        with _transaction(self._connection, self._path):
            if self._connection.execute("SELECT 1 FROM principals WHERE name = ?", (name,)).fetchone():
                raise CredentialsError(
                    f"name: there is a seller {name!r} already; rotate its token or choose another name"
                )
            self._connection.execute("INSERT INTO principals VALUES (?, ?, ?, ?, NULL)", row)
            self._insert_token(name, token)
            self._bind(name, origins)
        self._refresh()
        return token

    def rotate(self, name: str, grace_s: float) -> str:
        """Make a new token for a principal; return it. The old ones stay good for `grace_s` seconds at most."""
        if grace_s < 0:
            raise CredentialsError(f"grace: got {grace_s} s, allowed 0 or more")
        token, now = _new_token(), self._clock_s()
        with _transaction(self._connection, self._path):
            self._require(name)
            self._connection.execute("DELETE FROM tokens WHERE expires_at <= ?", (now,))
            self._connection.execute(
                "UPDATE tokens SET expires_at = min(coalesce(expires_at, ?1), ?1) WHERE name = ?2",
                (now + grace_s, name),
            )
            self._insert_token(name, token)
        self._refresh()
        return token

    def revoke(self, name: str) -> None:
        """End all tokens of a principal, for good: its name is not given again."""
        with _transaction(self._connection, self._path):
            self._require(name)
            self._connection.execute("DELETE FROM tokens WHERE name = ?", (name,))
            self._connection.execute(
                "UPDATE principals SET revoked_at = ? WHERE name = ?", (int(self._clock_s()), name)
            )
        self._refresh()

    def bind(self, name: str, origins: Iterable[str]) -> None:
        """Let a principal have resources of these origins listed, and of no others. Raises CredentialsError."""
        with _transaction(self._connection, self._path):
            self._require(name)
            self._bind(name, origins)
        self._refresh()

    def origins(self, name: str) -> frozenset[str]:
        """Of which origins a principal may have resources listed; none if it is unknown or revoked. From memory."""
        if self._monotonic_s() - self._polled_at >= POLL_S:
            self._poll()
        return self._origins.get(name, frozenset())

    def list(self) -> Sequence[Listed]:
        """All principals by name, revoked ones included."""
        rows = self._connection.execute(
            """
            SELECT name, receivers, scopes, created_at, revoked_at, (
                SELECT count(*) FROM tokens
                WHERE tokens.name = principals.name AND (expires_at IS NULL OR expires_at > ?)
            ) FROM principals ORDER BY name""",
            (self._clock_s(),),
        )
        return [
            Listed(_principal(name, receivers, scopes), created_at, revoked_at or 0, tokens, self.origins(name))
            for name, receivers, scopes, created_at, revoked_at, tokens in rows
        ]

    def lookup(self, token: str) -> Principal | None:
        """Who this token stands for; None if it is unknown, expired or revoked. Microseconds, from memory."""
        since_poll_s = self._monotonic_s() - self._polled_at
        if since_poll_s >= POLL_S:
            self._poll()
        digest = sha256(token.encode(errors="surrogatepass")).digest()
        known = self._principals.get(digest)
        if known is None and _UNKNOWN_POLL_S <= since_poll_s < POLL_S:
            self._poll()
            known = self._principals.get(digest)
        if known is None or known[1] <= self._clock_s():
            return None
        return known[0]

    def _poll(self) -> None:
        self._polled_at = self._monotonic_s()
        try:
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if version != self._data_version:
                self._refresh()
                self._data_version = version
        except sqlite3.Error as error:
            # What is known goes on being good: sellers must not stop because of a moment's trouble with this file.
            _log.warning("%s cannot be read, so revocations wait: %s", self._path, error)

    def _refresh(self) -> None:
        rows = self._connection.execute(
            "SELECT sha256, expires_at, name, receivers, scopes FROM tokens JOIN principals USING (name)"
        )
        self._principals = {
            digest: (_principal(name, receivers, scopes), float("inf") if expires_at is None else expires_at)
            for digest, expires_at, name, receivers, scopes in rows
        }
        bound: dict[str, set[str]] = {}
        for name, origin in self._connection.execute(
            "SELECT name, origin FROM origins JOIN principals USING (name) WHERE revoked_at IS NULL"
        ):
            bound.setdefault(name, set()).add(origin)
        self._origins = {name: frozenset(origins) for name, origins in bound.items()}

    def _require(self, name: str) -> None:
        found = self._connection.execute("SELECT revoked_at FROM principals WHERE name = ?", (name,)).fetchone()
        if found is None:
            raise CredentialsError(f"name: there is no seller {name!r}")
        if found[0] is not None:
            raise CredentialsError(f"name: the seller {name!r} was revoked; add one with another name")

    def _bind(self, name: str, origins: Iterable[str]) -> None:
        bound = frozenset(origins)
        if len(bound) > ORIGINS_MAX:
            raise CredentialsError(f"origins: got {len(bound)}, allowed up to {ORIGINS_MAX}")
        self._connection.execute("DELETE FROM origins WHERE name = ?", (name,))
        self._connection.executemany("INSERT INTO origins VALUES (?, ?)", [(name, one) for one in bound])

    def _insert_token(self, name: str, token: str) -> None:
        self._connection.execute("INSERT INTO tokens VALUES (?, ?, NULL)", (sha256(token.encode()).digest(), name))


@contextmanager
def _transaction(connection: sqlite3.Connection, path: Path) -> Generator[None]:
    """All or nothing; failures of the file become CredentialsError."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise CredentialsError(f"{path} cannot be written to: {error}") from error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _make_current(connection: sqlite3.Connection, path: Path) -> None:
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application_id == _APPLICATION_ID and version > _VERSION:
        raise CredentialsError(f"{path} is a newer version's (format {version}; this one knows {_VERSION})")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application_id != _APPLICATION_ID and (application_id, tables) != (0, 0):
        raise CredentialsError(f"{path} is a database of another program (application id {application_id:#010x})")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if version != _VERSION:
        # Every statement leaves alone what is there: from version 1 on only a table is added.
        connection.executescript(_SCHEMA)


def _principal(name: str, receivers: bytes, scopes: str) -> Principal:
    addresses = frozenset(receivers[at : at + 20] for at in range(0, len(receivers), 20))
    return Principal(name, addresses, frozenset(map(Scope, scopes.split())))


def _check(principal: Principal) -> None:
    if not _NAME.fullmatch(principal.name):
        raise CredentialsError(
            f"name: got {principal.name[:70]!a}, allowed 1 to 64 ASCII letters, digits and '._-', the first no sign"
        )
    if not 1 <= len(principal.receivers) <= RECEIVERS_MAX:
        raise CredentialsError(f"receivers: got {len(principal.receivers)}, allowed 1 to {RECEIVERS_MAX}")
    if any(len(receiver) != 20 or receiver == ZERO_ADDRESS for receiver in principal.receivers):
        raise CredentialsError("receivers: got one that is no address, allowed addresses of 20 bytes that are not zero")
    if not principal.scopes:
        raise CredentialsError("scopes: got none, allowed one or more of charge, read, settle")


def _new_token() -> str:
    return PREFIX + secrets.token_urlsafe(32)


class DeniedError(Exception):
    """A call that is not taken from this caller; one sentence says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UnauthenticatedError(DeniedError):
    """Nobody is known by what the caller showed."""


class ForbiddenError(DeniedError):
    """The caller is known, and may not do this."""


class Principals:
    """Tells callers by their tokens."""

    def __init__(self, lookup: Callable[[str], Principal | None]) -> None:
        """`lookup` knows the tokens that are good now; it answers from memory."""
        self._lookup = lookup

    def require(self, token: str, scope: Scope | None = None) -> Principal:
        """Return the principal of a token, which has the scope; raises DeniedError."""
        principal = self._lookup(token)
        if principal is None:
            raise UnauthenticatedError("the token is not known here, or was revoked")
        if scope is not None and scope not in principal.scopes:
            raise ForbiddenError(f"the token of {principal.name!r} lacks the scope {scope.value!r}")
        return principal


def require_receiver(principal: Principal, receiver: bytes) -> None:
    """Check that the principal acts for this receiver; raises DeniedError."""
    if receiver not in principal.receivers:
        raise ForbiddenError(f"the token of {principal.name!r} is not for the receiver {checksum(receiver)}")
