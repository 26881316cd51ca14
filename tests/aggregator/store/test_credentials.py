"""Sellers' tokens: shown once, stored as hashes, rotated with grace, revoked within a second while the server runs."""

import re
import sqlite3
import subprocess
import sys
import time
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest

from tallystick_aggregator.auth.credentials import Credentials, CredentialsError, Principal, Scope

ALICE, BOB = b"a" * 20, b"b" * 20

ALWAYS_LATER = count(0.0, 1.0).__next__
"""A clock by which it is always time to look at the file again."""


class Clock:
    """Seconds since the epoch, as a test wants them."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sellers.db"


def test_a_token_that_another_process_has_just_added_is_known(path: Path) -> None:
    clock = Clock()
    serving = Credentials.open(path, monotonic_s=clock)
    assert serving.lookup("ts_junk") is None
    token = Credentials.open(path).add("news", [ALICE], [Scope.CHARGE])
    clock.now_s += 0.02
    assert serving.lookup(token) == Principal("news", frozenset({ALICE}), frozenset({Scope.CHARGE}))


def test_a_token_stands_for_its_principal(path: Path) -> None:
    tokens = Credentials.open(path)
    token = tokens.add("news", [ALICE, BOB], [Scope.CHARGE, Scope.READ])
    assert tokens.lookup(token) == Principal("news", frozenset({ALICE, BOB}), frozenset({Scope.CHARGE, Scope.READ}))
    for wrong in ("", token[:-1], token + "A", token.swapcase(), "ts_", "\ud800", "é" * 50):
        assert tokens.lookup(wrong) is None
    tokens.close()


def test_a_token_is_32_random_bytes_and_only_its_hash_is_stored(path: Path) -> None:
    tokens = Credentials.open(path)
    token = tokens.add("news", [ALICE], [Scope.CHARGE])
    assert re.fullmatch(r"ts_[A-Za-z0-9_-]{43}", token)
    assert token != tokens.add("music", [ALICE], [Scope.CHARGE])
    stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert token.encode() not in stored
    assert token[3:].encode() not in stored
    assert sha256(token.encode()).digest() in stored
    assert path.stat().st_mode & 0o777 == 0o600
    tokens.close()


def test_a_token_is_good_after_a_restart(path: Path) -> None:
    tokens = Credentials.open(path)
    token = tokens.add("news", [ALICE], [Scope.SETTLE])
    tokens.close()
    tokens = Credentials.open(path)
    assert tokens.lookup(token) == Principal("news", frozenset({ALICE}), frozenset({Scope.SETTLE}))
    tokens.close()


def test_a_rotated_token_is_good_for_its_grace_and_no_longer(path: Path) -> None:
    clock = Clock()
    tokens = Credentials.open(path, clock_s=clock)
    old = tokens.add("news", [ALICE], [Scope.CHARGE])
    new = tokens.rotate("news", 60)
    assert tokens.lookup(old) == tokens.lookup(new) != None  # noqa: E711 - one chain says it
    assert tokens.list()[0].tokens == 2
    clock.now_s += 59
    newest = tokens.rotate("news", 3_600)
    assert tokens.lookup(old) is not None, "a later rotation does not lengthen the first one's grace"
    clock.now_s += 1
    assert tokens.lookup(old) is None
    assert tokens.lookup(new) is not None
    clock.now_s += 3_600
    assert tokens.lookup(new) is None
    assert tokens.lookup(newest) is not None
    assert tokens.list()[0].tokens == 1
    tokens.close()


def test_a_rotation_without_grace_ends_the_old_token_at_once(path: Path) -> None:
    tokens = Credentials.open(path)
    old = tokens.add("news", [ALICE], [Scope.CHARGE])
    new = tokens.rotate("news", 0)
    assert tokens.lookup(old) is None
    assert tokens.lookup(new) is not None
    tokens.close()


def test_a_revoked_principal_is_gone_for_good(path: Path) -> None:
    clock = Clock()
    tokens = Credentials.open(path, clock_s=clock)
    first = tokens.add("news", [ALICE], [Scope.CHARGE])
    second = tokens.rotate("news", 60)
    other = tokens.add("music", [BOB], [Scope.CHARGE])
    tokens.revoke("news")
    assert tokens.lookup(first) is tokens.lookup(second) is None
    assert tokens.lookup(other) is not None
    listed = {seller.principal.name: seller for seller in tokens.list()}
    assert listed["news"].revoked_at == clock.now_s
    assert (listed["news"].tokens, listed["music"].tokens) == (0, 1)
    for again in (lambda: tokens.rotate("news", 0), lambda: tokens.revoke("news")):
        with pytest.raises(CredentialsError, match="'news' was revoked"):
            again()
    with pytest.raises(CredentialsError, match="there is a seller 'news' already"):
        tokens.add("news", [ALICE], [Scope.CHARGE])
    tokens.close()


def test_the_server_sees_what_the_command_line_changes(path: Path) -> None:
    server = Credentials.open(path, monotonic_s=ALWAYS_LATER)
    program = (
        "import sys; from tallystick_aggregator.auth.credentials import *\n"
        "tokens = Credentials.open(sys.argv[1]); print(tokens.add('news', [b'a' * 20], [Scope.CHARGE]))"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True, text=True, timeout=30)
    token = done.stdout.strip()
    assert server.lookup(token) is not None
    program = (
        "import sys; from tallystick_aggregator.auth.credentials import *\nCredentials.open(sys.argv[1]).revoke('news')"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True, timeout=30)
    assert server.lookup(token) is None
    server.close()


def test_a_revocation_takes_effect_within_a_second(path: Path) -> None:
    server, command = Credentials.open(path), Credentials.open(path)
    token = command.add("news", [ALICE], [Scope.CHARGE])
    deadline = time.monotonic() + 1
    while server.lookup(token) is None:
        assert time.monotonic() < deadline
    command.revoke("news")
    deadline = time.monotonic() + 1
    while server.lookup(token) is not None:
        assert time.monotonic() < deadline
    server.close()
    command.close()


def test_looking_up_asks_the_file_rarely(path: Path) -> None:
    tokens = Credentials.open(path)
    token = tokens.add("news", [ALICE], [Scope.CHARGE])
    asked: list[str] = []
    tokens._connection.set_trace_callback(asked.append)
    for _ in range(1_000):
        assert tokens.lookup(token) is not None
    assert len(asked) <= 4
    tokens.close()


def test_a_file_that_cannot_be_read_for_a_while_stops_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def execute(self, _: str) -> None:
            raise sqlite3.OperationalError("disk I/O error")

    tokens = Credentials.open(path, monotonic_s=ALWAYS_LATER)
    token = tokens.add("news", [ALICE], [Scope.CHARGE])
    with monkeypatch.context() as patches:
        patches.setattr(tokens, "_connection", Broken())
        assert tokens.lookup(token) is not None
    assert "revocations wait" in caplog.text
    assert token not in caplog.text
    tokens.close()


@pytest.mark.parametrize(
    ("name", "receivers", "scopes", "problem"),
    [
        ("", [ALICE], [Scope.CHARGE], "name: got ''"),
        ("a" * 65, [ALICE], [Scope.CHARGE], "name: got"),
        ("two words", [ALICE], [Scope.CHARGE], "name: got 'two words'"),
        ("-x", [ALICE], [Scope.CHARGE], "name: got '-x'"),
        ("né", [ALICE], [Scope.CHARGE], "name: got"),
        ("news", [], [Scope.CHARGE], "receivers: got 0, allowed 1 to"),
        ("news", [ALICE[1:]], [Scope.CHARGE], "receivers: got one that is no address"),
        ("news", [bytes(20)], [Scope.CHARGE], "receivers: got one that is no address"),
        ("news", [ALICE], [], "scopes: got none"),
    ],
)
def test_a_principal_that_cannot_be_is_refused(
    path: Path, name: str, receivers: list[bytes], scopes: list[Scope], problem: str
) -> None:
    tokens = Credentials.open(path)
    with pytest.raises(CredentialsError, match=re.escape(problem)):
        tokens.add(name, receivers, scopes)
    assert tokens.list() == []
    tokens.close()


def test_nobody_can_be_rotated_who_is_not_there(path: Path) -> None:
    tokens = Credentials.open(path)
    for asked in (lambda: tokens.rotate("nobody", 0), lambda: tokens.revoke("nobody")):
        with pytest.raises(CredentialsError, match="there is no seller 'nobody'"):
            asked()
    tokens.add("news", [ALICE], [Scope.CHARGE])
    with pytest.raises(CredentialsError, match="grace: got -1 s"):
        tokens.rotate("news", -1)
    tokens.close()


def test_a_file_that_is_not_ours_is_refused(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"no database" * 99)
    with pytest.raises(CredentialsError, match="cannot be used: file is not a database"):
        Credentials.open(path)
    foreign = tmp_path / "foreign.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(CredentialsError, match="is a database of another program"):
        Credentials.open(foreign)
    newer = tmp_path / "newer.db"
    Credentials.open(newer).close()
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(CredentialsError, match="is a newer version's"):
        Credentials.open(newer)
    with pytest.raises(CredentialsError, match="cannot be opened"):
        Credentials.open(tmp_path / "no" / "sellers.db")


def test_a_change_that_fails_changes_nothing(path: Path) -> None:
    tokens = Credentials.open(path)
    token = tokens.add("news", [ALICE], [Scope.CHARGE])
    tokens._connection.execute("PRAGMA query_only = ON")
    for asked in (lambda: tokens.add("music", [BOB], [Scope.CHARGE]), lambda: tokens.revoke("news")):
        with pytest.raises(CredentialsError, match="cannot be written to"):
            asked()
    tokens._connection.execute("PRAGMA query_only = OFF")
    assert tokens.lookup(token) is not None
    assert len(tokens.list()) == 1
    tokens.close()


def test_a_seller_is_bound_to_origins_until_it_is_revoked(path: Path) -> None:
    tokens = Credentials.open(path)
    tokens.add("news", [ALICE], [Scope.CHARGE], ["https://news.example"])
    tokens.add("music", [BOB], [Scope.CHARGE])
    assert tokens.origins("news") == {"https://news.example"}
    assert tokens.origins("music") == tokens.origins("nobody") == frozenset()
    tokens.bind("news", ["https://a.example", "https://b.example"])
    tokens.close()
    tokens = Credentials.open(path)
    assert tokens.origins("news") == {"https://a.example", "https://b.example"}
    assert [one.origins for one in tokens.list()] == [frozenset(), {"https://a.example", "https://b.example"}]
    with pytest.raises(CredentialsError, match="origins: got 101"):
        tokens.bind("news", [f"https://{number}.example" for number in range(101)])
    with pytest.raises(CredentialsError, match="no seller"):
        tokens.bind("nobody", [])
    assert len(tokens.origins("news")) == 2
    tokens.revoke("news")
    assert tokens.origins("news") == frozenset()


def test_a_file_of_the_version_before_origins_is_taken_over(path: Path) -> None:
    tokens = Credentials.open(path)
    token = tokens.add("news", [ALICE], [Scope.CHARGE])
    tokens.close()
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE origins")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    tokens = Credentials.open(path)
    assert tokens.lookup(token) is not None
    tokens.bind("news", ["https://news.example"])
    assert tokens.origins("news") == {"https://news.example"}
