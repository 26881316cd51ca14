"""Protobuf at the aggregator's edge: what comes in, as bytes and integers. `answers` is the way out.

What is malformed raises MalformedError, which names the field as the .proto files do, what it held and what is allowed;
nothing else is ever raised. `read_charges` is on the way of every charge: one pass over the fields, no objects beyond
what the batcher needs.
"""

from collections.abc import Sequence
from typing import Final, NoReturn

from tallystick.amounts import decode_amount
from tallystick.channels import ChannelConfig
from tallystick.errors import Described, MalformedError
from tallystick.payment_ids import parse_payment_id
from tallystick.quantities import ZERO_ADDRESS
from tallystick.v1 import account_pb2, charge_pb2, common_pb2, facilitator_pb2
from tallystick.x402 import Network, PaymentTerms
from tallystick.x402.payloads import SIGNATURE_BYTES_MAX
from tallystick_aggregator.accounts.signed_calls import SignedCall
from tallystick_aggregator.chain.port import DepositAuthorization, TransferAuthorization
from tallystick_aggregator.charging import UncheckedPayment, UncheckedSpendProof
from tallystick_aggregator.schemes.exact import Caller

HANDLE_BYTES: Final = 64
ATTEMPT_BYTES: Final = 16
SIGNATURE_BYTES: Final = 65
_SCHEME_CHARS_MAX: Final = 64
_NETWORK_CHARS_MAX: Final = 64

_CONFIG_FIELDS: Final = {
    "payerAuthorizer": "payer_authorizer",
    "receiverAuthorizer": "receiver_authorizer",
    "withdrawDelay": "withdraw_delay_s",
}
"""As a ChannelConfig names its fields, and as the .proto does."""


# Charges.


def read_charges(messages: Sequence[charge_pb2.Charge], count_max: int) -> list[UncheckedPayment]:
    """Read a batch of charges."""
    if len(messages) > count_max:
        raise MalformedError("charges", Described(f"{len(messages)} charges"), f"at most {count_max}")
    payments: list[UncheckedPayment] = []
    try:
        for message in messages:
            payments.append(read_charge(message))  # noqa: PERF401 - its length tells where an error is
    except MalformedError as error:
        raise _below(f"charges[{len(payments)}]", error) from None
    return payments


def read_charge(message: charge_pb2.Charge) -> UncheckedPayment:
    """Read one charge; fields are named relative to it."""
    channel_id, payment_id, request_hash = message.channel_id, message.payment_id, message.request_hash
    amount, ceiling, signature = message.amount, message.ceiling, message.signature
    if (
        len(channel_id) != 32
        or len(payment_id) != 16
        or len(request_hash) != 32
        or payment_id[6] >> 4 != 7
        or payment_id[8] >> 6 != 2
        or len(amount) > 16
        or amount[:1] == b"\0"
        or (signature and (len(signature) != SIGNATURE_BYTES or not 0 < len(ceiling) <= 16 or ceiling[0] == 0))
        or (ceiling and not signature)
    ):
        _raise_malformed_charge(message)
    spend = None
    if message.HasField("spend_proof"):
        proof = message.spend_proof
        key_id, max_amount, mac = proof.key_id, proof.max_amount, proof.mac
        if len(key_id) != 32 or len(mac) != 32 or len(max_amount) > 16 or max_amount[:1] == b"\0":
            _raise_malformed_spend_proof(proof)
        spend = UncheckedSpendProof(key_id, int.from_bytes(max_amount, "big"), mac)
    return UncheckedPayment(
        channel_id,
        payment_id,
        int.from_bytes(amount, "big"),
        request_hash,
        int.from_bytes(ceiling, "big"),
        signature,
        spend,
    )


def _raise_malformed_charge(message: charge_pb2.Charge) -> NoReturn:
    """Name the field that makes a charge malformed."""
    fixed(message.channel_id, 32, "channel_id")
    parse_payment_id(message.payment_id, "payment_id")
    decode_amount(message.amount, "amount")
    fixed(message.request_hash, 32, "request_hash")
    decode_amount(message.ceiling, "ceiling")
    if message.ceiling and not message.signature:
        raise MalformedError("signature", message.signature, "65 bytes where there is a ceiling")
    fixed(message.signature, SIGNATURE_BYTES, "signature")
    raise MalformedError("ceiling", Described("zero"), "an amount above zero where there is a signature")


def _raise_malformed_spend_proof(proof: charge_pb2.SpendProof) -> NoReturn:
    fixed(proof.key_id, 32, "spend_proof.key_id")
    decode_amount(proof.max_amount, "spend_proof.max_amount")
    fixed(proof.mac, 32, "spend_proof.mac")
    raise AssertionError("a spend proof is malformed in one of its fields")


