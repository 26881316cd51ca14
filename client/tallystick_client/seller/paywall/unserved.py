"""Payments that landed and whose page nobody got: what a seller may want to pay back."""

from dataclasses import dataclass
from typing import Final

UNSERVED_MAX: Final = 1_000
"""So many are remembered, the newest."""


@dataclass(frozen=True, slots=True)
class Unserved:
    """An exact payment that was taken for a request whose client had gone, and which named no payment id.

    `at` is in seconds since the epoch, `amount` in atomic units of `asset`; addresses, nonce, transaction are 0x-hex.
    """

    at: float
    request: str
    """Method and path."""
    payer: str
    amount: int
    asset: str
    network: str
    nonce: str
    transaction: str
