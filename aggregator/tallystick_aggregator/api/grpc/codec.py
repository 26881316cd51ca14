"""Protobuf at the aggregator's edge: what comes in, as bytes and integers. `responses` is the way out.

What is malformed raises MalformedError, which names the field as the .proto files do, what it held and what is allowed;
nothing else is ever raised. Charges are read in `charging.codec`, payments by the codec of their scheme.
"""

from collections.abc import Sequence
from typing import Final

from tallystick.amounts import decode_amount
from tallystick.channels import ChannelConfig
from tallystick.errors import Described, MalformedError
from tallystick.quantities import ZERO_ADDRESS
from tallystick.v1 import account_pb2, common_pb2, facilitator_pb2
from tallystick.x402 import HEADER_BYTES_MAX, Network, PaymentPayload, PaymentTerms, decode_json
from tallystick.x402.payloads import SIGNATURE_BYTES_MAX
from tallystick_aggregator.accounts.signed_calls import SignedCall
from tallystick_aggregator.chain.port import DepositAuthorization
from tallystick_aggregator.charging.codec import SIGNATURE_BYTES, fixed, not_zero, read_config
from tallystick_aggregator.schemes.port import PAYLOAD, Caller, EncodedPayment

ATTEMPT_BYTES: Final = 16
_SCHEME_CHARS_MAX: Final = 64
_NETWORK_CHARS_MAX: Final = 64


# Payments.


def read_terms(request: facilitator_pb2.VerifyRequest | facilitator_pb2.SettleRequest) -> PaymentTerms:
    """Read a seller's terms; the scheme is any text."""
    if not request.HasField("terms"):
        raise MalformedError("terms", None, "what the seller asks for")
    message = request.terms
    if not 0 < len(message.scheme) <= _SCHEME_CHARS_MAX:
        raise MalformedError("terms.scheme", message.scheme, f"a name of 1 to {_SCHEME_CHARS_MAX} characters")
    return PaymentTerms(
        scheme=message.scheme,
        network=Network.parse(message.network, "terms.network"),
        amount=decode_amount(message.amount, "terms.amount"),
        asset=fixed(message.asset, 20, "terms.asset"),
        pay_to=fixed(message.pay_to, 20, "terms.pay_to"),
    )


def read_payment(request: facilitator_pb2.VerifyRequest | facilitator_pb2.SettleRequest) -> EncodedPayment:
    """Read which field holds the payment; what is in it is its scheme's to read."""
    form = request.WhichOneof("payment")
    if form == PAYLOAD:
        return EncodedPayment(form, decode_json(request.payload, PaymentPayload, form, HEADER_BYTES_MAX))
    return EncodedPayment(form, form and getattr(request, form))


def read_caller(request: facilitator_pb2.VerifyRequest | facilitator_pb2.SettleRequest, principal: str) -> Caller:
    """Read the attempt that a payment is verified or settled for, if there is one."""
    if not request.HasField("attempt"):
        return Caller(principal)
    attempt = fixed(request.attempt.id, ATTEMPT_BYTES, "attempt.id")
    return Caller(principal, attempt, fixed(request.attempt.request_hash, 32, "attempt.request_hash"))


# Accounts.


def read_network(network: str) -> str:
    """Read a CAIP-2 name of an EVM chain."""
    return str(Network.parse(network[: _NETWORK_CHARS_MAX + 1], "network"))


def read_escrow(address: bytes) -> bytes:
    """Read an escrow's address; empty where the caller leaves it out."""
    return address and fixed(address, 20, "escrow")


def read_account(message: common_pb2.ChannelConfig, field: str) -> ChannelConfig:
    """Read what names an account: the receiver is zero or left out."""
    config = read_config(message, message.receiver or ZERO_ADDRESS, field)
    if not config.is_account:
        raise MalformedError(f"{field}.receiver", message.receiver, "none, or 20 zero bytes: this names an account")
    return config


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


def read_totals(messages: Sequence[account_pb2.ReceiverTotal], count_max: int) -> tuple[tuple[bytes, int], ...]:
    """Read the totals of an approval, in their order."""
    if len(messages) > count_max:
        raise MalformedError("totals", Described(f"{len(messages)} totals"), f"at most {count_max}")
    return tuple(
        (not_zero(total.receiver, f"totals[{n}].receiver"), decode_amount(total.total, f"totals[{n}].total"))
        for n, total in enumerate(messages)
    )
