"""x402's payment-identifier extension: the client names its payment, so that a retry is not a second payment.

The seller declares it in the 402 (`info.required`, and a JSON schema), the client repeats it with `info.id`. The
extension allows any text of 16 to 128 characters; the ids of `deferred` payments are UUIDv7 (see `payment_ids`).
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from tallystick.errors import MalformedError
from tallystick.payment_ids import format_payment_id, parse_payment_id
from tallystick.quantities import PaymentId
from tallystick.x402.messages import PaymentPayload, PaymentRequired, as_object

PAYMENT_IDENTIFIER: Final = "payment-identifier"
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")
_ID_FIELD: Final = f"extensions.{PAYMENT_IDENTIFIER}.info.id"


def payment_identifier_declaration(*, required: bool = True) -> dict[str, Any]:
    """The entry of a 402's `extensions` under PAYMENT_IDENTIFIER."""
    return {
        "info": {"required": required},
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "required": {"type": "boolean"},
                "id": {"type": "string", "minLength": 16, "maxLength": 128, "pattern": "^[a-zA-Z0-9_-]+$"},
            },
            "required": ["required"],
        },
    }


def payment_identifier_extension(payment_id: bytes) -> dict[str, Any]:
    """The `extensions` of a payment that names itself."""
    return {PAYMENT_IDENTIFIER: {"info": {"required": True, "id": format_payment_id(payment_id)}}}


def requires_payment_id(required: PaymentRequired) -> bool:
    """Whether the 402 says that a payment must name itself."""
    return _info(required.extensions).get("required") is True


def read_payment_id(payment: PaymentPayload) -> PaymentId | None:
    """The payment's id, None where it has none; raises MalformedError where it is no UUIDv7."""
    info = _info(payment.extensions)
    if "id" not in info:
        return None
    value = info["id"]
    if not isinstance(value, str):
        raise MalformedError(_ID_FIELD, value, "the text of a UUIDv7")
    return parse_payment_id(value, _ID_FIELD)


def read_identifier(payment: PaymentPayload) -> str | None:
    """The payment's id as the extension allows it, None where it has none: what `exact` payments may be named by.

    Raises MalformedError.
    """
    value = _info(payment.extensions).get("id")
    if value is None:
        return None
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise MalformedError(_ID_FIELD, value, "16 to 128 characters of A-Z, a-z, 0-9, _ and -")
    return value


def _info(extensions: Mapping[str, Any] | None) -> Mapping[str, Any]:
    extension = as_object((extensions or {}).get(PAYMENT_IDENTIFIER))
    return as_object(extension.get("info"))
