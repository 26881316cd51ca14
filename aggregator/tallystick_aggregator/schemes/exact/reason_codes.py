"""The standard codes of refusals of `exact` on EVM chains (x402 specification v2, §9, and the official SDKs)."""

from collections.abc import Mapping
from typing import Final, TypeVar

from tallystick.reasons import Reason
from tallystick.x402 import Permit2Authorization
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact.authorizations import Authorization

Answer = TypeVar("Answer")

REASON_CODES: Final[Mapping[Reason, str]] = {
    Reason.RECEIVER_MISMATCH: "invalid_exact_evm_payload_recipient_mismatch",
    Reason.AMOUNT_MISMATCH: "invalid_exact_evm_payload_authorization_value_mismatch",
    Reason.EXACT_SIGNATURE: "invalid_exact_evm_payload_signature",
    Reason.EXACT_NOT_YET_VALID: "invalid_exact_evm_payload_authorization_valid_after",
    Reason.EXACT_EXPIRED: "invalid_exact_evm_payload_authorization_valid_before",
    Reason.EXACT_NONCE_USED: "invalid_exact_evm_nonce_already_used",
    Reason.PAYMENT_USED: "invalid_exact_evm_nonce_already_used",
    Reason.SIMULATION_FAILED: "invalid_exact_evm_transaction_simulation_failed",
    Reason.EXACT_GAS: "invalid_exact_evm_transaction_simulation_failed",
}

PERMIT2_CODES: Final[Mapping[Reason, str]] = {
    Reason.RECEIVER_MISMATCH: "invalid_permit2_recipient_mismatch",
    Reason.AMOUNT_MISMATCH: "permit2_amount_mismatch",
    Reason.TOKEN_MISMATCH: "permit2_token_mismatch",
    Reason.EXACT_SIGNATURE: "invalid_permit2_signature",
    Reason.EXACT_NOT_YET_VALID: "permit2_not_yet_valid",
    Reason.EXACT_EXPIRED: "permit2_deadline_expired",
    Reason.EXACT_NONCE_USED: "permit2_invalid_nonce",
    Reason.PAYMENT_USED: "permit2_invalid_nonce",
    Reason.INSUFFICIENT_BALANCE: "permit2_insufficient_balance",
    Reason.PERMIT2_ALLOWANCE_REQUIRED: "permit2_allowance_required",
    Reason.PERMIT2_SPENDER: "invalid_permit2_spender",
    Reason.PERMIT2_PERMIT: "invalid_eip2612_extension_format",
    Reason.SIMULATION_FAILED: "invalid_exact_evm_transaction_simulation_failed",
    Reason.EXACT_GAS: "invalid_exact_evm_transaction_simulation_failed",
}
"""Of payments by Permit2."""


def with_its_code(payment: Authorization, answer: Answer) -> Answer | Refusal:
    """Return the answer; the refusal of a payment by Permit2 with the standard code that it has."""
    if isinstance(answer, Refusal) and isinstance(payment, Permit2Authorization):
        return answer._replace(code=answer.code or PERMIT2_CODES.get(answer.reason, ""))
    return answer
