"""Why something was refused: one list for gRPC, HTTP and the exceptions of the clients.

The numbers equal those of the enum `tallystick.v1.Reason` in common.proto; a test proves it.
"""

from enum import IntEnum
from typing import Final, Self

_RETRY: Final = True
_FINAL: Final = False


class Reason(IntEnum):
    """A refusal's reason: its number, whether to retry, and what the caller can do. `code` is its form on HTTP."""

    _value_: int
    retry: bool
    """Whether the same call may succeed later, unchanged or after the step that `advice` names.

    False means that this payment or call never will: at best another one takes its place.
    """
    advice: str
    """One sentence for the caller: what it can do."""

    UNSPECIFIED = 0, _FINAL, "Read the message; update this client if it does not know the reason."

    # The charge itself (decided by the ledger).
    PAYMENT_ID_REUSED = 1, _FINAL, "Use a new payment id: this one has paid for another request or amount."
    PAYMENT_ID_EXPIRED = 2, _FINAL, "Use a new payment id, and learn what became of the old one from a statement."
    PAYMENT_ID_INVALID = 3, _FINAL, "Use a UUIDv7 made at the time of the request."
    VOUCHER_SIGNATURE = 4, _FINAL, "Sign the voucher with the channel's payerAuthorizer: 65 bytes, v 27 or 28, low s."
    VOUCHER_USED = 5, _FINAL, "Sign a new voucher with a higher ceiling: each pays for one charge."
    SPEND_KEY_REQUIRED = 6, _FINAL, "Prove the charge by a spend key: this account takes no vouchers as proof."
    SPEND_KEY_UNKNOWN = 7, _RETRY, "Register the spend key for this account, then send the payment again."
    SPEND_KEY_PROOF = (
        8,
        _FINAL,
        "Compute the proof over this channel, payment id, maximum amount and request with the registered secret.",
    )
    SPEND_KEY_EXPIRED = 9, _FINAL, "Register a new spend key and prove the payment by it."
    SPEND_KEY_REVOKED = 10, _FINAL, "Register a new spend key and prove the payment by it."
    SPEND_KEY_EXHAUSTED = 11, _FINAL, "Register a new spend key with a cap of its own and prove the payment by it."
    AMOUNT_ABOVE_AGREED = 12, _FINAL, "Charge at most the maximum amount of the payer's proof."
    INSUFFICIENT_CEILING = (
        13,
        _RETRY,
        "Sign a voucher whose ceiling covers what is charged and reserved plus this amount.",
    )
    INSUFFICIENT_FUNDS = 14, _RETRY, "Deposit more into the account, or wait until reservations are given back."
    WITHDRAWING = 15, _RETRY, "Cancel the pending withdrawal, or pay from another account."
    ACCOUNT_UNKNOWN = 16, _RETRY, "Deposit into the account first."
    CHANNEL_UNKNOWN = 17, _RETRY, "Open the channel first."
    EXPOSURE_LIMIT = 18, _RETRY, "Wait for the next settlement, or settle now."
    ACCOUNT_SHORT = (
        19,
        _RETRY,
        "Wait, and pay from another account: the chain shows less in this one than was charged on it.",
    )

    # Reservations.
    RESERVATION_UNKNOWN = 20, _FINAL, "Make a new payment: a repeated Verify carries no handle."
    RESERVATION_RELEASED = 21, _FINAL, "Verify a new payment: a released reservation is final."
    RESERVATION_LIMIT = 22, _RETRY, "Settle or release other reservations of this account and seller first."

    # The aggregator's own state.
    CHAIN_STALE = 30, _RETRY, "Wait: the aggregator is behind the head of the chain."
    STORE_UNAVAILABLE = 31, _RETRY, "Wait: the aggregator cannot write to its store."
    OVERLOADED = 32, _RETRY, "Send less at a time, after a pause."
    CHAIN_UNAVAILABLE = 33, _RETRY, "Wait: the aggregator cannot reach the chain."
    GAS_BUDGET_SPENT = (
        34,
        _RETRY,
        "Wait as long as the message says, or send the transaction yourself: the aggregator pays for no more now.",
    )

    # Terms that do not fit together.
    PAYLOAD_INVALID = 40, _FINAL, "Correct the field that is named."
    SCHEME_UNSUPPORTED = 41, _FINAL, "Choose a scheme that Supported lists."
    NETWORK_UNSUPPORTED = 42, _FINAL, "Choose a network that Supported lists."
    TOKEN_UNSUPPORTED = 43, _FINAL, "Choose a token that Supported lists."
    RECEIVER_MISMATCH = 45, _FINAL, "Pay the receiver that the terms name."
    OPERATOR_MISMATCH = 46, _FINAL, "Use the operator that Supported names as receiverAuthorizer."
    TOKEN_MISMATCH = 47, _FINAL, "Pay in the token that the terms name."
    CHANNEL_ID_MISMATCH = 48, _FINAL, "Send the channel id that the ChannelConfig hashes to."
    AMOUNT_MISMATCH = 49, _FINAL, "Pay the amount that the terms name."
    WITHDRAW_DELAY_OUT_OF_RANGE = 50, _FINAL, "Choose a withdraw delay within the limits that Supported names."

    REQUEST_MISMATCH = (
        51,
        _FINAL,
        "Bind the payment to the request as it reaches the seller: a proxy in between may rewrite its path or body.",
    )

    # Exact payments.
    EXACT_SIGNATURE = 60, _FINAL, "Sign the authorization with the key of its `from` address."
    EXACT_NOT_YET_VALID = 61, _RETRY, "Wait until validAfter has passed."
    EXACT_EXPIRED = 62, _FINAL, "Sign a new authorization."
    EXACT_NONCE_USED = 63, _FINAL, "Sign a new authorization with a new nonce."
    INSUFFICIENT_BALANCE = 64, _RETRY, "Fund the `from` address first."
    SIMULATION_FAILED = 65, _RETRY, "Check the payer's balance and whether the token blocks a party."
    TRANSACTION_FAILED = 66, _FINAL, "Sign a new authorization: the transaction was mined and reverted."
    TRANSACTION_PENDING = 67, _RETRY, "Settle the same payment again later: its transaction is on the way."
    PAYMENT_PENDING = (
        68,
        _RETRY,
        "Send the same payment again in a moment: it is being used for another request, or its transfer is on the way.",
    )
    PAYMENT_USED = 69, _FINAL, "Sign a new authorization: this one has paid for a request, and pays for one only."
    EXACT_GAS = 70, _FINAL, "Pay from an address whose transfers take less gas, such as a plain key's."
    EXACT_UNAVAILABLE = (
        71,
        _RETRY,
        "Pay from a deposit, or wait: the aggregator cannot pay for the gas of transfers now.",
    )
    EXACT_AMOUNT_TOO_SMALL = 76, _FINAL, "Pay from a deposit: a transfer of so little is not worth its gas here."
    EXACT_PAYER_BARRED = (
        77,
        _RETRY,
        "Pay from another address, or wait: a transfer of this payer's reverted on chain, and cost gas for nothing.",
    )

    # Accounts: deposits, spend keys, refunds, signed calls.
    DEPOSIT_BELOW_MINIMUM = 80, _FINAL, "Deposit at least the minimum that Supported names."
    DEPOSIT_AUTHORIZATION = (
        81,
        _FINAL,
        "Sign ReceiveWithAuthorization to the escrow with the account's nonce, for a window that is open.",
    )
    CALL_SIGNATURE = 82, _FINAL, "Sign the call with the account's payerAuthorizer under the escrow's domain."
    CALL_EXPIRED = 83, _FINAL, "Sign the call again with a later deadline."
    SPEND_KEY_LIMIT = 84, _RETRY, "Revoke spend keys that are not used any more, or wait until some expire."
    SPEND_KEY_CONFLICT = 85, _FINAL, "Use a new key id: this one is registered with other terms."
    REFUND_EXCEEDS_AVAILABLE = 86, _RETRY, "Ask for at most what is available, or for zero: all of it."
    REFUND_PENDING = 87, _RETRY, "Wait until the refund before this one is final."
    CHANNEL_LIMIT = 88, _FINAL, "Use another account: this one has as many channels as are allowed."
    REFUND_WITHOUT_PAYMENT = (
        89,
        _RETRY,
        "Withdraw on chain: initiateWithdraw, then finalizeWithdraw after the delay. Accounts that paid are refunded.",
    )

    # Payments by Permit2: `exact` with assetTransferMethod "permit2", and `upto`.
    PERMIT2_ALLOWANCE_REQUIRED = (
        100,
        _RETRY,
        "Approve Permit2 for the token once, in a transaction of the payer's, then send the same payment again.",
    )
    PERMIT2_SPENDER = 101, _FINAL, "Sign for x402's proxy of this scheme as spender."
    PERMIT2_PERMIT = (
        102,
        _FINAL,
        "Sign an EIP-2612 permit to Permit2 over the amount of the payment, with the token's next nonce.",
    )
    UPTO_FACILITATOR_MISMATCH = 103, _FINAL, "Sign for the facilitatorAddress that the offer names."
    UPTO_AMOUNT_EXCEEDED = 104, _FINAL, "Settle at most what the payer signed."

    # Payments by `batch-settlement`.
    CHANNEL_BUSY = 110, _RETRY, "Send the same request again in a moment: another one of this channel is under way."
    CUMULATIVE_AMOUNT_MISMATCH = 111, _FINAL, "Sign a voucher over exactly what was charged plus the amount asked for."
    PENDING_ID_MISMATCH = 112, _FINAL, "Settle the voucher that was verified, with the pendingId that verify answered."

    def __new__(cls, number: int, retry: bool, advice: str) -> Self:
        """Make the member of this number."""
        reason = int.__new__(cls, number)
        reason._value_, reason.retry, reason.advice = number, retry, advice
        return reason

    @classmethod
    def from_wire(cls, number: int) -> "Reason":
        """The reason with this number; UNSPECIFIED for one that a newer peer knows and we do not."""
        return _BY_NUMBER.get(number, cls.UNSPECIFIED)

    @classmethod
    def from_code(cls, code: str) -> "Reason":
        """The reason with this HTTP code; UNSPECIFIED for one that we do not know."""
        return _BY_CODE.get(code, cls.UNSPECIFIED)

    @property
    def code(self) -> str:
        """The form on HTTP, such as "voucher_used"."""
        return self.name.lower()


_BY_NUMBER: Final = {int(reason): reason for reason in Reason}
_BY_CODE: Final = {reason.code: reason for reason in Reason}
