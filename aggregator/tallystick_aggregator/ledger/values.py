"""What the ledger's state is made of; its values are `tallystick.values.Value`."""

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, Self

from msgspec import Meta, Struct

from tallystick.errors import MalformedError
from tallystick.hexadecimal import to_hex

SECONDS_MAX: Final = 10 * 365 * 24 * 3_600
"""The longest time that can be configured."""
COUNT_MAX: Final = 2**31 - 1
Count = Annotated[int, Meta(ge=1, le=COUNT_MAX)]
"""How many of something there may be at most."""


class EscrowRef(NamedTuple):
    """The escrow contract that an account is in: its network's CAIP-2 name and its address on it.

    `address` is empty in what was stored before accounts named their escrow, see `Ledger.name_escrows`.
    """

    network: str
    address: bytes

    def __str__(self) -> str:
        """As CAIP-10 writes it: eip155:8453:0x..., in lower case; the network alone where there is no address."""
        return f"{self.network}:{to_hex(self.address)}" if self.address else self.network


@lru_cache(maxsize=1_024)
def parse_escrow(text: str) -> EscrowRef:
    """Read what `str` makes of an EscrowRef. Raises MalformedError. Equal texts give one shared object."""
    network, separator, digits = text.rpartition(":0x")
    try:
        escrow = EscrowRef(network, bytes.fromhex(digits)) if separator else EscrowRef(text, b"")
    except ValueError:
        raise MalformedError("escrow", text, "a CAIP-10 name") from None
    if str(escrow) != text or len(escrow.address) not in {0, 20}:
        raise MalformedError("escrow", text, "a CAIP-10 name")
    return escrow


class State(Struct, gc=False):
    """What changes by being copied: a draft changes the copy, the ledger adopts it. What a copy shares is immutable."""

    if TYPE_CHECKING:

        def copy(self) -> Self:
            """A shallow copy."""
            raise NotImplementedError

    else:
        copy = Struct.__copy__  # what `copy.copy` calls after a long search