# Payments.


def read_terms(message: facilitator_pb2.PaymentTerms) -> PaymentTerms:
    """Read a seller's terms; the scheme is any text."""
    if not 0 < len(message.scheme) <= _SCHEME_CHARS_MAX:
        raise MalformedError("terms.scheme", message.scheme, f"a name of 1 to {_SCHEME_CHARS_MAX} characters")
    return PaymentTerms(
        scheme=message.scheme,
        network=Network.parse(message.network, "terms.network"),
        amount=decode_amount(message.amount, "terms.amount"),
        asset=fixed(message.asset, 20, "terms.asset"),
        pay_to=fixed(message.pay_to, 20, "terms.pay_to"),
    )


def read_deferred(message: facilitator_pb2.DeferredPayment) -> tuple[ChannelConfig, UncheckedPayment]:
    """Read a `deferred` payment."""
    if not message.HasField("charge"):
        raise MalformedError("deferred.charge", None, "a charge")
    config = read_channel(message.config, "deferred.config")
    try:
        return config, read_charge(message.charge)
    except MalformedError as error:
        raise _below("deferred.charge", error) from None


def read_exact(message: facilitator_pb2.ExactPayment) -> TransferAuthorization:
    """Read an `exact` payment; its signature may be a contract wallet's, of any length up to a bound."""
    if len(message.signature) > SIGNATURE_BYTES_MAX:
        raise MalformedError("exact.signature", message.signature, f"at most {SIGNATURE_BYTES_MAX} bytes")
    return TransferAuthorization(
        from_=not_zero(getattr(message, "from"), "exact.from"),  # a keyword of Python
        to=fixed(message.to, 20, "exact.to"),
        value=decode_amount(message.value, "exact.value"),
        valid_after=message.valid_after,
        valid_before=message.valid_before,
        nonce=fixed(message.nonce, 32, "exact.nonce"),
        signature=message.signature,
    )


def read_caller(message: facilitator_pb2.Attempt, principal: str, *, present: bool) -> Caller:
    """Read the attempt that an `exact` payment is verified or settled for; `present`: whether the message has one."""
    if not present:
        return Caller(principal)
    attempt = fixed(message.id, ATTEMPT_BYTES, "attempt.id")
    return Caller(principal, attempt, fixed(message.request_hash, 32, "attempt.request_hash"))


def read_handle(handle: bytes) -> bytes:
    """Read what names a reservation."""
    return fixed(handle, HANDLE_BYTES, "handle")


# Accounts.


def read_network(network: str) -> str:
    """Read a CAIP-2 name of an EVM chain."""
    return str(Network.parse(network[: _NETWORK_CHARS_MAX + 1], "network"))


def read_channel(message: common_pb2.ChannelConfig, field: str) -> ChannelConfig:
    """Read what names a channel; it has a receiver."""
    config = _read_config(message, message.receiver, field)
    if config.is_account:
        raise MalformedError(f"{field}.receiver", Described("zero"), "an address that is not zero")
    return config


def read_account(message: common_pb2.ChannelConfig, field: str) -> ChannelConfig:
    """Read what names an account: the receiver is zero or left out."""
    config = _read_config(message, message.receiver or ZERO_ADDRESS, field)
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


# Fields.


def fixed(data: bytes, length: int, field: str) -> bytes:
    """Read bytes of this very length."""
    if len(data) != length:
        raise MalformedError(field, data, f"{length} bytes")
    return data


def not_zero(address: bytes, field: str) -> bytes:
    """Read an address that is not zero."""
    if fixed(address, 20, field) == ZERO_ADDRESS:
        raise MalformedError(field, Described("zero"), "an address that is not zero")
    return address


def _read_config(message: common_pb2.ChannelConfig, receiver: bytes, field: str) -> ChannelConfig:
    try:
        return ChannelConfig(
            payer=message.payer,
            payer_authorizer=message.payer_authorizer,
            receiver=receiver,
            receiver_authorizer=message.receiver_authorizer,
            token=message.token,
            withdraw_delay_s=message.withdraw_delay_s,
            salt=message.salt,
        )
    except MalformedError as error:
        name = _CONFIG_FIELDS.get(error.field, error.field)
        raise MalformedError(f"{field}.{name}", Described(error.got), error.allowed) from None


def _below(field: str, error: MalformedError) -> MalformedError:
    return MalformedError(f"{field}.{error.field}", Described(error.got), error.allowed)
