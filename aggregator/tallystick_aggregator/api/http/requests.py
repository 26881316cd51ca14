"""What is asked, as values: the caller's token, a body within its limits, and x402's requests.

Raises ProblemError and MalformedError, which names the field as the JSON does, and nothing else.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import field
from starlette.types import Receive, Scope

from tallystick.errors import MalformedError
from tallystick.x402.facilitator import SettleRequest, VerifyRequest
from tallystick.x402.messages import (
    Message,
    PaymentPayload,
    PaymentRequirements,
    check_containers,
    decode_counted_json,
)
from tallystick_aggregator.api.http.connections import BODY_IS_HERE
from tallystick_aggregator.api.http.limits import HttpLimits
from tallystick_aggregator.api.http.responses import ProblemError
from tallystick_aggregator.auth.credentials import UnauthenticatedError

TOKEN_CHARS_MAX: Final = 256
NO_STRANGERS: Final = "a token is needed here: send it as 'Authorization: Bearer <token>'"
_BEARER: Final = b"bearer "
_BODY: Final = "body"


class RequestV1(Message, frozen=True, kw_only=True):
    """A request of x402 version 1, which is recognised and not served."""

    x402_version: Literal[1]
    payment_payload: dict[str, Any] = field(default_factory=dict[str, Any])
    payment_requirements: dict[str, Any] = field(default_factory=dict[str, Any])


class Asked(NamedTuple):
    """A payment and what it is to meet."""

    payload: PaymentPayload
    requirements: PaymentRequirements


class ClientGoneError(Exception):
    """The caller left before it had said what it wants."""


class OldVersionError(Exception):
    """A request of x402 version 1; `network` is what it named, empty where it named none."""

    def __init__(self, network: str) -> None:
        super().__init__(network)
        self.network = network


def token_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the token of `Authorization: Bearer`, None where there is no such header; raises UnauthenticatedError."""
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        return None
    value = values[0]
    is_bearer = value[: len(_BEARER)].lower() == _BEARER
    if len(values) > 1 or not is_bearer or not value.isascii() or len(value) > TOKEN_CHARS_MAX:
        raise UnauthenticatedError("the header Authorization must be one 'Bearer <token>', nothing else")
    return value[len(_BEARER) :].decode()


async def read_body(scope: Scope, receive: Receive, limits: HttpLimits) -> bytes:
    """Read a body that is neither too long nor too late. Raises ProblemError, and ClientGoneError."""
    for name, value in scope["headers"]:
        if name == b"content-length" and not (value.isdigit() and int(value[:20]) <= limits.body_bytes_max):
            raise _too_long(limits)
    parts: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(None if scope.get("state", {}).get(BODY_IS_HERE) else limits.body_s_max):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part: bytes = message.get("body", b"")
                parts.append(part)
                length += len(part)
                if length > limits.body_bytes_max:
                    raise _too_long(limits)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        late = f"the body did not arrive within {limits.body_s_max:g} s"
        raise ProblemError(408, "timeout", late, _BODY) from None


def read_request(body: bytes, kind: type[VerifyRequest] | type[SettleRequest], limits: HttpLimits) -> Asked:
    """Read x402's request. Raises MalformedError, and OldVersionError for one of version 1."""
    check_containers(body, _BODY, limits.json_containers_max)
    try:
        request = decode_counted_json(body, kind, _BODY)
    except MalformedError:
        _raise_if_old(body)
        raise
    return Asked(request.payment_payload, request.payment_requirements)


def _raise_if_old(body: bytes) -> None:
    try:
        old = msgspec.json.decode(body, type=RequestV1)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    network = old.payment_requirements.get("network")
    raise OldVersionError(network if isinstance(network, str) else "")


def _too_long(limits: HttpLimits) -> ProblemError:
    return ProblemError(413, "too_large", f"a body may have at most {limits.body_bytes_max} bytes", _BODY)
