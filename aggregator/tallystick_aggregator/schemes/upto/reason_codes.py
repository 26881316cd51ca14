"""The standard codes of refusals of `upto` on EVM chains (scheme_upto_evm.md §4, and the official SDKs)."""

from collections.abc import Mapping
from typing import Final

from tallystick.reasons import Reason
from tallystick_aggregator.schemes.exact.reason_codes import PERMIT2_CODES

REASON_CODES: Final[Mapping[Reason, str]] = {
    **PERMIT2_CODES,
    Reason.NETWORK_UNSUPPORTED: "invalid_upto_evm_network_mismatch",
    Reason.UPTO_FACILITATOR_MISMATCH: "upto_facilitator_mismatch",
    Reason.UPTO_AMOUNT_EXCEEDED: "invalid_upto_evm_payload_settlement_exceeds_amount",
    Reason.TRANSACTION_FAILED: "invalid_upto_evm_transaction_failed",
    Reason.SIMULATION_FAILED: "invalid_upto_evm_transaction_failed",
    Reason.EXACT_GAS: "invalid_upto_evm_transaction_failed",
}
