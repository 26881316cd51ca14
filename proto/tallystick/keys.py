"""Private keys by reference: a configuration names where a key is, and never holds it.

    keystore:PATH                        an encrypted V3 keystore; its password from $TALLYSTICK_KEYSTORE_PASSWORD
    keystore:PATH?password-file=PATH     the same; its password from the first line of a file
    file:PATH                            64 hex digits in a file that only its owner may read
    env:NAME                             64 hex digits in an environment variable

What goes wrong is told in one sentence that names the reference and never the key.
"""

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import coincurve

from tallystick.errors import Described, KeyReferenceError, MalformedError
from tallystick.quantities import Address
from tallystick.signatures import Signer

PASSWORD_VARIABLE: Final = "TALLYSTICK_KEYSTORE_PASSWORD"  # noqa: S105 - the name of a variable
_PASSWORD_FILE: Final = "?password-file="  # noqa: S105 - a piece of syntax
_FILE_BYTES_MAX: Final = 65_536
_REFERENCES: Final = "keystore:PATH, file:PATH or env:NAME"
_KEY_ALLOWED: Final = "64 hex digits, with or without 0x, that are a private key of secp256k1"
_KEY: Final = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")


def load_signer(reference: str, field: str) -> Signer:
    """The signer whose key `reference` names; `field` is the setting that holds the reference.

    Raises KeyReferenceError. A keystore takes about a second: that is its purpose.
    """
    scheme, _, target = reference.partition(":")
    if _KEY.fullmatch((target or reference).strip()):
        raise KeyReferenceError(field, Described("what looks like a private key itself"), _REFERENCES)
    if not target or scheme not in {"keystore", "file", "env"}:
        raise KeyReferenceError(field, reference, _REFERENCES)
    if scheme == "env":
        return _signer(_variable(target, reference, field), reference, field)
    if scheme == "file":
        return _signer(_read(Path(target), reference, field, private=True), reference, field)
    return _from_keystore(target, reference, field)


def with_paths(reference: str, change: Callable[[Path], Path]) -> str:
    """The same reference with `change` made to the path of its key and of its password's file, if it names any.

    What looks like a key instead of a path stays as it is, for `load_signer` to refuse without showing it.
    """
    scheme, _, target = reference.partition(":")
    if not target or scheme not in {"keystore", "file"} or _KEY.fullmatch(target.strip()):
        return reference
    names = target.split(_PASSWORD_FILE, 1) if scheme == "keystore" else [target]
    return f"{scheme}:" + _PASSWORD_FILE.join(str(change(Path(name))) for name in names)


def create_keystore(path: Path, password: str) -> Address:
    """Make a new key, write it to a new V3 keystore that only its owner may read, and return its address.

    The file is on disk when this returns, so that money may be sent to the address. Raises FileExistsError rather than
    overwrite a key, MalformedError on an empty password, and OSError as files do.
    """
    if not password:
        raise MalformedError("keystore password", Described("nothing"), "at least one character")
    key = coincurve.PrivateKey().secret
    keystore = _eth_keyfile().create_keyfile_json(key, password.encode())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump(keystore, file)
        file.flush()
        os.fsync(file.fileno())
    _sync_directory(path.parent)
    return Signer(key).address


def _from_keystore(target: str, reference: str, field: str) -> Signer:
    name, separator, password_file = target.partition(_PASSWORD_FILE)
    if separator:
        text = _read(Path(password_file), reference, field, private=True)
        password = text.splitlines()[0] if text else ""
    else:
        password = _variable(PASSWORD_VARIABLE, reference, field)
    if not password:
        raise KeyReferenceError(field, _shown(reference, "whose password is empty"), "a password")
    try:
        keystore = json.loads(_read(Path(name), reference, field, private=False))
        key = bytes(_eth_keyfile().decode_keyfile_json(keystore, password.encode()))
    # The library raises a dozen types on a file that is no keystore; all mean the same to the reader.
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, RecursionError) as error:
        if isinstance(error, KeyReferenceError):
            raise
        # Its message about a wrong password is "MAC mismatch".
        problem = "whose password is wrong" if "MAC" in str(error) else "which is no V3 keystore"
        raise KeyReferenceError(field, _shown(reference, problem), "a V3 keystore and its password") from None
    return _signer(key.hex(), reference, field)


def _signer(text: str, reference: str, field: str) -> Signer:
    match = _KEY.fullmatch(text.strip())
    try:
        # Nothing of the text may reach an error, hence no parser that quotes it.
        return Signer(bytes.fromhex(match[1] if match else ""))
    except MalformedError:
        raise KeyReferenceError(field, _shown(reference, "which holds no private key"), _KEY_ALLOWED) from None


def _variable(name: str, reference: str, field: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise KeyReferenceError(field, _shown(reference, f"but ${name} is not set"), "a variable that is set")
    return value


def _read(path: Path, reference: str, field: str, *, private: bool) -> str:
    name = ascii(str(path))
    try:
        # The mode is that of the file that is read, not of one that may have taken its place since.
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "no possible path"
        raise KeyReferenceError(
            field, _shown(reference, f"but {name} cannot be read ({problem})"), "a file that can be read"
        ) from None
    if private and os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        problem = f"but others than its owner have access to {name}"
        raise KeyReferenceError(field, _shown(reference, problem), f"a private file (chmod 600 {name})")
    # A file of another kind stands for nothing that is looked for here; what it holds is not shown.
    return data.decode(errors="replace") if len(data) <= _FILE_BYTES_MAX else ""


def _shown(reference: str, problem: str) -> Described:
    return Described(f"{reference!a}, {problem}")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _eth_keyfile() -> Any:
    # Here, because it takes longer to import than all of this package, and few need it.
    import eth_keyfile  # noqa: PLC0415

    return cast("Any", eth_keyfile)
