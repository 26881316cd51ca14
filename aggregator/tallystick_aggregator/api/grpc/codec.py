"""What only the aggregator reads of its messages; what it shares with its clients is read in `tallystick.codec`.

What is malformed raises MalformedError, which names the field as the .proto files do, what it held and what is allowed;
nothing else is ever raised.
"""

from tallystick.amounts import decode_amount
from tallystick.codec.common import SIGNATURE_BYTES, fixed, read_account
from tallystick.codec.facilitator import Request, read_attempt
from tallystick.errors import MalformedError
from tallystick.v1 import account_pb2
from tallystick.x402 import HEADER_BYTES_MAX, PaymentPayload, decode_json
from tallystick.x402.payloads import SIGNATURE_BYTES_MAX
from tallystick_aggregator.accounts.signed_calls import SignedCall
from tallystick_aggregator.chain.port import DepositAuthorization
from tallystick_aggregator.schemes.port import PAYLOAD, Caller, EncodedPayment


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
