"""How payers and sellers reach an aggregator: one gRPC channel each, with its transport security, and errors of ours.

A call that fails as a call raises an AggregatorError (`errors`). A refusal of money is no failed call but an answer,
read as `tallystick.errors.RefusedError`.
"""

import os
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import grpc
import grpc.aio

from tallystick.errors import Described, MalformedError
from tallystick.targets import check_target, is_loopback
from tallystick_client.errors import AggregatorError as AggregatorError  # noqa: PLC0414 - re-exported
from tallystick_client.errors import AggregatorUnavailableError as AggregatorUnavailableError  # noqa: PLC0414
from tallystick_client.errors import CallRejectedError as CallRejectedError  # noqa: PLC0414

CALL_TIMEOUT_S: Final = 10.0
"""For calls that the aggregator answers by itself."""
CHAIN_TIMEOUT_S: Final = 120.0
"""For calls that it answers when a transaction is on chain: deposits, refunds."""
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024

Metadata = tuple[tuple[str, str], ...]

_OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A peer that vanished without a word is noticed within half a minute, while calls are under way.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # An aggregator that restarts is found again within seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
_PASSING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        # A fault of the aggregator's: it may be mended, and the call may have had its effect.
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
ResponseT_co = TypeVar("ResponseT_co", covariant=True)


class Method(Protocol[RequestT_contra, ResponseT_co]):
    """A unary method of a generated stub."""

    def __call__(self, request: RequestT_contra, /, *, timeout: float, metadata: Metadata) -> Awaitable[ResponseT_co]:
        """Call it."""
        ...


def open_channel(
    target: str,
    *,
    insecure: bool = False,
    root_certificates: bytes | None = None,
    certificate_chain: bytes | None = None,
    private_key: bytes | None = None,
) -> grpc.aio.Channel:
    """A channel to `target`, "host:port"; it connects when it is first used. Needs a running event loop.

    TLS by default, against the machine's certificate authorities or `root_certificates` (PEM); with a chain and a key
    of the caller's own it is mutual. In plaintext only with `insecure`, or to loopback without certificates.
    Raises MalformedError on a target of another form.
    """
    check_target(target, "aggregator")
    plaintext = insecure or (is_loopback(target) and root_certificates is None and certificate_chain is None)
    if plaintext:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(root_certificates, private_key, certificate_chain)
    return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)


def bearer(token: str) -> Metadata:
    """The metadata that shows a token. Raises MalformedError, which does not show it, on what no header can carry."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise MalformedError("token", token.encode(errors="replace"), "printable ASCII characters without spaces")
    return (("authorization", f"Bearer {token}"),)


def read_token(reference: str) -> str:
    """The token that "env:NAME" or "file:PATH" leads to; anything else is the token itself.

    Raises MalformedError, which never shows it.
    """
    kind, _, name = reference.partition(":")
    if kind == "env":
        token = os.environ.get(name, "")
        if not token:
            raise MalformedError("token", Described(f"the variable {name!a}, which is not set"), "a variable that is")
        return token.strip()
    if kind == "file":
        try:
            return Path(name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            got = Described(f"the file {name!a}, which cannot be read: {type(error).__name__}")
            raise MalformedError("token", got, "a file that holds the token and nothing else") from None
    return reference


async def call(
    method: Method[RequestT, ResponseT],
    request: RequestT,
    *,
    timeout_s: float = CALL_TIMEOUT_S,
    metadata: Metadata = (),
) -> ResponseT:
    """The answer of one unary call; raises AggregatorUnavailableError or CallRejectedError."""
    try:
        return await method(request, timeout=timeout_s, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise failure(error) from error


def failure(error: grpc.aio.AioRpcError) -> AggregatorError:
    """A failed call as an error of ours."""
    status, details = error.code(), error.details() or "no details"
    if status in _PASSING:
        return AggregatorUnavailableError(f"the aggregator did not answer ({status.name}): {details}", status)
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return CallRejectedError(
            f"what answers there is no aggregator, or one of another version: it does not know this call ({details})",
            status,
        )
    return CallRejectedError(f"the aggregator rejected the call ({status.name}): {details}", status)
