"""x402's standard scheme `batch-settlement` on EVM chains, as it stands on the wire.

Sections that are named here are of specs/schemes/batch-settlement/scheme_batch_settlement_evm.md, version 1.1. What a
402 asks for is in `tallystick.x402.terms`, what is signed in `tallystick.eip712`, `channels` and `vouchers`: the
scheme's channels and vouchers are those of `deferred` under another domain. The `read_` functions raise MalformedError,
which names the field by its JSON path, and nothing else.

payloads        what a payment carries, as bytes and integers
payload_codec   the same from JSON and to it
states          what answers say of a channel
codes           the codes of refusals
"""

from tallystick.x402.batch_settlement.codes import BatchSettlementCode
from tallystick.x402.batch_settlement.payload_codec import batch_settlement_payload, read_batch_settlement
from tallystick.x402.batch_settlement.payloads import (
    BatchSettlementPayload,
    ClaimPayload,
    DepositPayload,
    Erc3009Deposit,
    Permit2Deposit,
    RefundPayload,
    Reservation,
    SettlePayload,
    VoucherClaim,
    VoucherPayload,
    pack_refund_authorizer,
    packed_refund_authorizer,
)
from tallystick.x402.batch_settlement.states import (
    BatchSettlementSupport,
    ChannelState,
    Settlement,
    VoucherState,
    corrective_extra,
    read_channel_state,
    read_correction,
    read_settlement,
    verified_extra,
)

__all__ = [
    "BatchSettlementCode",
    "BatchSettlementPayload",
    "BatchSettlementSupport",
    "ChannelState",
    "ClaimPayload",
    "DepositPayload",
    "Erc3009Deposit",
    "Permit2Deposit",
    "RefundPayload",
    "Reservation",
    "SettlePayload",
    "Settlement",
    "VoucherClaim",
    "VoucherPayload",
    "VoucherState",
    "batch_settlement_payload",
    "corrective_extra",
    "pack_refund_authorizer",
    "packed_refund_authorizer",
    "read_batch_settlement",
    "read_channel_state",
    "read_correction",
    "read_settlement",
    "verified_extra",
]
