"""The standard codes of refusals of `exact` on EVM chains (x402 specification v2, §9, and the official SDKs)."""

from collections.abc import Mapping
from typing import Final

from tallystick.reasons import Reason

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
