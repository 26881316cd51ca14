"""The JSON objects of x402 v2, the headers that carry them, and their codec.

Types are strict (a number is no string, a fraction no integer). Unknown keys are tolerated, as x402 extends its
objects by adding some; what is tolerated is not kept. Amounts stay decimal strings and addresses hex here: `terms` and
`payloads` turn them into integers and bytes.
"""

import re
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar, cast

import msgspec
from msgspec import Meta, Struct, field

from tallystick.errors import Described, MalformedError

PAYMENT_REQUIRED_HEADER: Final = "PAYMENT-REQUIRED"
PAYMENT_SIGNATURE_HEADER: Final = "PAYMENT-SIGNATURE"
PAYMENT_RESPONSE_HEADER: Final = "PAYMENT-RESPONSE"
HEADER_BYTES_MAX: Final = 16_384
"""What is decoded at most; common servers refuse longer headers anyway."""

_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_STANDARD_ALPHABET: Final = str.maketrans("-_", "+/")

# How the JSON library words its errors.
_TYPE: Final = re.compile(r"Expected (?P<allowed>.+), got (?P<got>.+)")
_RANGE: Final = re.compile(r"Expected (?P<allowed>.+)")
_CHOICE: Final = re.compile(r"Invalid (?:enum )?value '?(?P<got>.*?)'?", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>[^`]*)`")

JSON_CONTAINERS_MAX: Final = 500
"""Arrays and objects in one message: bounds how deep they nest, here and where a message is written out again."""
_TIMEOUT_S_MAX: Final = 2**31 - 1

T = TypeVar("T")


def _version() -> Literal[2]:
    return 2


def _nothing() -> dict[str, Any]:
    return {}


# A default by a function of ours, unlike a plain one, is written out even where empty defaults are left out: the
# version and `extra` are always told.


class Message(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The base of the JSON objects: camelCase keys, absent instead of null.

    Classes repeat `frozen` and `kw_only`, which type checkers do not inherit.
    """


class ResourceInfo(Message, frozen=True, kw_only=True):
    """What is paid for."""

    url: str
    description: str | None = None
    mime_type: str | None = None


class PaymentRequirements(Message, frozen=True, kw_only=True):
    """One way to pay; `amount` is decimal text in atomic units, `extra` belongs to the scheme."""

    scheme: str
    network: str
    amount: str
    asset: str
    pay_to: str
    max_timeout_seconds: Annotated[int, Meta(ge=0, le=_TIMEOUT_S_MAX)]
    extra: dict[str, Any] = field(default_factory=_nothing)


class PaymentRequired(Message, frozen=True, kw_only=True):
    """What a 402 says."""

    x402_version: Literal[2] = field(default_factory=_version)
    error: str | None = None
    resource: ResourceInfo | None = None
    accepts: list[PaymentRequirements]
    extensions: dict[str, Any] | None = None


class PaymentPayload(Message, frozen=True, kw_only=True):
    """A payment; `accepted` repeats the requirements that it meets, `payload` belongs to the scheme."""

    x402_version: Literal[2] = field(default_factory=_version)
    payload: dict[str, Any]
    accepted: PaymentRequirements
    resource: ResourceInfo | None = None
    extensions: dict[str, Any] | None = None


class SettleResponse(Message, frozen=True, kw_only=True):
    """The answer of /settle, also in PAYMENT-RESPONSE; `transaction` is empty where none was sent."""

    success: bool
    error_reason: str | None = None
    error_message: str | None = None
    payer: str | None = None
    transaction: str
    network: str
    amount: str | None = None
    extensions: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None


def encode_json(message: Message) -> bytes:
    """The message as UTF-8 JSON."""
    return msgspec.json.encode(message)


def encode_header(message: Message) -> str:
    """The message as the value of its header: base64 of JSON."""
    return b64encode(msgspec.json.encode(message)).decode()


def decode_header(text: str, type: type[T], field: str, max_bytes: int = HEADER_BYTES_MAX) -> T:  # noqa: A002
    """The message in a header's value; `field` is the header's name. Base64 is taken in either alphabet (RFC 4648,
    sections 4 and 5), with or without its padding.

    Raises MalformedError, which names the header and the JSON path, on anything but base64 of a message of this type;
    never anything else.
    """
    if len(text) > max_bytes:
        raise MalformedError(field, Described(f"{len(text)} characters"), f"at most {max_bytes}")
    if not _BASE64.fullmatch(text):  # the decoder skips what it does not know
        raise MalformedError(field, text, "base64 of JSON")
    digits = text.rstrip("=").translate(_STANDARD_ALPHABET)
    try:
        data = a2b_base64(digits + "=" * (-len(digits) % 4))
    except ValueError:
        raise MalformedError(field, text, "base64 of JSON") from None
    return decode_json(data, type, field, max_bytes)


def decode_json(data: bytes, type: type[T], field: str, max_bytes: int) -> T:  # noqa: A002
    """The message in UTF-8 JSON; raises MalformedError, which names `field` and the JSON path, and nothing else."""
    if len(data) > max_bytes:
        raise MalformedError(field, Described(f"{len(data)} bytes"), f"at most {max_bytes}")
    check_containers(data, field)
    return decode_counted_json(data, type, field)


def check_containers(data: bytes, field: str, containers_max: int = JSON_CONTAINERS_MAX) -> None:
    """Bound how deep JSON nests. Raises MalformedError on more arrays and objects than that."""
    if data.count(b"[") + data.count(b"{") > min(containers_max, JSON_CONTAINERS_MAX):
        raise MalformedError(field, Described("more"), f"at most {containers_max} arrays and objects")


def decode_counted_json(data: bytes, type: type[T], field: str) -> T:  # noqa: A002
    """`decode_json` of what has passed `check_containers`, and is not too long."""
    try:
        return msgspec.json.decode(data, type=type)
    except msgspec.ValidationError as error:
        raise malformed(error, field) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MalformedError(field, data, "UTF-8 JSON") from None
    except RecursionError:
        raise MalformedError(field, Described("JSON nested too deep"), "JSON nested less deep") from None


def as_object(value: object) -> Mapping[str, Any]:
    """What an extension holds, if that is a JSON object; else an empty one."""
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def malformed(error: msgspec.ValidationError, field: str) -> MalformedError:
    """The error of the JSON library as ours, its path joined to the field: `PAYMENT-SIGNATURE $.accepted.amount`."""
    message, _, path = str(error).partition(" - at `")
    path = path.removesuffix("`")
    if missing := _MISSING.fullmatch(message):
        return MalformedError(_join(field, f"{path or '$'}.{missing['name']}"), None, "a value")
    name = _join(field, path) if path else field
    if match := _TYPE.fullmatch(message):
        return MalformedError(name, Described(match["got"].replace("`", "")), match["allowed"].replace("`", ""))
    if match := _RANGE.fullmatch(message):
        return MalformedError(name, Described("a value out of range"), match["allowed"].replace("`", ""))
    if match := _CHOICE.fullmatch(message):
        return MalformedError(name, match["got"], "a value that x402 v2 defines here")
    return MalformedError(name, Described("a value that no message may hold"), "a value of the right form")


def _join(field: str, path: str) -> str:
    return f"{field} {path}"
