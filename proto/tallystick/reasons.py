"""Why something was refused: one list for gRPC, HTTP and the exceptions of the clients.

The numbers equal those of the enum `tallystick.v1.Reason` in common.proto; a test proves it.
"""

from enum import IntEnum
from typing import Final, Self


class Reason(IntEnum):
    """A refusal's reason; `code` is its form on HTTP, `retry` and `advice` tell the caller what to do."""

    UNSPECIFIED = 0

    # The charge itself (decided by the ledger).
    PAYMENT_ID_REUSED = 1
    PAYMENT_ID_EXPIRED = 2
    PAYMENT_ID_INVALID = 3
    VOUCHER_SIGNATURE = 4
    VOUCHER_USED = 5
    SPEND_KEY_REQUIRED = 6
    SPEND_KEY_UNKNOWN = 7
    SPEND_KEY_PROOF = 8
    SPEND_KEY_EXPIRED = 9
    SPEND_KEY_REVOKED = 10
    SPEND_KEY_EXHAUSTED = 11
    AMOUNT_ABOVE_AGREED = 12
    INSUFFICIENT_CEILING = 13
    INSUFFICIENT_FUNDS = 14
    WITHDRAWING = 15
    ACCOUNT_UNKNOWN = 16
    CHANNEL_UNKNOWN = 17
    EXPOSURE_LIMIT = 18
    ACCOUNT_SHORT = 19

    # Reservations.
    RESERVATION_UNKNOWN = 20
    RESERVATION_RELEASED = 21
    RESERVATION_LIMIT = 22

    # The aggregator's own state.
    CHAIN_STALE = 30
    STORE_UNAVAILABLE = 31
    OVERLOADED = 32
    CHAIN_UNAVAILABLE = 33
    GAS_BUDGET_SPENT = 34

    # Terms that do not fit together.
    PAYLOAD_INVALID = 40
    SCHEME_UNSUPPORTED = 41
    NETWORK_UNSUPPORTED = 42
    TOKEN_UNSUPPORTED = 43
    RECEIVER_MISMATCH = 45
    OPERATOR_MISMATCH = 46
    TOKEN_MISMATCH = 47
    CHANNEL_ID_MISMATCH = 48
    AMOUNT_MISMATCH = 49
    WITHDRAW_DELAY_OUT_OF_RANGE = 50

    # Exact payments.
    EXACT_SIGNATURE = 60
    EXACT_NOT_YET_VALID = 61
    EXACT_EXPIRED = 62
    EXACT_NONCE_USED = 63
    INSUFFICIENT_BALANCE = 64
    SIMULATION_FAILED = 65
    TRANSACTION_FAILED = 66
    TRANSACTION_PENDING = 67
    PAYMENT_PENDING = 68
    PAYMENT_USED = 69
    EXACT_GAS = 70
    EXACT_UNAVAILABLE = 71

    # Accounts: deposits, spend keys, refunds, signed calls.
    DEPOSIT_BELOW_MINIMUM = 80
    DEPOSIT_AUTHORIZATION = 81
    CALL_SIGNATURE = 82
    CALL_EXPIRED = 83
    SPEND_KEY_LIMIT = 84
    SPEND_KEY_CONFLICT = 85
    REFUND_EXCEEDS_AVAILABLE = 86
    REFUND_PENDING = 87
    CHANNEL_LIMIT = 88
    REFUND_WITHOUT_PAYMENT = 89

    @classmethod
    def from_wire(cls, number: int) -> Self:
        """The reason with this number; UNSPECIFIED for one that a newer peer knows and we do not."""
        return cls(number) if number in _NUMBERS else cls(0)

    @classmethod
    def from_code(cls, code: str) -> Self:
        """The reason with this HTTP code; UNSPECIFIED for one that we do not know."""
        return cls(_NUMBERS_BY_CODE.get(code, 0))

    @property
    def code(self) -> str:
        """The form on HTTP, such as "voucher_used"."""
        return self.name.lower()

    @property
    def retry(self) -> bool:
        """Whether the same call may succeed later, unchanged or after the recover_from that `advice` names.

        False means that this payment or call never will: at best another one takes its place.
        """
        return _RETRY_AND_ADVICE[self][0]

    @property
    def advice(self) -> str:
        """One sentence for the caller: what it can do."""
        return _RETRY_AND_ADVICE[self][1]


