"""Our reasons as the codes that x402 and its SDKs know (x402 specification v2, §9).

A scheme may name codes of its own (`schemes.port.NamesReasons`, `Refusal.code`). What neither knows keeps our own code,
as in `voucher_used`: clients treat a code that they do not know as a refusal without a remedy.
"""

from collections.abc import Mapping
from typing import Final

from tallystick.reasons import Reason

INVALID_PAYLOAD: Final = "invalid_payload"
INVALID_REQUIREMENTS: Final = "invalid_payment_requirements"
INVALID_VERSION: Final = "invalid_x402_version"
UNEXPECTED: Final = "unexpected_{verb}_error"
"""Of the facilitator's own troubles: nothing is wrong with the payment."""

STANDARD: Final[Mapping[Reason, str]] = {
    Reason.INSUFFICIENT_FUNDS: "insufficient_funds",
    Reason.INSUFFICIENT_BALANCE: "insufficient_funds",
    Reason.PAYLOAD_INVALID: INVALID_PAYLOAD,
    Reason.SCHEME_UNSUPPORTED: "unsupported_scheme",
    Reason.NETWORK_UNSUPPORTED: "invalid_network",
    Reason.TOKEN_UNSUPPORTED: INVALID_REQUIREMENTS,
    Reason.TOKEN_MISMATCH: INVALID_PAYLOAD,
    Reason.TRANSACTION_FAILED: "invalid_transaction_state",
    Reason.TRANSACTION_PENDING: "settlement_pending",
    Reason.CHAIN_STALE: UNEXPECTED,
    Reason.CHAIN_UNAVAILABLE: UNEXPECTED,
    Reason.STORE_UNAVAILABLE: UNEXPECTED,
    Reason.OVERLOADED: UNEXPECTED,
    Reason.GAS_BUDGET_SPENT: UNEXPECTED,
    Reason.EXACT_UNAVAILABLE: UNEXPECTED,
}


def standard_code(reason: Reason, verb: str) -> str:
    """Return the code of a refusal whose scheme names none; `verb` is "verify" or "settle"."""
    code = STANDARD.get(reason)
    return reason.code if code is None else code.format(verb=verb)
