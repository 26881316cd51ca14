"""Keccak-256, typed: the binding that is used ships no type information."""

from collections.abc import Callable
from typing import Protocol, cast

import sha3  # pyright: ignore[reportMissingTypeStubs]


class Hash(Protocol):
    """What a hash object of the binding offers here."""

    def digest(self) -> bytes:
        """The 32 bytes of the hash."""
        ...


new_keccak256 = cast("Callable[[bytes], Hash]", sha3.keccak_256)  # pyright: ignore[reportUnknownMemberType]
"""A new Keccak-256 (not SHA3-256) over these bytes; hot paths call this and `.digest()` themselves."""


def keccak256(data: bytes) -> bytes:
    """The 32 bytes of Keccak-256, as Ethereum uses it."""
    return new_keccak256(data).digest()
