"""Keys by reference: what works, what is refused in one sentence, and that no key is ever told (threat 32)."""

import os
import traceback
from pathlib import Path

import pytest
from eth_account import Account

from tallystick.errors import KeyReferenceError, MalformedError
from tallystick.keys import PASSWORD_VARIABLE, create_keystore, load_signer, with_paths
from tallystick.signatures import Signer

KEY = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
ADDRESS = Signer(bytes.fromhex(KEY)).address
PASSWORD = "correct horse"


def private_file(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def refuse(reference: str) -> str:
    """The error's text, after proving that its whole traceback tells no key."""
    with pytest.raises(KeyReferenceError) as caught:
        load_signer(reference, "chain[0].settler_key")
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__dict__)
    assert KEY not in told
    assert KEY[8:40] not in told
    assert PASSWORD not in told
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("chain[0].settler_key: got ")
    return str(caught.value)


@pytest.mark.parametrize("text", [KEY, "0x" + KEY, KEY.upper(), f"  0x{KEY}\n"])
def test_a_key_is_read_from_a_private_file_and_from_the_environment(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = private_file(tmp_path / "key", text)
    monkeypatch.setenv("SETTLER_KEY", text)
    assert load_signer(f"file:{path}", "key").address == ADDRESS
    assert load_signer("env:SETTLER_KEY", "key").address == ADDRESS


def test_a_new_keystore_is_private_encrypted_and_opens_with_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.json"
    address = create_keystore(path, PASSWORD)
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    assert load_signer(f"keystore:{path}", "key").address == address
    # Other tools open it too.
    key = Account.decrypt(path.read_text(), PASSWORD)
    assert Signer(bytes(key)).address == address

    monkeypatch.delenv(PASSWORD_VARIABLE)
    password_file = private_file(tmp_path / "password", PASSWORD + "\n")
    assert load_signer(f"keystore:{path}?password-file={password_file}", "key").address == address

    password_file.chmod(0o644)
    assert "others than its owner have access" in refuse(f"keystore:{path}?password-file={password_file}")
    assert f"${PASSWORD_VARIABLE} is not set" in refuse(f"keystore:{path}")
    private_file(password_file, "\n")
    assert "whose password is empty" in refuse(f"keystore:{path}?password-file={password_file}")
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    assert "whose password is wrong" in refuse(f"keystore:{path}")


@pytest.mark.parametrize(
    ("reference", "moved"),
    [
        ("file:a.key", "file:/there/a.key"),
        ("file:/a.key", "file:/a.key"),
        ("file:a?password-file=b", "file:/there/a?password-file=b"),
        ("keystore:a.json", "keystore:/there/a.json"),
        ("keystore:a.json?password-file=b", "keystore:/there/a.json?password-file=/there/b"),
        ("keystore:/a.json?password-file=b", "keystore:/a.json?password-file=/there/b"),
        ("env:a.key", "env:a.key"),
        ("file:", "file:"),
        (f"file:{KEY}", f"file:{KEY}"),
        ("a.key", "a.key"),
    ],
)
def test_all_paths_of_a_reference_are_changed_and_nothing_else(reference: str, moved: str) -> None:
    assert with_paths(reference, Path("/there").joinpath) == moved


def test_a_keystore_is_never_overwritten(tmp_path: Path) -> None:
    path = private_file(tmp_path / "key.json", "precious")
    with pytest.raises(FileExistsError):
        create_keystore(path, PASSWORD)
    assert path.read_text() == "precious"


def test_a_keystore_without_a_password_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match=r"^keystore password: got nothing"):
        create_keystore(tmp_path / "key.json", "")
    assert not (tmp_path / "key.json").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o777])
def test_a_key_file_that_others_may_use_is_refused(mode: int, tmp_path: Path) -> None:
    path = private_file(tmp_path / "key", KEY)
    path.chmod(mode)
    assert f"chmod 600 '{path}'" in refuse(f"file:{path}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        KEY[:-1],
        KEY + "0",
        "0" * 64,
        "f" * 64,
        "g" * 64,
        "\uff11" * 64,
        f"key = {KEY}",
        f"{KEY}\n{KEY}",
        "x" * 70_000,
    ],
)
def test_a_file_or_variable_without_a_key_is_refused_and_not_quoted(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = private_file(tmp_path / "key", text)
    assert "which holds no private key" in refuse(f"file:{path}")
    monkeypatch.setenv("SETTLER_KEY", text or " ")
    assert "which holds no private key" in refuse("env:SETTLER_KEY")


def test_a_key_in_place_of_a_reference_is_recognised_and_not_told() -> None:
    for reference in (KEY, "0x" + KEY, f"file:{KEY}", f"env:0x{KEY}", f"hex:{KEY}", f" {KEY} "):
        assert "what looks like a private key itself" in refuse(reference)


@pytest.mark.parametrize(
    "reference", ["", "settler.json", "env:", "file:", "keystore:", "vault:secret/settler", "FILE:x"]
)
def test_what_is_no_reference_is_refused(reference: str) -> None:
    assert "allowed keystore:PATH, file:PATH or env:NAME" in refuse(reference)


def test_a_missing_file_variable_or_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    assert "No such file" in refuse(f"file:{tmp_path}/none")
    assert "No such file" in refuse(f"keystore:{tmp_path}/none")
    assert "Is a directory" in refuse(f"file:{tmp_path}")
    assert "$TALLYSTICK_TEST_NOWHERE is not set" in refuse("env:TALLYSTICK_TEST_NOWHERE")
    assert "cannot be read" in refuse("file:a\0b")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "1", '"text"', "{", '{"version": 3}', '{"version": 3, "crypto": {}}', '{"version": 4}',
     '{"version": 3, "crypto": {"kdf": "rot13"}}', "[" * 50_000],
)  # fmt: skip
def test_a_file_that_is_no_keystore_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    path = private_file(tmp_path / "key.json", text)
    assert "which is no V3 keystore" in refuse(f"keystore:{path}")


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(os.urandom(64))
    path.chmod(0o600)
    assert "which holds no private key" in refuse(f"file:{path}")
