"""Charges and what names their channels, from protobuf: bytes and integers.

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
from tallystick.v1 import charge_pb2, common_pb2
from tallystick_aggregator.charging.payments import UncheckedPayment, UncheckedSpendProof

SIGNATURE_BYTES: Final = 65

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
        raise below(f"charges[{len(payments)}]", error) from None
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


# Channels.


def read_channel(message: common_pb2.ChannelConfig, field: str) -> ChannelConfig:
    """Read what names a channel; it has a receiver."""
    config = read_config(message, message.receiver, field)
    if config.is_account:
        raise MalformedError(f"{field}.receiver", Described("zero"), "an address that is not zero")
    return config


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


def read_config(message: common_pb2.ChannelConfig, receiver: bytes, field: str) -> ChannelConfig:
    """Read what names an account or channel, with this receiver."""
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


def below(field: str, error: MalformedError) -> MalformedError:
    """The error of a part, named as a part of this field."""
    return MalformedError(f"{field}.{error.field}", Described(error.got), error.allowed)
