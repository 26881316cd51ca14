"""What every service shares (common.proto): channels, totals, refusals; and the checks of single fields."""

from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

import msgspec

from tallystick.amounts import decode_amount, encode_amount
from tallystick.channels import ChannelConfig
from tallystick.errors import Described, MalformedError, RefusedError
from tallystick.quantities import ZERO_ADDRESS, ChannelTotals
from tallystick.reasons import Reason
from tallystick.v1 import common_pb2
from tallystick.x402 import HEADER_BYTES_MAX, Network, decode_json

SIGNATURE_BYTES: Final = 65
_NETWORK_CHARS_MAX: Final = 64

_CONFIG_FIELDS: Final = {
    "payerAuthorizer": "payer_authorizer",
    "receiverAuthorizer": "receiver_authorizer",
    "withdrawDelay": "withdraw_delay_s",
}
"""As a ChannelConfig names its fields, and as the .proto does."""


def fixed(data: bytes, length: int, field: str) -> bytes:
    """Read bytes of this very length."""
    if len(data) != length:
        raise MalformedError(field, data, f"{length} bytes")
    return data


def not_zero(address: bytes, field: str) -> bytes:
    if fixed(address, 20, field) == ZERO_ADDRESS:
        raise MalformedError(field, Described("zero"), "an address that is not zero")
    return address


def read_network(network: str, field: str = "network") -> Network:
    """Read a CAIP-2 name of an EVM chain."""
    return Network.parse(network[: _NETWORK_CHARS_MAX + 1], field)


def read_config(message: common_pb2.ChannelConfig, field: str) -> ChannelConfig:
    """Read what names an account (the receiver is zero or left out) or a channel."""
    try:
        return ChannelConfig(
            payer=message.payer,
            payer_authorizer=message.payer_authorizer,
            receiver=message.receiver or ZERO_ADDRESS,
            receiver_authorizer=message.receiver_authorizer,
            token=message.token,
            withdraw_delay_s=message.withdraw_delay_s,
            salt=message.salt,
        )
    except MalformedError as error:
        name = _CONFIG_FIELDS.get(error.field, error.field)
        raise MalformedError(f"{field}.{name}", Described(error.got), error.allowed) from None


def read_channel(message: common_pb2.ChannelConfig, field: str) -> ChannelConfig:
    """Read what names a channel; it has a receiver."""
    config = read_config(message, field)
    if config.is_account:
        raise MalformedError(f"{field}.receiver", Described("zero"), "an address that is not zero")
    return config


def read_account(message: common_pb2.ChannelConfig, field: str) -> ChannelConfig:
    """Read what names an account: the receiver is zero or left out."""
    config = read_config(message, field)
    if not config.is_account:
        raise MalformedError(f"{field}.receiver", message.receiver, "none, or 20 zero bytes: this names an account")
    return config


def write_config(config: ChannelConfig) -> common_pb2.ChannelConfig:
    return common_pb2.ChannelConfig(
        payer=config.payer,
        payer_authorizer=config.payer_authorizer,
        receiver=config.receiver,
        receiver_authorizer=config.receiver_authorizer,
        token=config.token,
        withdraw_delay_s=config.withdraw_delay_s,
        salt=config.salt,
    )


def read_channel_totals(message: common_pb2.ChannelTotals, field: str) -> ChannelTotals:
    return ChannelTotals(
        channel_id=fixed(message.channel_id, 32, f"{field}.channel_id"),
        receiver=fixed(message.receiver, 20, f"{field}.receiver"),
        ceiling=decode_amount(message.ceiling, f"{field}.ceiling"),
        charged=decode_amount(message.charged, f"{field}.charged"),
        reserved=decode_amount(message.reserved, f"{field}.reserved"),
        claimed=decode_amount(message.claimed, f"{field}.claimed"),
    )


def write_channel_totals(totals: ChannelTotals) -> common_pb2.ChannelTotals:
    return common_pb2.ChannelTotals(
        channel_id=totals.channel_id,
        receiver=totals.receiver,
        ceiling=encode_amount(totals.ceiling),
        charged=encode_amount(totals.charged),
        reserved=encode_amount(totals.reserved),
        claimed=encode_amount(totals.claimed),
    )


def read_refusal(message: common_pb2.Refusal) -> RefusedError:
    """Read a refusal, to be raised; `state` are the channel's totals where it carries them."""
    return RefusedError(
        Reason.from_wire(message.reason),
        message.message,
        message.field,
        message.got,
        message.allowed,
        read_channel_totals(message.totals, "refusal.totals") if message.HasField("totals") else None,
        message.retry_after_s,
        read_extra(message.extra, "refusal.extra"),
        message.code,
    )


def read_extra(message: bytes, field: str) -> Mapping[str, Any]:
    """Read what stands in an `extra` of x402: a JSON object, empty where nothing was sent."""
    return decode_json(message, dict[str, Any], field, HEADER_BYTES_MAX) if message else {}


def write_extra(extra: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(extra) if extra else b""


class Refusable(Protocol):
    """An answer that may be a refusal instead."""

    @property
    def refusal(self) -> common_pb2.Refusal:
        """The refusal."""
        ...

    def HasField(self, field_name: Literal["refusal"], /) -> bool:  # noqa: N802 - protobuf's name
        """Whether there is one."""
        ...


def check_refusal(answer: Refusable) -> None:
    """Raises the refusal that an answer is."""
    if answer.HasField("refusal"):
        raise read_refusal(answer.refusal)


def write_refusal(
    reason: Reason,
    message: str,
    field: str = "",
    got: str = "",
    allowed: str = "",
    totals: ChannelTotals | None = None,
    retry_after_s: int = 0,
    extra: Mapping[str, Any] | None = None,
    code: str = "",
) -> common_pb2.Refusal:
    """Write why not, what came and what is allowed. Whether it may be retried is the reason's own property."""
    return common_pb2.Refusal(
        reason=int(reason),  # type: ignore[arg-type]  # the numbers are equal; a test proves it
        retry=reason.retry,
        message=message,
        field=field,
        got=got,
        allowed=allowed,
        totals=None if totals is None else write_channel_totals(totals),
        retry_after_s=retry_after_s,
        extra=write_extra(extra or {}),
        code=code,
    )
