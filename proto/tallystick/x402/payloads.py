"""What a payment carries, as JSON and as bytes and integers.

`deferred` has the payload shapes of x402's batch-settlement with keys of ours: `spendProof`, `requestHash` and `blind`
(docs/reference/deferred-http.md has every byte). `exact` is x402's own
on EVM chains. The `read_` functions raise MalformedError, which names the field by its JSON path, and nothing else.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import msgspec

from tallystick import eip712
from tallystick.amounts import parse_amount, parse_uint64
from tallystick.channels import ChannelConfig
from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum, parse_address, parse_bytes, parse_bytes_up_to, to_hex
from tallystick.quantities import Bytes32
from tallystick.requests import BLIND_BYTES
from tallystick.spend_keys import SpendProof
from tallystick.x402.identifier import PAYMENT_IDENTIFIER, read_payment_id
from tallystick.x402.messages import Message, PaymentPayload, malformed

SIGNATURE_BYTES_MAX: Final = 4_096
"""An `exact` signature may be a contract wallet's, of any length; this is more than any in use."""

T = TypeVar("T")


class ChannelConfigMessage(Message, frozen=True, kw_only=True):
    """A ChannelConfig in JSON: hex, and the delay in seconds."""

    payer: str
    payer_authorizer: str
    receiver: str
    receiver_authorizer: str
    token: str
    withdraw_delay: int
    salt: str


class VoucherMessage(Message, frozen=True, kw_only=True):
    """A voucher in JSON: hex, and decimal text."""

    channel_id: str
    max_claimable_amount: str
    signature: str


class SpendProofMessage(Message, frozen=True, kw_only=True):
    """A spend proof in JSON: hex, and decimal text."""

    key_id: str
    max_amount: str
    mac: str


class DeferredPayload(Message, frozen=True, kw_only=True):
    """The payload of a `deferred` payment."""

    type: Literal["voucher"]
    channel_config: ChannelConfigMessage
    voucher: VoucherMessage
    spend_proof: SpendProofMessage | None = None
    request_hash: str | None = None
    blind: str | None = None


class ExactPayloadAuthorization(Message, frozen=True, kw_only=True):
    """An ERC-3009 authorization in JSON: hex, and decimal text."""

    from_: str = msgspec.field(name="from")
    to: str
    value: str
    valid_after: str
    valid_before: str
    nonce: str


class ExactPayload(Message, frozen=True, kw_only=True):
    """The payload of an `exact` payment."""

    signature: str
    authorization: ExactPayloadAuthorization


@dataclass(frozen=True, slots=True)
class DeferredPayment:
    """A `deferred` payment, unchecked: who says so is still to be proven.

    `ceiling` is the voucher's amount in atomic units, `signature` its 65 bytes. `channel_id` is what the payer wrote:
    compare it with the one that `config` hashes to. `request_hash` is what the payment is bound to, 32 bytes, or none
    where the payer left it to the seller to tell; `blind` has 16 bytes where that hash is a blinded one
    (`tallystick.requests`), or none.
    """

    config: ChannelConfig
    payment_id: bytes
    ceiling: int
    signature: bytes = field(repr=False)
    spend: SpendProof | None
    channel_id: bytes
    request_hash: bytes = b""
    blind: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class ExactAuthorization:
    """A signed ERC-3009 TransferWithAuthorization, unchecked; times in seconds, `value` in atomic units."""

    from_: bytes
    to: bytes
    value: int
    valid_after: int
    valid_before: int
    nonce: bytes
    signature: bytes = field(repr=False)

    def struct_hash(self) -> Bytes32:
        """What the payer signs, under the token's domain."""
        return eip712.hash_transfer_with_authorization(
            self.from_, self.to, self.value, self.valid_after, self.valid_before, self.nonce
        )


def read_deferred(payment: PaymentPayload) -> DeferredPayment:
    """The `deferred` payment in a PaymentPayload, its payment id included, which is required."""
    payload = _convert(payment.payload, DeferredPayload)
    payment_id = read_payment_id(payment)
    if payment_id is None:
        raise MalformedError(f"extensions.{PAYMENT_IDENTIFIER}.info.id", None, "the text of a UUIDv7")
    voucher, spend = payload.voucher, payload.spend_proof
    return DeferredPayment(
        config=read_channel_config(payload.channel_config, "payload.channelConfig"),
        payment_id=payment_id,
        ceiling=parse_amount(voucher.max_claimable_amount, "payload.voucher.maxClaimableAmount"),
        signature=parse_bytes(voucher.signature, 65, "payload.voucher.signature"),
        spend=None if spend is None else _read_spend_proof(spend, "payload.spendProof"),
        channel_id=parse_bytes(voucher.channel_id, 32, "payload.voucher.channelId"),
        request_hash=_read_optional(payload.request_hash, 32, "payload.requestHash"),
        blind=_read_optional(payload.blind, BLIND_BYTES, "payload.blind"),
    )


