import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from config_sample import GOOD

from tallystick.hexadecimal import checksum
from tallystick_aggregator.auth.credentials import Credentials, Scope
from tallystick_aggregator.runtime.cli import seller

NEWS = bytes.fromhex("aa" * 20)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration without its keys: tokens need none."""
    path = tmp_path / "aggregator.toml"
    path.write_text(GOOD.replace("books/", ""))
    return path


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(seller, [*arguments, "--config", str(config)])


def lookup(config: Path, token: str) -> object:
    credentials = Credentials.open(config.parent / "tallystick.db.credentials")
    try:
        return credentials.lookup(token)
    finally:
        credentials.close()


def add(config: Path, *arguments: str) -> str:
    result = run(config, "add", "news", "--receiver", checksum(NEWS), "--json", *arguments)
    assert result.exit_code == 0, result.output
    return str(json.loads(result.output)["token"])


def test_a_seller_is_added_and_its_token_shown_once(config: Path) -> None:
    token = add(config)
    principal = lookup(config, token)
    assert principal == ("news", frozenset({NEWS}), frozenset(Scope))
    assert token.encode() not in (config.parent / "tallystick.db.credentials").read_bytes()
    listed = run(config, "list", "--json")
    assert token not in listed.output
    (one,) = json.loads(listed.output)
    assert (one["name"], one["receivers"], one["tokens"]) == ("news", [checksum(NEWS)], 1)


def test_scopes_limit_the_token(config: Path) -> None:
    principal = lookup(config, add(config, "--scope", "read"))
    assert principal == ("news", frozenset({NEWS}), frozenset({Scope.READ}))


def test_a_rotated_token_takes_the_place_of_the_old_one(config: Path) -> None:
    old = add(config)
    result = run(config, "rotate", "news", "--json")
    new = json.loads(result.output)["token"]
    assert lookup(config, old) is None
    assert lookup(config, new) is not None


def test_a_revoked_seller_is_known_and_may_do_nothing(config: Path) -> None:
    token = add(config)
    assert run(config, "list").output.endswith("  1 token\n")
    assert run(config, "revoke", "news").output == "revoked news\n"
    assert lookup(config, token) is None
    assert "revoked" in run(config, "list").output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["add", "news", "--receiver", "0x12"], "--receiver: got"),
        (["add", "news", "--receiver", "0x" + "00" * 20], "receivers: got"),
        (["add", "a name with spaces", "--receiver", "0x" + "aa" * 20], "name: got"),
        (["rotate", "nobody"], "there is no seller 'nobody'"),
        (["rotate", "nobody", "--grace", "-1"], "grace: got -1.0"),
        (["revoke", "nobody"], "there is no seller 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(config: Path, arguments: list[str], sentence: str) -> None:
    result = run(config, *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.startswith("tallystick: ")
    assert result.stderr.count("\n") == 1


def test_a_configuration_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    result = run(tmp_path / "none.toml", "list")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_origins_are_bound_and_shown(config: Path) -> None:
    add(config, "--origin", "https://News.example/", "--origin", "https://b.example:8443")

    def origins() -> list[str]:
        (one,) = json.loads(run(config, "list", "--json").output)
        return list(one["origins"])

    assert origins() == ["https://b.example:8443", "https://news.example"]
    assert "lists https://news.example" in run(config, "list").output
    result = run(config, "origins", "news", "https://a.example", "https://a.example/")
    assert (result.exit_code, result.output) == (0, "news may list https://a.example\n")
    assert origins() == ["https://a.example"]
    assert run(config, "origins", "news").output == "news may list nothing\n"
    assert origins() == []


def test_an_origin_that_is_none_changes_nothing_and_is_named(config: Path) -> None:
    add(config, "--origin", "https://news.example")
    result = run(config, "origins", "news", "https://a.example", "https://a.example/path")
    assert result.exit_code != 0
    assert "https://a.example/path" in result.output
    (one,) = json.loads(run(config, "list", "--json").output)
    assert one["origins"] == ["https://news.example"]
    other = run(config, "add", "music", "--receiver", checksum(NEWS), "--origin", "music.example")
    assert (other.exit_code != 0, "--origin" in other.output) == (True, True)
    assert len(json.loads(run(config, "list", "--json").output)) == 1
