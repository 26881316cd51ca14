"""What is said when something is refused: one table for all layers, and `refuse`, which fills it in.

A text is one sentence for the caller. Words in braces are given to `refuse` by name; what was got and what is allowed
stand in fields of their own. Whether the caller may come again is the reason's (tallystick.reasons).
"""

from typing import NamedTuple

from tallystick.hexadecimal import to_hex
from tallystick.quantities import ChannelTotals
from tallystick.reasons import Reason
from tallystick.x402.batch_settlement import BatchSettlementCode as Code
from tallystick_aggregator.ledger.answers import Refusal


class Text(NamedTuple):
    """The reason, the field that it is about (empty if it is none), and the sentence.

    `code`: its standard reason code over HTTP, where that is not what its reason has (api/http/reason_codes).
    """

    reason: Reason
    field: str
    text: str
    code: str = ""


class Why:
    """Each refusal there is. Plain attributes: an Enum's take a third of a microsecond longer, in a flood too."""

    # fmt: off
    # Payments: ids, proofs, ceilings, funds (the ledger's rules, docs/design.md §6).
    PAYMENT_ID_EXPIRED = Text(Reason.PAYMENT_ID_EXPIRED, "payment_id",
        "The payment id is older than payment ids are kept; make a new one.")
    PAYMENT_ID_TOO_NEW = Text(Reason.PAYMENT_ID_INVALID, "payment_id",
        "The payment id's time lies in the future; set the clock that made it.")
    PAYMENT_ID_OF_ANOTHER_PAYMENT = Text(Reason.PAYMENT_ID_REUSED, "amount",
        "The payment id stands for another payment.")
    PAYMENT_ID_OF_ANOTHER_REQUEST = Text(Reason.PAYMENT_ID_REUSED, "request_hash",
        "The payment id paid for another request.")
    PAYMENT_ID_RESERVED = Text(Reason.PAYMENT_ID_REUSED, "payment_id",
        "The payment id is held by a reservation; settle that.")
    VOUCHER_SIGNATURE = Text(Reason.VOUCHER_SIGNATURE, "signature",
        "The voucher is not signed by the channel's payerAuthorizer.")
    NO_PROOF = Text(Reason.VOUCHER_SIGNATURE, "signature", "The payment carries neither a voucher nor a spend proof.")
    VOUCHER_USED = Text(Reason.VOUCHER_USED, "ceiling",
        "Another charge of the channel has used this voucher's ceiling; sign a new one for each charge.")
    SPEND_PROOF_REQUIRED = Text(Reason.SPEND_KEY_REQUIRED, "spend_proof",
        "The account has a spend key, so its vouchers prove no charge; send a spend proof.")
    SPEND_PROOF = Text(Reason.SPEND_KEY_PROOF, "mac", "The spend proof is not this key's for this payment and request.")
    SPEND_KEY_UNKNOWN = Text(Reason.SPEND_KEY_UNKNOWN, "key_id", "The account has no such spend key.")
    SPEND_KEY_REVOKED = Text(Reason.SPEND_KEY_REVOKED, "key_id", "The spend key was revoked.")
    SPEND_KEY_EXPIRED = Text(Reason.SPEND_KEY_EXPIRED, "expires_at", "The spend key has expired.")
    SPEND_KEY_EXHAUSTED = Text(Reason.SPEND_KEY_EXHAUSTED, "amount", "The charge would exceed the spend key's cap.")
    AMOUNT_ABOVE_AGREED = Text(Reason.AMOUNT_ABOVE_AGREED, "amount", "The payer agreed to less for this request.")
    CEILING_TOO_LOW = Text(Reason.INSUFFICIENT_CEILING, "ceiling",
        "The payer has not signed enough for this channel; sign a higher voucher.")
    FUNDS_TOO_LOW = Text(Reason.INSUFFICIENT_FUNDS, "amount", "The account's deposit does not cover this; top it up.")
    WITHDRAWING = Text(Reason.WITHDRAWING, "withdraw_finalizes_at",
        "The account is being withdrawn; cancel the withdrawal to pay from it.")
    ACCOUNT_SHORT = Text(Reason.ACCOUNT_SHORT, "committed",
        "More is committed on the account than the chain shows of it; it takes no charges until that is settled.")
    ACCOUNT_EXPOSED = Text(Reason.EXPOSURE_LIMIT, "amount",
        "Too much of the account awaits settlement; try again after the next one.")
    RECEIVER_EXPOSED = Text(Reason.EXPOSURE_LIMIT, "amount",
        "Too much of the seller's income awaits settlement; try again after the next one.")
    CHANNEL_UNKNOWN = Text(Reason.CHANNEL_UNKNOWN, "channel_id", "The channel is not known here; open it first.")
    CHANNEL_NOT_YOURS = Text(Reason.CHANNEL_UNKNOWN, "channel_id",
        "No channel of this id is known here that this token may charge; open it, or use its receiver's token.")

    # Reservations.
    RESERVATION_UNKNOWN = Text(Reason.RESERVATION_UNKNOWN, "handle", "No reservation has this handle.")
    RESERVATION_RELEASED = Text(Reason.RESERVATION_RELEASED, "payment_id",
        "This payment was released; make a new payment id.")
    CAPTURE_ABOVE_RESERVED = Text(Reason.AMOUNT_ABOVE_AGREED, "amount", "A capture takes at most what was reserved.")
    CAPTURED_ALREADY = Text(Reason.PAYMENT_ID_REUSED, "handle",
        "The reservation was captured already; a charge is final.")
    CAPTURED_ANOTHER_AMOUNT = Text(Reason.PAYMENT_ID_REUSED, "amount",
        "The reservation was captured already with another amount.")
    TOO_MANY_RESERVATIONS = Text(Reason.RESERVATION_LIMIT, "reservations",
        "Too many reservations {what} are open; settle or release some.")
    TOO_MUCH_RESERVED = Text(Reason.RESERVATION_LIMIT, "amount",
        "The seller would hold too much of this account; settle or release some of it.")
    NETWORK_OF_ANOTHER_RESERVATION = Text(Reason.NETWORK_UNSUPPORTED, "network",
        "The reservation is on another network than the terms name.")

    # Payments by `batch-settlement`.
    CHANNEL_BUSY = Text(Reason.CHANNEL_BUSY, "voucher", "Another request holds the channel; send this one again.")
    WATERMARK_MISSED = Text(Reason.CUMULATIVE_AMOUNT_MISMATCH, "voucher.maxClaimableAmount",
        "The voucher is not over what was charged on the channel plus the amount asked for.")
    RESERVATION_OF_ANOTHER_VOUCHER = Text(Reason.PENDING_ID_MISMATCH, "pendingId",
        "The channel is not held for this voucher under this pendingId.")
    IN_STEP_ONLY = Text(Reason.CUMULATIVE_AMOUNT_MISMATCH, "channel_id",
        "The channel is one of batch-settlement: have its payments verified and settled, one at a time.")
    VOUCHER_CLAIMED = Text(Reason.CUMULATIVE_AMOUNT_MISMATCH, "payload.voucher.maxClaimableAmount",
        "The voucher is over no more than what was claimed on the channel.", Code.CUMULATIVE_BELOW_CLAIMED)
    UNEXPECTED_PENDING_ID = Text(Reason.PAYLOAD_INVALID, "payload.pendingId",
        "A payer does not write pendingId: the server adds what verify answered.", Code.UNEXPECTED_PENDING_ID)
    UNEXPECTED_CANCEL = Text(Reason.PAYLOAD_INVALID, "payload.cancel",
        "A payer does not write cancel: the server adds it to give the channel free.", Code.UNEXPECTED_CANCEL)
    WITHDRAW_DELAY_MISMATCH = Text(Reason.WITHDRAW_DELAY_OUT_OF_RANGE, "channelConfig.withdrawDelay",
        "The channel has another withdraw delay than the seller asks for.", Code.WITHDRAW_DELAY_MISMATCH)
    REFUND_AUTHORIZER_MISMATCH = Text(Reason.OPERATOR_MISMATCH, "channelConfig.salt",
        "The salt does not end with the server's refundAuthorizer.", Code.REFUND_AUTHORIZER_MISMATCH)
    AUTHORIZER_OF_ANOTHER = Text(Reason.OPERATOR_MISMATCH, "",
        "The channel's receiverAuthorizer is not the operator's key: send the authorizer's own signature.",
        Code.AUTHORIZER_ADDRESS_MISMATCH)
    CHANNEL_IS_MANAGED = Text(Reason.CHANNEL_BUSY, "",
        "The facilitator manages this channel's vouchers, and has charged or holds something on it: it claims and "
        "refunds the channel by itself.")
    ROW_WOULD_FAIL = Text(Reason.SIMULATION_FAILED, "", "Row {at} of the claim would revert, and all others with it.",
        Code.CLAIM_SIMULATION_FAILED)
    ROW_TWICE = Text(Reason.PAYLOAD_INVALID, "", "Two rows of the claim are of the same channel.", Code.CLAIM_PAYLOAD)
    NOTHING_TO_CLAIM = Text(Reason.SIMULATION_FAILED, "payload.claims",
        "No row claims more than was claimed on its channel before.", Code.CLAIM_SIMULATION_FAILED)
    SERVERS_CALL_WOULD_FAIL = Text(Reason.SIMULATION_FAILED, "", "It would fail on chain now: {error}.")
    REFUND_INCOMPLETE = Text(Reason.PAYLOAD_INVALID, "", "The server completes a refund with its amount and nonce.",
        Code.REFUND_PAYLOAD)
    REFUND_NONCE = Text(Reason.PAYLOAD_INVALID, "payload.refundNonce",
        "The channel has another refund nonce on chain.", Code.REFUND_SIMULATION_FAILED)
    WRONG_PAYLOAD_TYPE = Text(Reason.PAYLOAD_INVALID, "payload.type",
        "The payload's type does not belong to this call.", Code.PAYLOAD_TYPE)

    # The aggregator's own state.
    CHAIN_STALE = Text(Reason.CHAIN_STALE, "", "The view of {network} is not up to date; try again soon.")
    CHAIN_UNAVAILABLE = Text(Reason.CHAIN_UNAVAILABLE, "", "The chain cannot be reached now: {error}.")
    STORE_UNAVAILABLE = Text(Reason.STORE_UNAVAILABLE, "",
        "The store cannot take this now: {error}. Nothing was changed.")
    PAYMENT_NOT_STORED = Text(Reason.STORE_UNAVAILABLE, "",
        "The payment could not be stored: {error}. Send the same again.")
    TOO_MANY_PAYMENTS = Text(Reason.OVERLOADED, "payments",
        "The aggregator has all it can take; wait a moment and send it again.")
    TOO_MANY_AT_ONCE = Text(Reason.OVERLOADED, "", "Too many {what} at once; wait a moment and send it again.")
    SETTLED_TOO_OFTEN = Text(Reason.OVERLOADED, "SettleNow",
        "This token settled too often; what was charged is settled on the timer in any case.")
    REFUNDED_TOO_OFTEN = Text(Reason.OVERLOADED, "refund_id",
        "The account was refunded too often; what is left stays available and can be refunded later.")
    GAS_SPENT = Text(Reason.GAS_BUDGET_SPENT, "",
        "What the operator pays an hour for {what}s on {network} is spent; ask again in {wait_s} s, or send it "
        "yourself.")
    PAYERS_GAS_SPENT = Text(Reason.GAS_BUDGET_SPENT, "",
        "The payer has had as many {what}s at the operator's expense as it may in an hour; the next in {wait_s} s, or"
        " send it yourself.")

    # Terms that do not fit together.
    SCHEME_UNSUPPORTED = Text(Reason.SCHEME_UNSUPPORTED, "terms.scheme", "The aggregator does not know this scheme.")
    NETWORK_UNSUPPORTED = Text(Reason.NETWORK_UNSUPPORTED, "network", "The aggregator does not serve this network.")
    ESCROW_UNSUPPORTED = Text(Reason.NETWORK_UNSUPPORTED, "escrow",
        "The aggregator does not serve this escrow on {network}.")
    TOKEN_UNSUPPORTED = Text(Reason.TOKEN_UNSUPPORTED, "token", "The aggregator does not take this token on {network}.")
    RECEIVER_MISMATCH = Text(Reason.RECEIVER_MISMATCH, "receiver",
        "The payment goes to another receiver than the terms name.")
    TOKEN_MISMATCH = Text(Reason.TOKEN_MISMATCH, "token", "The payment is in another token than the terms name.")
    AMOUNT_MISMATCH = Text(Reason.AMOUNT_MISMATCH, "amount", "The payment is over another amount than the terms name.")
    ACCEPTED_NETWORK = Text(Reason.NETWORK_UNSUPPORTED, "payload.accepted.network",
        "The payer accepted another network than the seller asks for.")
    CHANNEL_ID_MISMATCH = Text(Reason.CHANNEL_ID_MISMATCH, "channel_id",
        "The channel id is not the hash of the ChannelConfig under this escrow's domain.")
    OPERATOR_MISMATCH = Text(Reason.OPERATOR_MISMATCH, "config.receiver_authorizer",
        "The channel names another operator as its receiverAuthorizer.")
    WITHDRAW_DELAY = Text(Reason.WITHDRAW_DELAY_OUT_OF_RANGE, "config.withdraw_delay_s",
        "The withdraw delay does not leave time to settle, or is too long.")

    # What became of a transaction.
    TRANSACTION_PENDING = Text(Reason.TRANSACTION_PENDING, "transaction",
        "The {what} was sent and is not in a block yet; send the same call again to learn what became of it.")
    TRANSACTION_REVERTED = Text(Reason.TRANSACTION_FAILED, "transaction",
        "The {what} was mined and reverted (transaction {transaction}).")

    # Payments of `exact`.
    EXACT_TOO_EARLY = Text(Reason.EXACT_NOT_YET_VALID, "valid_after", "The authorization is not valid yet.")
    EXACT_TOO_LATE = Text(Reason.EXACT_EXPIRED, "valid_before", "The authorization has expired, or is about to.")
    EXACT_UNSIGNED = Text(Reason.EXACT_SIGNATURE, "signature", "The payment is not signed.")
    EXACT_UNDEPLOYED = Text(Reason.EXACT_SIGNATURE, "signature", "A wallet that is not deployed yet cannot pay here.",
        "invalid_exact_evm_payload_undeployed_smart_wallet")
    EXACT_FACTORY = Text(Reason.EXACT_SIGNATURE, "signature",
        "The operator does not list this factory, so the payer's wallet is not deployed for it.",
        "eip6492_factory_not_allowed")
    EXACT_WRAPPER = Text(Reason.EXACT_SIGNATURE, "signature", "The ERC-6492 wrapper cannot be read.")
    EXACT_SIGNED_BY_ANOTHER = Text(Reason.EXACT_SIGNATURE, "signature",
        "The payer's key did not sign this transfer, and there is no contract at {payer}.")
    EXACT_SIGNED_BY_NOBODY = Text(Reason.EXACT_SIGNATURE, "signature",
        "Neither the payer's key nor {whose} signed this transfer: {error}.")
    EXACT_NONCE_USED = Text(Reason.EXACT_NONCE_USED, "nonce",
        "The authorization was used or cancelled already, not by this aggregator.")
    EXACT_NONCE_OF_ANOTHER = Text(Reason.EXACT_NONCE_USED, "nonce",
        "The nonce belongs to another authorization, which was presented before.")
    EXACT_ABOVE_BALANCE = Text(Reason.INSUFFICIENT_BALANCE, "value", "The payer holds less than the payment.")
    EXACT_WOULD_FAIL = Text(Reason.SIMULATION_FAILED, "", "The transfer would fail on chain: {error}.")
    EXACT_GAS = Text(Reason.EXACT_GAS, "gas", "The transfer takes more gas than is paid for here: {whose} uses it up.")
    EXACT_UNAVAILABLE = Text(Reason.EXACT_UNAVAILABLE, "",
        "The aggregator cannot pay for the gas of transfers on {network} now. Nothing was sent.")
    PAYMENT_PENDING = Text(Reason.PAYMENT_PENDING, "",
        "The payment is being used by another request, or by another process for this one.")
    EXACT_DISABLED = Text(Reason.EXACT_UNAVAILABLE, "", "The operator of this aggregator has switched transfers off.")
    EXACT_TOO_SMALL = Text(Reason.EXACT_AMOUNT_TOO_SMALL, "amount",
        "The payment is smaller than the least that is transferred here.")
    EXACT_PAYER_BARRED = Text(Reason.EXACT_PAYER_BARRED, "from",
        "A transfer of this payer's passed the simulation and reverted on chain; the next may be tried in {wait_s} s.")
    EXACT_ONE_AT_A_TIME = Text(Reason.PAYMENT_PENDING, "from",
        "Several transfers of this payer's are on the way, and its contract decides whether they succeed; wait until "
        "one has landed.")
    EXACT_ABOVE_REST = Text(Reason.PAYMENT_PENDING, "amount",
        "Transfers of this payer's are on the way, and leave less than this payment; wait until they have landed.")
    EXACT_RECEIVER_LIMIT = Text(Reason.GAS_BUDGET_SPENT, "payTo",
        "As many transfers to this receiver as callers without a token may have were sent in the last hour.")
    PAYMENT_IDENTIFIER_TAKEN = Text(Reason.PAYMENT_ID_REUSED, "extensions.payment-identifier.info.id",
        "The payment identifier names another payment.")
    PAYMENT_USED = Text(Reason.PAYMENT_USED, "", "The payment has paid for a request, and pays for one only.")
    PAYMENT_SERVED = Text(Reason.PAYMENT_USED, "", "The payment was verified before, and pays for one request only.")
    PAYMENT_VERIFIED_BEFORE = Text(Reason.PAYMENT_PENDING, "payment_id",
        "The payment was verified before and is not settled yet: it pays for that request only.")

    # Payments by Permit2, of `exact` and `upto`.
    PERMIT2_OFF = Text(Reason.TOKEN_UNSUPPORTED, "payload", "The aggregator does not move this token by Permit2.")
    EIP3009_OFF = Text(Reason.TOKEN_UNSUPPORTED, "payload", "The aggregator moves this token by Permit2 only.")
    PERMIT2_SPENDER = Text(Reason.PERMIT2_SPENDER, "spender", "The payment is signed for another spender.")
    PERMIT2_ALLOWANCE = Text(Reason.PERMIT2_ALLOWANCE_REQUIRED, "allowance",
        "The payer lets Permit2 take less of the token than the payment{beside}.")
    PERMIT_OF_ANOTHER = Text(Reason.PERMIT2_PERMIT, "extensions.eip2612GasSponsoring.info",
        "The permit is not for this payment.")
    PERMIT_TOO_LATE = Text(Reason.PERMIT2_PERMIT, "extensions.eip2612GasSponsoring.info.deadline",
        "The permit has expired, or is about to.")
    PERMIT_NONCE = Text(Reason.PERMIT2_PERMIT, "extensions.eip2612GasSponsoring.info.nonce",
        "The permit has another nonce than the token expects of its owner.")
    PERMIT_SIGNATURE = Text(Reason.PERMIT2_PERMIT, "extensions.eip2612GasSponsoring.info.signature",
        "The payer's key did not sign the permit.")
    APPROVAL_UNREADABLE = Text(Reason.PERMIT2_PERMIT, "extensions.erc20ApprovalGasSponsoring.info.signedTransaction",
        "The signed approval cannot be read.", "invalid_erc20_approval_extension_format")
    APPROVAL_OF_ANOTHER = Text(Reason.PERMIT2_PERMIT, "extensions.erc20ApprovalGasSponsoring.info",
        "The signed approval is not for this payment.", "invalid_erc20_approval_extension_format")
    APPROVAL_DIFFERS = Text(Reason.PERMIT2_PERMIT, "extensions.erc20ApprovalGasSponsoring.info.signedTransaction",
        "The signed approval has another {name} than is sent here.", "invalid_erc20_approval_extension_format")
    APPROVAL_TOO_LONG = Text(Reason.PERMIT2_PERMIT, "deadline",
        "A payment whose approval is paid for may not be valid for so long.")
    APPROVAL_BY_CONTRACT = Text(Reason.PERMIT2_PERMIT, "from",
        "An account with code approves Permit2 by itself; it is sent no gas money.")
    UPTO_FACILITATOR = Text(Reason.UPTO_FACILITATOR_MISMATCH, "witness.facilitator",
        "The payment may be settled by another facilitator only.")
    UPTO_EXCEEDED = Text(Reason.UPTO_AMOUNT_EXCEEDED, "amount", "The payer signed for less than is to be settled.")

    # Signed calls, accounts and channels.
    CALL_OUT_OF_TIME = Text(Reason.CALL_EXPIRED, "authorization.deadline", "The deadline of the signed call {problem}.")
    CALL_SIGNATURE = Text(Reason.CALL_SIGNATURE, "", "The signature is not one that counts: {problem}.")
    CALL_SIGNED_BY_ANOTHER = Text(Reason.CALL_SIGNATURE, "",
        "The account's payerAuthorizer did not sign these arguments.")
    ACCOUNT_UNKNOWN = Text(Reason.ACCOUNT_UNKNOWN, "account_id", "The account is not known here; make a deposit first.")
    ACCOUNT_EMPTY = Text(Reason.INSUFFICIENT_FUNDS, "config", "The account holds nothing; top it up.")
    PAGE_UNKNOWN = Text(Reason.CHANNEL_UNKNOWN, "after_channel_id", "The account has no channel to continue after.")
    TOO_MANY_CHANNELS = Text(Reason.CHANNEL_LIMIT, "channels", "The account has too many channels.")
    APPROVAL_SIZE = Text(Reason.PAYLOAD_INVALID, "totals", "An approval has to fit into one transaction.")
    APPROVED_TWICE = Text(Reason.PAYLOAD_INVALID, "totals", "The approval names a receiver twice.")
    APPROVED_RECEIVER_UNKNOWN = Text(Reason.CHANNEL_UNKNOWN, "totals", "The account has no channel to this receiver.")
    APPROVAL_TOO_HIGH = Text(Reason.AMOUNT_MISMATCH, "totals", "The approval for {receiver} is above what was charged.")
    APPROVAL_TOO_LOW = Text(Reason.AMOUNT_MISMATCH, "totals",
        "The approval for {receiver} is below the one before it, which is not paid yet.")

    # Spend keys.
    SPEND_KEY_TAKEN = Text(Reason.SPEND_KEY_CONFLICT, "key_id", "The key id is taken by another key; draw a new one.")
    SPEND_KEY_TOO_SHORT = Text(Reason.SPEND_KEY_EXPIRED, "expires_at", "The spend key would have expired already.")
    TOO_MANY_LIVE_KEYS = Text(Reason.SPEND_KEY_LIMIT, "spend_keys",
        "The account has too many live spend keys; revoke some, or wait until some expire.")
    TOO_MANY_KEYS = Text(Reason.SPEND_KEY_LIMIT, "spend_keys",
        "The account had too many spend keys of late; let the next ones live longer.")
    KEY_TO_RAISE_REVOKED = Text(Reason.SPEND_KEY_REVOKED, "key_id", "The spend key was revoked; register another.")
    KEY_TO_RAISE_EXPIRED = Text(Reason.SPEND_KEY_EXPIRED, "key_id", "The spend key has expired; register another.")

    # Deposits.
    DEPOSIT_TOO_SMALL = Text(Reason.DEPOSIT_BELOW_MINIMUM, "amount", "The deposit is too small.")
    DEPOSIT_TOO_EARLY = Text(Reason.DEPOSIT_AUTHORIZATION, "valid_after", "The authorization is not valid yet.")
    DEPOSIT_TOO_LATE = Text(Reason.DEPOSIT_AUTHORIZATION, "valid_before",
        "The authorization has expired, or is about to.")
    DEPOSIT_OF_ANOTHER = Text(Reason.DEPOSIT_AUTHORIZATION, "",
        "The deposit's authorization is for something else than the payload says.")
    DEPOSIT_ABOVE_BALANCE = Text(Reason.INSUFFICIENT_BALANCE, "amount",
        "The payer holds less than it wants to deposit.")
    DEPOSIT_UNPROVEN = Text(Reason.OVERLOADED, "signature",
        "{problem}, and too many such are being tried; wait a moment.")
    DEPOSIT_WOULD_FAIL = Text(Reason.DEPOSIT_AUTHORIZATION, "signature", "The deposit would fail on chain: {error}.")
    DEPOSIT_GAS = Text(Reason.DEPOSIT_AUTHORIZATION, "gas",
        "The deposit takes more gas than is paid for here: {whose} uses it up.")
    DEPOSIT_UNCONFIRMED = Text(Reason.TRANSACTION_PENDING, "",
        "The deposit is in a final block, and is credited as soon as another answer of the chain confirms it; send "
        "the same call again.")
    DEPOSIT_NOT_FOUND = Text(Reason.DEPOSIT_AUTHORIZATION, "salt",
        "The authorization is used up, and no transaction of late is found that deposited it: read from the account "
        "what it holds. Sign another with a new salt.")
    DEPOSIT_USED_OTHERWISE = Text(Reason.DEPOSIT_AUTHORIZATION, "salt",
        "The authorization was cancelled or used for something else, in transaction 0x{used_by}: nothing was "
        "deposited by it. Sign another with a new salt.")
    DEPOSIT_LEFT_AGAIN = Text(Reason.DEPOSIT_AUTHORIZATION, "salt",
        "The deposit was made, and has left the account again.")

    # Refunds.
    REFUND_TOO_SMALL = Text(Reason.PAYLOAD_INVALID, "amount", "The refund is too small to be worth its transaction.")
    REFUND_OF_NOTHING = Text(Reason.PAYLOAD_INVALID, "payload.amount", "A refund gives something back.",
        Code.REFUND_AMOUNT_INVALID)
    REFUND_NOT_AUTHORIZED = Text(Reason.CALL_SIGNATURE, "payload.refundAuthorizerSignature",
        "The server's refundAuthorizer did not sign this refund, {what}.", Code.REFUND_AUTHORIZER_SIGNATURE)
    REFUND_TOO_LARGE = Text(Reason.REFUND_EXCEEDS_AVAILABLE, "amount",
        "A refund returns only what is neither charged, reserved, withdrawing nor being refunded.")
    REFUND_OF_ANOTHER_AMOUNT = Text(Reason.AMOUNT_MISMATCH, "amount",
        "This refund id stands for a refund of another amount.")
    REFUND_PENDING = Text(Reason.REFUND_PENDING, "refund_id",
        "Another refund of the account is under way; wait for it.")
    REFUND_WOULD_FAIL = Text(Reason.SIMULATION_FAILED, "", "The refund would fail on chain now: {error}.")
    REFUND_LANDED_LONG_AGO = Text(Reason.TRANSACTION_FAILED, "",
        "Somebody else landed this refund, too long ago for its transaction to be found here; what it paid is in the "
        "escrow's Refunded event.")
    NEVER_PAID = Text(Reason.REFUND_WITHOUT_PAYMENT, "account_id",
        "Nothing was ever charged on the account, so the operator pays for no refund of it. Withdraw on chain: call "
        "the escrow's initiateWithdraw, and finalizeWithdraw after the account's delay.")
    ACCOUNT_TO_REFUND_UNKNOWN = Text(Reason.ACCOUNT_UNKNOWN, "account_id", "The account is not known here.")
    # fmt: on


def refuse(
    why: Text,
    got: object = "",
    allowed: object = "",
    *,
    field: str = "",
    totals: ChannelTotals | None = None,
    retry_after_s: int = 0,
    transaction: bytes = b"",
    **words: object,
) -> Refusal:
    """Return the refusal; `words` fill in the text, `field` takes the place of the table's.

    What is refused for what became of a `transaction` has its hash in `got` too. See `Refusal`.
    """
    reason, usual_field, text, code = why
    got = to_hex(transaction) if transaction else got
    said = text.format(transaction=got, **words) if words else text
    usual = field or usual_field
    return Refusal(reason, said, usual, str(got), str(allowed), totals, retry_after_s, code, transaction)