_RETRY, _FINAL = True, False

_RETRY_AND_ADVICE: Final[dict[Reason, tuple[bool, str]]] = {
    Reason.UNSPECIFIED: (_FINAL, "Read the message; update this client if it does not know the reason."),
    Reason.PAYMENT_ID_REUSED: (_FINAL, "Use a new payment id: this one has paid for another request or amount."),
    Reason.PAYMENT_ID_EXPIRED: (_FINAL, "Use a new payment id, and learn what became of the old one from a statement."),
    Reason.PAYMENT_ID_INVALID: (_FINAL, "Use a UUIDv7 made at the time of the request."),
    Reason.VOUCHER_SIGNATURE: (
        _FINAL,
        "Sign the voucher with the channel's payerAuthorizer: 65 bytes, v 27 or 28, low s.",
    ),
    Reason.VOUCHER_USED: (_FINAL, "Sign a new voucher with a higher ceiling: each pays for one charge."),
    Reason.SPEND_KEY_REQUIRED: (_FINAL, "Prove the charge by a spend key: this account takes no vouchers as proof."),
    Reason.SPEND_KEY_UNKNOWN: (_RETRY, "Register the spend key for this account, then send the payment again."),
    Reason.SPEND_KEY_PROOF: (
        _FINAL,
        "Compute the proof over this channel, payment id, maximum amount and request with the registered secret.",
    ),
    Reason.SPEND_KEY_EXPIRED: (_FINAL, "Register a new spend key and prove the payment by it."),
    Reason.SPEND_KEY_REVOKED: (_FINAL, "Register a new spend key and prove the payment by it."),
    Reason.SPEND_KEY_EXHAUSTED: (_FINAL, "Register a new spend key with a cap of its own and prove the payment by it."),
    Reason.AMOUNT_ABOVE_AGREED: (_FINAL, "Charge at most the maximum amount of the payer's proof."),
    Reason.INSUFFICIENT_CEILING: (
        _RETRY,
        "Sign a voucher whose ceiling covers what is charged and reserved plus this amount.",
    ),
    Reason.INSUFFICIENT_FUNDS: (_RETRY, "Deposit more into the account, or wait until reservations are given back."),
    Reason.WITHDRAWING: (_RETRY, "Cancel the pending withdrawal, or pay from another account."),
    Reason.ACCOUNT_UNKNOWN: (_RETRY, "Deposit into the account first."),
    Reason.CHANNEL_UNKNOWN: (_RETRY, "Open the channel first."),
    Reason.EXPOSURE_LIMIT: (_RETRY, "Wait for the next settlement, or settle now."),
    Reason.ACCOUNT_SHORT: (
        _RETRY,
        "Wait, and pay from another account: the chain shows less in this one than was charged on it.",
    ),
    Reason.RESERVATION_UNKNOWN: (_FINAL, "Make a new payment: a repeated Verify carries no handle."),
    Reason.RESERVATION_RELEASED: (_FINAL, "Verify a new payment: a released reservation is final."),
    Reason.RESERVATION_LIMIT: (_RETRY, "Settle or release other reservations of this account and seller first."),
    Reason.CHAIN_STALE: (_RETRY, "Wait: the aggregator is behind the head of the chain."),
    Reason.STORE_UNAVAILABLE: (_RETRY, "Wait: the aggregator cannot write to its store."),
    Reason.OVERLOADED: (_RETRY, "Send less at a time, after a pause."),
    Reason.CHAIN_UNAVAILABLE: (_RETRY, "Wait: the aggregator cannot reach the chain."),
    Reason.GAS_BUDGET_SPENT: (
        _RETRY,
        "Wait as long as the message says, or send the transaction yourself: the aggregator pays for no more now.",
    ),
    Reason.PAYLOAD_INVALID: (_FINAL, "Correct the field that is named."),
    Reason.SCHEME_UNSUPPORTED: (_FINAL, "Choose a scheme that Supported lists."),
    Reason.NETWORK_UNSUPPORTED: (_FINAL, "Choose a network that Supported lists."),
    Reason.TOKEN_UNSUPPORTED: (_FINAL, "Choose a token that Supported lists."),
    Reason.RECEIVER_MISMATCH: (_FINAL, "Pay the receiver that the terms name."),
    Reason.OPERATOR_MISMATCH: (_FINAL, "Use the operator that Supported names as receiverAuthorizer."),
    Reason.TOKEN_MISMATCH: (_FINAL, "Pay in the token that the terms name."),
    Reason.CHANNEL_ID_MISMATCH: (_FINAL, "Send the channel id that the ChannelConfig hashes to."),
    Reason.AMOUNT_MISMATCH: (_FINAL, "Pay the amount that the terms name."),
    Reason.WITHDRAW_DELAY_OUT_OF_RANGE: (_FINAL, "Choose a withdraw delay within the limits that Supported names."),
    Reason.EXACT_SIGNATURE: (_FINAL, "Sign the authorization with the key of its `from` address."),
    Reason.EXACT_NOT_YET_VALID: (_RETRY, "Wait until validAfter has passed."),
    Reason.EXACT_EXPIRED: (_FINAL, "Sign a new authorization."),
    Reason.EXACT_NONCE_USED: (_FINAL, "Sign a new authorization with a new nonce."),
    Reason.INSUFFICIENT_BALANCE: (_RETRY, "Fund the `from` address first."),
    Reason.SIMULATION_FAILED: (_RETRY, "Check the payer's balance and whether the token blocks a party."),
    Reason.TRANSACTION_FAILED: (_FINAL, "Sign a new authorization: the transaction was mined and reverted."),
    Reason.TRANSACTION_PENDING: (_RETRY, "Settle the same payment again later: its transaction is on the way."),
    Reason.PAYMENT_PENDING: (
        _RETRY,
        "Send the same payment again in a moment: it is being used for another request, or its transfer is on the way.",
    ),
    Reason.PAYMENT_USED: (_FINAL, "Sign a new authorization: this one has paid for a request, and pays for one only."),
    Reason.EXACT_GAS: (_FINAL, "Pay from an address whose transfers take less gas, such as a plain key's."),
    Reason.EXACT_UNAVAILABLE: (
        _RETRY,
        "Pay from a deposit, or wait: the aggregator cannot pay for the gas of transfers now.",
    ),
    Reason.DEPOSIT_BELOW_MINIMUM: (_FINAL, "Deposit at least the minimum that Supported names."),
    Reason.DEPOSIT_AUTHORIZATION: (
        _FINAL,
        "Sign ReceiveWithAuthorization to the escrow with the account's nonce, for a window that is open.",
    ),
    Reason.CALL_SIGNATURE: (_FINAL, "Sign the call with the account's payerAuthorizer under the escrow's domain."),
    Reason.CALL_EXPIRED: (_FINAL, "Sign the call again with a later deadline."),
    Reason.SPEND_KEY_LIMIT: (_RETRY, "Revoke spend keys that are not used any more, or wait until some expire."),
    Reason.SPEND_KEY_CONFLICT: (_FINAL, "Use a new key id: this one is registered with other terms."),
    Reason.REFUND_EXCEEDS_AVAILABLE: (_RETRY, "Ask for at most what is available, or for zero: all of it."),
    Reason.REFUND_PENDING: (_RETRY, "Wait until the refund before this one is final."),
    Reason.CHANNEL_LIMIT: (_FINAL, "Use another account: this one has as many channels as are allowed."),
    Reason.REFUND_WITHOUT_PAYMENT: (
        _RETRY,
        "Withdraw on chain: initiateWithdraw, then finalizeWithdraw after the delay. Accounts that paid are refunded.",
    ),
}
_NUMBERS: Final = frozenset(int(reason) for reason in Reason)
_NUMBERS_BY_CODE: Final = {reason.code: int(reason) for reason in Reason}