def deferred_payload(payment: DeferredPayment) -> dict[str, Any]:
    """The `payload` of a PaymentPayload; the payment id goes into its `extensions`."""
    spend = payment.spend
    payload: dict[str, Any] = {
        "type": "voucher",
        "channelConfig": write_channel_config(payment.config),
        "voucher": {
            "channelId": to_hex(payment.channel_id),
            "maxClaimableAmount": str(payment.ceiling),
            "signature": to_hex(payment.signature),
        },
    }
    if spend is not None:
        payload["spendProof"] = {
            "keyId": to_hex(spend.key_id),
            "maxAmount": str(spend.max_amount),
            "mac": to_hex(spend.mac),
        }
    if payment.request_hash:
        payload["requestHash"] = to_hex(payment.request_hash)
    if payment.blind:
        payload["blind"] = to_hex(payment.blind)
    return payload


def read_exact(payment: PaymentPayload) -> ExactAuthorization:
    """The `exact` payment in a PaymentPayload."""
    payload = _convert(payment.payload, ExactPayload)
    authorization, path = payload.authorization, "payload.authorization"
    return ExactAuthorization(
        from_=parse_address(authorization.from_, f"{path}.from"),
        to=parse_address(authorization.to, f"{path}.to"),
        value=parse_amount(authorization.value, f"{path}.value"),
        valid_after=parse_uint64(authorization.valid_after, f"{path}.validAfter"),
        valid_before=parse_uint64(authorization.valid_before, f"{path}.validBefore"),
        nonce=parse_bytes(authorization.nonce, 32, f"{path}.nonce"),
        signature=parse_bytes_up_to(payload.signature, SIGNATURE_BYTES_MAX, "payload.signature"),
    )


def exact_payload(authorization: ExactAuthorization) -> dict[str, Any]:
    """The `payload` of a PaymentPayload."""
    return {
        "signature": to_hex(authorization.signature),
        "authorization": {
            "from": checksum(authorization.from_),
            "to": checksum(authorization.to),
            "value": str(authorization.value),
            "validAfter": str(authorization.valid_after),
            "validBefore": str(authorization.valid_before),
            "nonce": to_hex(authorization.nonce),
        },
    }


def read_channel_config(message: ChannelConfigMessage, field: str) -> ChannelConfig:
    """The ChannelConfig as bytes and integers, its fields below `field`."""
    try:
        return ChannelConfig(
            payer=parse_address(message.payer, "payer"),
            payer_authorizer=parse_address(message.payer_authorizer, "payerAuthorizer"),
            receiver=parse_address(message.receiver, "receiver"),
            receiver_authorizer=parse_address(message.receiver_authorizer, "receiverAuthorizer"),
            token=parse_address(message.token, "token"),
            withdraw_delay_s=message.withdraw_delay,
            salt=parse_bytes(message.salt, 32, "salt"),
        )
    except MalformedError as error:
        raise error.within(field) from None


def write_channel_config(config: ChannelConfig) -> dict[str, Any]:
    """The ChannelConfig in JSON, its addresses in lower case: this is on the way of every request."""
    return {
        "payer": to_hex(config.payer),
        "payerAuthorizer": to_hex(config.payer_authorizer),
        "receiver": to_hex(config.receiver),
        "receiverAuthorizer": to_hex(config.receiver_authorizer),
        "token": to_hex(config.token),
        "withdrawDelay": config.withdraw_delay_s,
        "salt": to_hex(config.salt),
    }


def _read_spend_proof(message: SpendProofMessage, field: str) -> SpendProof:
    return SpendProof(
        key_id=parse_bytes(message.key_id, 32, f"{field}.keyId"),
        max_amount=parse_amount(message.max_amount, f"{field}.maxAmount"),
        mac=parse_bytes(message.mac, 32, f"{field}.mac"),
    )


def _read_optional(text: str | None, length: int, field: str) -> bytes:
    return b"" if text is None else parse_bytes(text, length, field)


def _convert(payload: dict[str, Any], type_: type[T]) -> T:
    try:
        return msgspec.convert(payload, type_)
    except msgspec.ValidationError as error:
        raise malformed(error, "payload") from None
