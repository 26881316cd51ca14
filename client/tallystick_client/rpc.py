"""How payers and sellers reach an aggregator: one gRPC channel each, with its transport security, and errors of ours.

A call that fails as a call raises an AggregatorError (`errors`). A refusal of money is no failed call but an answer:
`raise_refusal` turns it into `tallystick.errors.RefusedError`.
"""

from collections.abc import Awaitable, Sequence
from typing import Any, Final, NoReturn, Protocol, TypeVar

import grpc
import grpc.aio

from tallystick.amounts import decode_amount
from tallystick.errors import MalformedError, RefusedError
from tallystick.quantities import ChannelTotals
from tallystick.reasons import Reason
from tallystick.targets import check_target, is_loopback
from tallystick.v1 import common_pb2 as pb
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


def raise_refusal(refusal: pb.Refusal) -> NoReturn:
    """Raise a refusal as RefusedError."""
    raise refused(refusal)


def refused(refusal: pb.Refusal) -> RefusedError:
    """A refusal as an exception; `state` are the channel's totals where it carries them."""
    return RefusedError(
        Reason.from_wire(refusal.reason),
        refusal.message,
        refusal.field,
        refusal.got,
        refusal.allowed,
        read_totals(refusal.totals) if refusal.HasField("totals") else None,
    )


def read_totals(totals: pb.ChannelTotals) -> ChannelTotals:
    """A channel's totals as bytes and integers. Raises MalformedError."""
    return ChannelTotals(
        totals.channel_id,
        totals.receiver,
        decode_amount(totals.ceiling, "totals.ceiling"),
        decode_amount(totals.charged, "totals.charged"),
        decode_amount(totals.reserved, "totals.reserved"),
        decode_amount(totals.claimed, "totals.claimed"),
    )
