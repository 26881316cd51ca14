"""The codes that refusals of `batch-settlement` carry ("Error Codes"; a few come from the official packages alone)."""

from enum import StrEnum, auto
from typing import Final

_PREFIX: Final = "invalid_batch_settlement_evm_"


class BatchSettlementCode(StrEnum):
    """`errorReason` or `invalidReason` of a refusal; the value is what stands on the wire."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:  # noqa: ARG004
        """The code is the member's name behind the scheme's prefix."""
        return _PREFIX + name.lower()

    AUTHORIZER_ADDRESS_MISMATCH = auto()
    """The authorizer is not the receiverAuthorizer that was expected."""
    AUTHORIZER_NOT_CONFIGURED = auto()
    """A signature of the receiverAuthorizer is asked for, and the facilitator has no such key."""
    CHANNEL_BUSY = auto()
    """Another request holds the channel's lock; the same one may succeed shortly."""
    CHANNEL_ID_INVALID = auto()
    """The channel id is not 0x and 64 hex digits."""
    CHANNEL_ID_MISMATCH = auto()
    """The channel's configuration does not hash to the channel id."""
    CHANNEL_NOT_FOUND = auto()
    """The channel has no balance on chain."""
    CHANNEL_STATE_READ_FAILED = auto()
    """The channel could not be read from the chain."""
    CHARGE_EXCEEDS_SIGNED_CUMULATIVE = auto()
    """The charge would go beyond what the voucher allows."""
    CLAIM_PAYLOAD = auto()
    """The payload of a claim is malformed."""
    CLAIM_SIMULATION_FAILED = auto()
    """The claim would revert."""
    CLAIM_TRANSACTION_FAILED = auto()
    """The transaction of the claim failed."""
    CUMULATIVE_AMOUNT_MISMATCH = auto()
    """The voucher is not over what was charged and the price; a corrective 402 says what was charged."""
    CUMULATIVE_BELOW_CLAIMED = auto()
    """The voucher is not above what was claimed on chain."""
    CUMULATIVE_EXCEEDS_BALANCE = auto()
    """The voucher is over more than the channel holds."""
    DEPOSIT_BELOW_MIN_DEPOSIT = auto()
    """The server takes no deposit below its `minDeposit`; never said by a facilitator."""
    DEPOSIT_PAYLOAD = auto()
    """The payload of a deposit is malformed."""
    DEPOSIT_SIMULATION_FAILED = auto()
    """The deposit would revert."""
    DEPOSIT_TRANSACTION_FAILED = auto()
    """The transaction of the deposit failed."""
    EIP2612_AMOUNT_MISMATCH = auto()
    """The permit is over another amount than the deposit."""
    EIP2612_ASSET_MISMATCH = auto()
    """The permit is of another token."""
    EIP2612_DEADLINE_EXPIRED = auto()
    """The permit's deadline has passed."""
    EIP2612_INVALID_FORMAT = auto()
    """The permit is malformed."""
    EIP2612_INVALID_SIGNATURE = auto()
    """The permit's signature is not its owner's."""
    EIP2612_OWNER_MISMATCH = auto()
    """The permit's owner is not the payer."""
    EIP2612_SPENDER_MISMATCH = auto()
    """The permit's spender is not Permit2."""
    EIP6492_FACTORY_NOT_ALLOWED = auto()
    """The signature names a factory that is not on the facilitator's list."""
    ERC20_APPROVAL_ASSET_MISMATCH = auto()
    """The signed approval is of another token."""
    ERC20_APPROVAL_BROADCAST_FAILED = auto()
    """The signed approval could not be sent."""
    ERC20_APPROVAL_FROM_MISMATCH = auto()
    """The signed approval is not the payer's."""
    ERC20_APPROVAL_INVALID_FORMAT = auto()
    """The signed approval is malformed."""
    ERC20_APPROVAL_UNAVAILABLE = auto()
    """Signed approvals are not taken here."""
    ERC20_APPROVAL_WRONG_SPENDER = auto()
    """The signed approval's spender is not Permit2."""
    ERC3009_AUTHORIZATION_REQUIRED = auto()
    """The deposit lacks its `erc3009Authorization`."""
    INSUFFICIENT_BALANCE = auto()
    """The payer's tokens do not cover the deposit."""
    MISSING_CHANNEL = auto()
    """The server has no session for the channel."""
    MISSING_EIP712_DOMAIN = auto()
    """The 402's `extra` lacks the token's `name` or `version`."""
    NETWORK_MISMATCH = auto()
    """The payment is for another network than the request."""
    NOTHING_TO_SETTLE = auto()
    """Nothing is claimed and unpaid for this receiver and token."""
    PAYLOAD_AUTHORIZATION_VALID_AFTER = auto()
    """The authorization is not valid yet."""
    PAYLOAD_AUTHORIZATION_VALID_BEFORE = auto()
    """The authorization is not valid any more."""
    PAYLOAD_TYPE = auto()
    """The payload's `type` does not belong to this call."""
    PENDING_ID_MISMATCH = auto()
    """The channel's lock is held for another voucher than the one that is to be settled."""
    PERMIT2_ALLOWANCE_REQUIRED = auto()
    """The payer has not approved Permit2."""
    PERMIT2_AMOUNT_MISMATCH = auto()
    """The Permit2 authorization is over another amount than the deposit."""
    PERMIT2_AUTHORIZATION_REQUIRED = auto()
    """The deposit lacks its `permit2Authorization`."""
    PERMIT2_DEADLINE_EXPIRED = auto()
    """The Permit2 authorization's deadline has passed."""
    PERMIT2_INVALID_SIGNATURE = auto()
    """The Permit2 authorization's signature is not the payer's."""
    PERMIT2_INVALID_SPENDER = auto()
    """The Permit2 authorization's spender is not the collector."""
    RECEIVE_AUTHORIZATION_SIGNATURE = auto()
    """The ERC-3009 authorization's signature is not the payer's."""
    RECEIVER_AUTHORIZER_MISMATCH = auto()
    """The channel's receiverAuthorizer is not the 402's."""
    RECEIVER_MISMATCH = auto()
    """The channel's receiver is not `payTo`."""
    REFUND_AMOUNT_INVALID = auto()
    """The refund's amount is no number above zero."""
    REFUND_AUTHORIZER_MISMATCH = auto()
    """The address in the channel's salt is not the 402's `refundAuthorizer`."""
    REFUND_AUTHORIZER_SIGNATURE = auto()
    """The `refundAuthorizerSignature` is missing or of another key."""
    REFUND_NO_BALANCE = auto()
    """Nothing is left to refund."""
    REFUND_PAYLOAD = auto()
    """The payload of a refund is malformed."""
    REFUND_SIMULATION_FAILED = auto()
    """The refund would revert."""
    REFUND_TRANSACTION_FAILED = auto()
    """The transaction of the refund failed."""
    RPC_READ_FAILED = auto()
    """What is needed could not be read from the chain."""
    SCHEME = auto()
    """The scheme is not `batch-settlement`."""
    SETTLE_PAYLOAD = auto()
    """The payload of a settle is malformed."""
    SETTLE_SIMULATION_FAILED = auto()
    """The settle would revert."""
    SETTLE_TRANSACTION_FAILED = auto()
    """The transaction of the settle failed."""
    SMART_WALLET_DEPLOYMENT_FAILED = auto()
    """The payer's wallet could not be deployed."""
    TOKEN_MISMATCH = auto()
    """The channel's token is not the 402's `asset`."""
    TRANSACTION_REVERTED = auto()
    """The transaction reverted."""
    UNEXPECTED_CANCEL = auto()
    """A client wrote `cancel`, which is the server's."""
    UNEXPECTED_PENDING_ID = auto()
    """A client wrote `pendingId`, which is the server's."""
    UNKNOWN_SETTLE_ACTION = auto()
    """The payload asks for something that /settle does not do."""
    VERIFICATION_STATE_UNAVAILABLE = auto()
    """What was verified is not at hand any more when it is to be settled."""
    VOUCHER_PAYLOAD = auto()
    """The payload of a voucher is malformed."""
    VOUCHER_SIGNATURE = auto()
    """The voucher's signature is not the payerAuthorizer's."""
    WAIT_FOR_RECEIPT_FAILED = auto()
    """The transaction's receipt could not be waited for."""
    WITHDRAW_DELAY_MISMATCH = auto()
    """The channel's withdrawDelay is not the 402's."""
    WITHDRAW_DELAY_OUT_OF_RANGE = auto()
    """The withdrawDelay is below 15 minutes or above 30 days."""
    SETTLEMENT_PENDING = "settlement_pending"
    """Sent, and not confirmed in time: not final, and the answer has the transaction's hash."""
