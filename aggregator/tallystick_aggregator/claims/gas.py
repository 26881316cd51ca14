"""What a batch of claims will cost and weigh, estimated without asking anyone. Pure.

Upper estimates for Escrow.sol with a token like USDC behind its proxy, by today's rules of Ethereum: they decide where
a batch is cut, and whether an approval is cheaper than vouchers. The node's own estimate comes later and has the last
word: a batch that is too big after all is halved, and `gas_scale` learns what the chain charges. A test holds them
against Anvil.
"""

from typing import Final

from tallystick_contracts.claim_batch import (
    ACCOUNT_BYTES,
    APPROVAL_BYTES,
    APPROVAL_ROW_BYTES,
    COUNT_BYTES,
    HEADER_BYTES,
    RECEIVER_BYTES,
    VOUCHER_ROW_BYTES,
)

BATCH_GAS_MAX: Final = 16_500_000
"""What is planned for one transaction, of the 16,777,216 that it may take: a further one costs 21,000 and a transfer
per seller."""
BATCH_BYTES_MAX: Final = 125_700
"""Bytes of one encoded batch: the envelope takes less than 250 of the 126,000 (threat 40)."""

TRANSACTION_GAS: Final = 30_000
VOUCHER_ROW_GAS: Final = 11_700
APPROVAL_ROW_GAS: Final = 7_900
STALE_ROW_GAS: Final = 6_000
"""A row that an approval brings along although it has nothing new."""
FIRST_CLAIM_GAS: Final = 17_100
"""What a channel's first claim costs on top: a storage slot that was zero."""
ACCOUNT_GAS: Final = 9_000
APPROVAL_GAS: Final = 6_000
RECEIVER_GAS: Final = 30_000
"""One transfer; the escrow insists on 320,000 being left before each, hence the reserve."""
RESERVE_GAS: Final = 325_000

FIXED_BYTES: Final = HEADER_BYTES + COUNT_BYTES
FIXED_GAS: Final = TRANSACTION_GAS + RESERVE_GAS

__all__ = [
    "ACCOUNT_BYTES",
    "APPROVAL_BYTES",
    "APPROVAL_ROW_BYTES",
    "RECEIVER_BYTES",
    "VOUCHER_ROW_BYTES",
]
