"""The gas figures that an estimate is made of, and docs/comparison.md shows. Tests hold both to contracts/snapshots.

"Measured" is by the gas tests of our contract, on a minimal token: USDC behind its proxy takes more in every scheme.
"Published" is what is told of the standard's original contract, x402BatchSettlement; nothing here is of our stand-in.
All figures are gas of whole transactions, intrinsic gas and calldata included, where nothing else is said.
"""

from typing import Final, NamedTuple

TRANSACTION_GAS_MAX: Final = 16_500_000
"""What one claim may take, in gas: below the 16,777,216 of EIP-7825."""
TRANSACTION_BYTES_MAX: Final = 125_700
"""What the calldata of one claim may weigh: nodes relay no transaction above 128 KiB."""

# deferred, measured
FIRST_DEPOSIT_GAS: Final = 99_642
TOP_UP_GAS: Final = 80_636
FIRST_CLAIM_GAS: Final = 17_100
"""What the first claim of a channel takes on top of its row."""
CLAIM_GAS: Final = 34_259
"""Of a claim by itself. This, and what accounts, rows and payments take, were solved from the measured batches of 100
rows and more. They give each of these back to within one gas a row, and a claim of one row with 2 % too much at most.
"""
PAYMENT_GAS: Final = 8_952
"""Of paying a seller who was paid before, once in a claim."""


class RowCosts(NamedTuple):
    """What a claim takes for each account and each row in it, by one kind of authorisation: gas, bytes of calldata."""

    account_gas: int
    account_bytes: int
    row_gas: int
    row_bytes: int


BY_VOUCHERS: Final = RowCosts(account_gas=8_996, account_bytes=80, row_gas=11_304, row_bytes=98)
"""Each row by its own voucher."""
BY_APPROVAL: Final = RowCosts(account_gas=14_241, account_bytes=144, row_gas=6_626, row_bytes=18)
"""All rows of an account by one approval of totals."""
HEADER_BYTES: Final = 44
RECEIVER_BYTES: Final = 20
"""Of each seller, once in a claim."""

# exact, measured
TRANSFER_GAS: Final = 64_536
"""One transferWithAuthorization to a seller who was paid before."""

# batch-settlement, published
STANDARD_FIRST_DEPOSIT_GAS: Final = 116_742
STANDARD_TOP_UP_GAS: Final = 95_786
STANDARD_ROW_GAS_OF_10: Final = 27_240
"""A row of a claim with the authorizer's signature, of 10 rows."""
STANDARD_ROW_GAS_OF_100: Final = 24_088
"""The same, of 100 rows."""
STANDARD_SETTLE_GAS: Final = 46_252
"""One `settle`: what was claimed for one seller is paid to it."""
STANDARD_ROW_BYTES: Final = 480

STANDARD_ROW_GAS: Final = -(-(100 * STANDARD_ROW_GAS_OF_100 - 10 * STANDARD_ROW_GAS_OF_10) // 90)
"""Each row more, by the line through the two published claims; rounded up."""
STANDARD_CLAIM_GAS: Final = 10 * (STANDARD_ROW_GAS_OF_10 - STANDARD_ROW_GAS)
"""Of a claim by itself, by the same line."""


class ChainPreset(NamedTuple):
    """A chain's coin, and what it asks for beside gas at the gas price; empty where there is nothing."""

    coin: str
    not_counted: str


_OP_DATA_FEE: Final = (
    "the L1 data fee, which {} adds to every transaction for its bytes. It grows with the calldata: a claim's row"
    f" takes {BY_VOUCHERS.row_bytes} bytes in deferred and {STANDARD_ROW_BYTES} in batch-settlement"
)
CHAINS: Final = {
    "arbitrum": ChainPreset("ETH", "the L1 part of Arbitrum's gas, which it adds to every transaction for its bytes"),
    "base": ChainPreset("ETH", _OP_DATA_FEE.format("Base")),
    "ethereum": ChainPreset("ETH", ""),
    "optimism": ChainPreset("ETH", _OP_DATA_FEE.format("OP Mainnet")),
}
