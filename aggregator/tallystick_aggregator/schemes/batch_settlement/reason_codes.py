"""The standard codes of refusals of `batch-settlement` (scheme_batch_settlement_evm.md, "Error Codes")."""

from collections.abc import Mapping
from typing import Final

from tallystick.reasons import Reason
from tallystick.x402.batch_settlement import BatchSettlementCode as Code
from tallystick_aggregator.ledger.answers import Refusal

REASON_CODES: Final[Mapping[Reason, str]] = {
    Reason.NETWORK_UNSUPPORTED: Code.NETWORK_MISMATCH,
    Reason.TOKEN_UNSUPPORTED: Code.TOKEN_MISMATCH,
    Reason.TOKEN_MISMATCH: Code.TOKEN_MISMATCH,
    Reason.RECEIVER_MISMATCH: Code.RECEIVER_MISMATCH,
    Reason.OPERATOR_MISMATCH: Code.RECEIVER_AUTHORIZER_MISMATCH,
    Reason.WITHDRAW_DELAY_OUT_OF_RANGE: Code.WITHDRAW_DELAY_OUT_OF_RANGE,
    Reason.CHANNEL_ID_MISMATCH: Code.CHANNEL_ID_MISMATCH,
    Reason.ACCOUNT_UNKNOWN: Code.CHANNEL_NOT_FOUND,
    Reason.CHANNEL_UNKNOWN: Code.CHANNEL_NOT_FOUND,
    Reason.CHANNEL_BUSY: Code.CHANNEL_BUSY,
    Reason.CUMULATIVE_AMOUNT_MISMATCH: Code.CUMULATIVE_AMOUNT_MISMATCH,
    Reason.AMOUNT_MISMATCH: Code.CUMULATIVE_AMOUNT_MISMATCH,
    Reason.AMOUNT_ABOVE_AGREED: Code.CHARGE_EXCEEDS_SIGNED_CUMULATIVE,
    Reason.PENDING_ID_MISMATCH: Code.PENDING_ID_MISMATCH,
    Reason.VOUCHER_SIGNATURE: Code.VOUCHER_SIGNATURE,
    Reason.INSUFFICIENT_FUNDS: Code.CUMULATIVE_EXCEEDS_BALANCE,
    Reason.INSUFFICIENT_CEILING: Code.CHARGE_EXCEEDS_SIGNED_CUMULATIVE,
    Reason.INSUFFICIENT_BALANCE: Code.INSUFFICIENT_BALANCE,
    Reason.RESERVATION_RELEASED: Code.PENDING_ID_MISMATCH,
    Reason.DEPOSIT_AUTHORIZATION: Code.DEPOSIT_SIMULATION_FAILED,
    Reason.PERMIT2_ALLOWANCE_REQUIRED: Code.PERMIT2_ALLOWANCE_REQUIRED,
    Reason.PERMIT2_SPENDER: Code.PERMIT2_INVALID_SPENDER,
    Reason.PERMIT2_PERMIT: Code.EIP2612_INVALID_FORMAT,
    Reason.TRANSACTION_FAILED: Code.TRANSACTION_REVERTED,
    Reason.TRANSACTION_PENDING: Code.SETTLEMENT_PENDING,
    Reason.CHAIN_UNAVAILABLE: Code.RPC_READ_FAILED,
}

_BY_FIELD: Final[Mapping[Reason, Mapping[str, str]]] = {
    Reason.DEPOSIT_AUTHORIZATION: {
        "valid_after": Code.PAYLOAD_AUTHORIZATION_VALID_AFTER,
        "valid_before": Code.PAYLOAD_AUTHORIZATION_VALID_BEFORE,
        "from": Code.PERMIT2_INVALID_SIGNATURE,
        "token": Code.TOKEN_MISMATCH,
        "amount": Code.PERMIT2_AMOUNT_MISMATCH,
        "channelId": Code.CHANNEL_ID_MISMATCH,
    },
    Reason.PERMIT2_PERMIT: {
        "from": Code.EIP2612_OWNER_MISMATCH,
        "asset": Code.EIP2612_ASSET_MISMATCH,
        "spender": Code.EIP2612_SPENDER_MISMATCH,
        "amount": Code.EIP2612_AMOUNT_MISMATCH,
        "deadline": Code.EIP2612_DEADLINE_EXPIRED,
        "signature": Code.EIP2612_INVALID_SIGNATURE,
    },
}
"""By the last part of the field that is refused."""


def of_deposit(refusal: Refusal, *, by_permit2: bool, is_proven: bool) -> Refusal:
    """Give the refusal of a deposit the standard code that its field has.

    `is_proven`: its payer's own key has signed it. What it has not signed, and would fail, is its wallet's refusal.
    """
    field = refusal.field.rpartition(".")[2]
    code = _BY_FIELD.get(refusal.reason, {}).get(field, "")
    if refusal.reason is Reason.DEPOSIT_AUTHORIZATION and field == "signature" and not is_proven:
        code = Code.PERMIT2_INVALID_SIGNATURE if by_permit2 else Code.RECEIVE_AUTHORIZATION_SIGNATURE
    elif by_permit2 and code == Code.PAYLOAD_AUTHORIZATION_VALID_BEFORE:
        code = Code.PERMIT2_DEADLINE_EXPIRED
    return refusal._replace(code=refusal.code or code)
