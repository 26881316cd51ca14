"""The official SDK's objects (Pydantic) as ours (msgspec), and back: both are the same JSON."""

from typing import TypeVar

from pydantic import BaseModel
from x402 import schemas

from tallystick.x402 import PaymentPayload, PaymentRequirements, decode_json
from tallystick.x402.messages import HEADER_BYTES_MAX, Message, encode_json

Theirs = TypeVar("Theirs", bound=BaseModel)
Ours = TypeVar("Ours", bound=Message)

_BYTES_MAX = 4 * HEADER_BYTES_MAX
"""Headers were bounded when they were decoded; this bounds what did not come in one."""


def ours(message: BaseModel, type_: type[Ours], field: str) -> Ours:
    """An object of the SDK's as one of ours. Raises MalformedError, its field below `field`."""
    data = message.model_dump_json(by_alias=True, exclude_none=True).encode()
    return decode_json(data, type_, field, _BYTES_MAX)


def theirs(message: Message, type_: type[Theirs]) -> Theirs:
    """An object of ours as one of the SDK's."""
    return type_.model_validate_json(encode_json(message))


def payment_of(payload: schemas.PaymentPayload) -> PaymentPayload:
    """A payment. Raises MalformedError."""
    return ours(payload, PaymentPayload, "paymentPayload")


def requirements_of(requirements: schemas.PaymentRequirements) -> PaymentRequirements:
    """What a seller asks for. Raises MalformedError."""
    return ours(requirements, PaymentRequirements, "paymentRequirements")
