"""The one way to a chain, on web3 and eth-account: for the aggregator, `tallystick deploy` and a payer's withdrawals.

errors        what endpoints answer instead of a result
provider      one JSON-RPC endpoint, as web3 takes it
answers       single values that endpoints answer, read strictly
fees          what blocks cost, and what a transaction usually offers (EIP-1559)
transactions  signed forms
caller        a few transactions of one key, each after the receipt of the one before
reverts       sentences of what contracts return when they refuse

Needs the extra `chain`. Events are decoded by `tallystick_contracts.events`, which needs no web3.
"""

import sys

_recursion_limit = sys.getrecursionlimit()
import web3  # noqa: E402, F401  # pyright: ignore[reportUnusedImport]

# py_ecc, which web3 brings, raises the limit to 100,000 for the whole process: JSON nested deeply, from whomever, would
# overflow the stack of C and end the process, instead of raising RecursionError.
sys.setrecursionlimit(_recursion_limit)
