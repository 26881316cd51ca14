"""A token that payments are made in, and what a payer lets Permit2 move of it."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from tallystick.eip712 import Domain

DECIMALS_MAX: Final = 36


@dataclass(frozen=True, slots=True)
class Token:
    """A token by its address of 20 bytes; `name` and `version` are of its own EIP-712 domain.

    `min_deposit`: the smallest deposit that is taken, in atomic units; 0 where there are no deposits.
    """

    address: bytes
    symbol: str
    decimals: int
    name: str
    version: str
    min_deposit: int = 0

    def domain(self, chain_id: int) -> Domain:
        """The EIP-712 domain of the token on this chain: of ERC-3009 authorizations."""
        return Domain(self.name, self.version, chain_id, self.address)


class Permit2Approval(NamedTuple):
    """How far Permit2 may move a payer's token, in atomic units; at most MAX_AMOUNT, which also stands for more.

    `permit_nonce`: of the payer's next EIP-2612 permit; None where permits are not landed with payments.
    """

    allowance: int
    permit_nonce: int | None
