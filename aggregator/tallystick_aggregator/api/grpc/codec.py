"""What only the aggregator reads and writes of its messages; the rest is `tallystick.codec`, shared with its clients.

What is malformed raises MalformedError, which names the field as the .proto files do, what it held and what is allowed;
nothing else is ever raised.
"""

from collections.abc import Iterable
from typing import Final

from tallystick.amounts import decode_amount, encode_amount
from tallystick.codec import common, facilitator, settlement
from tallystick.codec.common import SIGNATURE_BYTES, fixed, read_account
from tallystick.codec.facilitator import Request, read_attempt
from tallystick.errors import MalformedError
from tallystick.facilitator import Settled, Verified
from tallystick.settlements import LeftOut, Payout, Settlement, SettlementStatus
from tallystick.v1 import account_pb2, charge_pb2, common_pb2, facilitator_pb2, settlement_pb2
from tallystick.x402 import HEADER_BYTES_MAX, PaymentPayload, decode_json
from tallystick.x402.payloads import SIGNATURE_BYTES_MAX
from tallystick_aggregator.accounts.signed_calls import SignedCall
from tallystick_aggregator.chain.port import DepositAuthorization
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.state import Account, SpendKey
from tallystick_aggregator.schemes.port import PAYLOAD, Caller, EncodedPayment
from tallystick_aggregator.store.port import OutboundTransaction, TransactionStatus


def read_payment(request: Request) -> EncodedPayment:
    """Read which field holds the payment; what is in it is its scheme's to read."""
    form = request.WhichOneof("payment")
    if form == PAYLOAD:
        return EncodedPayment(form, decode_json(request.payload, PaymentPayload, form, HEADER_BYTES_MAX))
    return EncodedPayment(form, form and getattr(request, form))


def read_caller(request: Request, principal: str) -> Caller:
    """Read who verifies or settles: this principal, and the attempt, if there is one."""
    attempt = read_attempt(request)
    return Caller(principal) if attempt is None else Caller(principal, attempt.id, attempt.request_hash)


def read_escrow(address: bytes) -> bytes:
    """Read an escrow's address; empty where the caller leaves it out."""
    return address and fixed(address, 20, "escrow")


def read_deposit(message: account_pb2.DepositRequest) -> DepositAuthorization:
    """Read a deposit; its signature may be a contract wallet's."""
    if not 0 < len(message.signature) <= SIGNATURE_BYTES_MAX:
        raise MalformedError("signature", message.signature, f"1 to {SIGNATURE_BYTES_MAX} bytes")
    return DepositAuthorization(
        account=read_account(message.account, "account"),
        amount=decode_amount(message.amount, "amount"),
        valid_after=message.valid_after,
        valid_before=message.valid_before,
        salt=fixed(message.salt, 32, "salt"),
        signature=message.signature,
    )


def read_call(message: account_pb2.CallAuthorization, *, present: bool = True) -> SignedCall:
    """Read a payer's signature over its call; `present`: whether the message has the field."""
    if not present:
        raise MalformedError("authorization", None, "the payerAuthorizer's signature over the call, and its deadline")
    return SignedCall(message.deadline, fixed(message.signature, SIGNATURE_BYTES, "authorization.signature"))


_STATUS: Final = {
    TransactionStatus.PENDING: SettlementStatus.PENDING,
    TransactionStatus.MINED: SettlementStatus.MINED,
    TransactionStatus.FINAL: SettlementStatus.FINAL,
    TransactionStatus.REVERTED: SettlementStatus.FAILED,
    TransactionStatus.SUPERSEDED: SettlementStatus.FAILED,
}


def write_refusal(refusal: Refusal, code: str = "") -> common_pb2.Refusal:
    """Why not, what came, what is allowed; `code` is x402's, where the scheme has one."""
    return common.write_refusal(
        refusal.reason,
        refusal.message,
        refusal.field,
        refusal.got,
        refusal.allowed,
        refusal.totals,
        refusal.retry_after_s,
        refusal.extra,
        code,
    )


def write_charge_result(answer: Accepted | Refusal) -> charge_pb2.ChargeResult:
    """What became of one charge."""
    if isinstance(answer, Accepted):
        return charge_pb2.ChargeResult(accepted=True, replayed=answer.replayed, charged=encode_amount(answer.charged))
    return charge_pb2.ChargeResult(refusal=write_refusal(answer))


def write_verified(answer: Verified | Refusal, payer: bytes, code: str = "") -> facilitator_pb2.VerifyResponse:
    """Whether a payment will settle, and the reservation's handle."""
    if isinstance(answer, Refusal):
        return facilitator_pb2.VerifyResponse(refusal=write_refusal(answer, code), payer=payer)
    return facilitator.write_verified(answer)


def write_settled(answer: Settled | Refusal, code: str = "") -> facilitator_pb2.SettleResponse:
    """What was captured or transferred."""
    if isinstance(answer, Refusal):
        return facilitator_pb2.SettleResponse(refusal=write_refusal(answer, code))
    return facilitator.write_settled(answer)


def write_account_totals(account: Account) -> common_pb2.AccountTotals:
    """The account's totals, as the ledger mirrors them from the chain."""
    return common_pb2.AccountTotals(
        account_id=account.id,
        funds=encode_amount(account.funds),
        withdrawing=encode_amount(account.withdrawing),
        refunding=encode_amount(account.refunding),
        committed=encode_amount(account.committed),
        available=encode_amount(account.available),
        withdraw_finalizes_at=account.withdraw_finalizes_at,
    )


def write_spend_key(key: SpendKey) -> account_pb2.SpendKeyState:
    """A spend key without its secret."""
    return account_pb2.SpendKeyState(
        key_id=key.key_id,
        cap=encode_amount(key.cap),
        spent=encode_amount(max(0, key.spent)),
        expires_at=key.expires_at,
        revoked=key.revoked,
    )


def write_settlements(
    claims: Iterable[OutboundTransaction], receivers: frozenset[bytes]
) -> list[settlement_pb2.Settlement]:
    """Claim transactions, of each the part that pays these receivers."""
    return [settlement.write_settlement(_part_of(claim, receivers)) for claim in claims]


def write_left_out(left_out: Iterable[LeftOut], receivers: frozenset[bytes]) -> list[settlement_pb2.LeftOut]:
    """What a settlement did not claim for these receivers, and why."""
    return [settlement.write_left_out(one) for one in left_out if one.receiver in receivers]


def _part_of(claim: OutboundTransaction, receivers: frozenset[bytes]) -> Settlement:
    # Until one of its forms is mined, the newest is the one to look for.
    newest = claim.attempts[-1].transaction_hash if claim.attempts else b""
    return Settlement(
        id=claim.id,
        network=claim.network,
        transaction=claim.transaction_hash or newest,
        status=_STATUS[claim.status],
        created_at=claim.created_at,
        block_number=claim.block_number,
        gas_used=claim.gas_used,
        rows=claim.rows,
        payouts=tuple(Payout(p.receiver, p.token, p.amount) for p in claim.payouts if p.receiver in receivers),
    )
