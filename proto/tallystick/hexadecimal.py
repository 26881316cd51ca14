"""Hex at the edges: addresses with their EIP-55 checksum, and 0x-prefixed bytes of a known length.

Parsing is strict, because what two parties read differently they hash differently: the prefix is `0x`, the length is
exact, and there is no white space.
"""

import re
from functools import lru_cache
from typing import Final

from tallystick.errors import Described, MalformedError
from tallystick.hashing import keccak256
from tallystick.quantities import Address

_HEX_DIGITS: Final = frozenset("0123456789abcdefABCDEF")
_HEX: Final = re.compile("0x[0-9a-fA-F]*")


def parse_address(text: object, field: str) -> Address:
    """The 20 bytes of an address written in hex, with 0x.

    All lower or all upper case is taken as it is; mixed case must carry the right checksum (EIP-55), because a wrong
    one means a mistyped address. Raises MalformedError.
    """
    digits = _digits(text, 20, field)
    address = _address(digits)
    if address is None:
        right = checksum(bytes.fromhex(digits))
        raise MalformedError(field, text, f"a right checksum (EIP-55), here {right}, or lower case")
    return address


@lru_cache(maxsize=4_096)
def _address(digits: str) -> Address | None:
    """The address in 40 hex digits; None where their case is no right checksum. Remembered, as `checksum` is."""
    address = Address(bytes.fromhex(digits))
    is_right = digits in {digits.lower(), digits.upper()} or "0x" + digits == checksum(address)
    return address if is_right else None


@lru_cache(maxsize=4_096)
def checksum(address: bytes) -> str:
    """The address as 0x-hex with its EIP-55 checksum in the case of its letters.

    Remembered, because it takes as long as a signature check, and a facilitator reads the same tokens and receivers in
    every request.
    """
    digits = address.hex()
    nibbles = keccak256(digits.encode()).hex()
    return "0x" + "".join(c.upper() if n >= "8" else c for c, n in zip(digits, nibbles, strict=False))


def parse_bytes(text: object, length: int, field: str) -> bytes:
    """Exactly `length` bytes written in hex, with 0x, in any case. Raises MalformedError.

    The error tells the length of what came, never the text: it may be a signature or a secret.
    """
    return bytes.fromhex(_digits(text, length, field))


def parse_bytes_up_to(text: object, length_max: int, field: str) -> bytes:
    """From none to `length_max` bytes written in hex, with 0x, in any case. Raises MalformedError."""
    if not isinstance(text, str) or len(text) > 2 + 2 * length_max or len(text) % 2 or not _is_hex(text):
        raise MalformedError(field, _shape(text), f"0x and an even number of hex digits, at most {2 * length_max}")
    return bytes.fromhex(text[2:])


def to_hex(data: bytes) -> str:
    """0x and lower-case hex."""
    return "0x" + data.hex()


def shorten(hexadecimal: str) -> str:
    """Hex by its ends, such as "0x90F7…b906": to be recognised on a terminal, not to be copied."""
    return f"{hexadecimal[:6]}…{hexadecimal[-4:]}"


def _digits(text: object, length: int, field: str) -> str:
    if not isinstance(text, str) or len(text) != 2 + 2 * length or not _is_hex(text):
        raise MalformedError(field, _shape(text), f"0x and {2 * length} hex digits")
    return text[2:]


def _is_hex(text: str) -> bool:
    # bytes.fromhex alone would skip white space.
    return _HEX.fullmatch(text) is not None


def _shape(text: object) -> object:
    if not isinstance(text, str):
        return text
    if not text.startswith("0x"):
        return Described(f"{len(text)} characters without 0x")
    if not _HEX_DIGITS.issuperset(text[2:]):
        return Described(f"{len(text)} characters, not all of them hex")
    return Described(f"0x and {len(text) - 2} hex digits")
