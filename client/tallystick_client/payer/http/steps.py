"""What a purchase asks its adapter to do next, and what the adapter tells it.

An adapter says what the request is (`payable_request`), carries one `Step` out and tells the purchase how it ended:
that gives the next one (`purchase`).

A body with a declared length is read into memory (up to a limit), hashed, and may be sent again. A body that is
streamed up, or longer, passes through untouched: it can be sent once.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from tallystick.requests import body_digest, normal_target, request_hash
from tallystick.x402 import PAYMENT_SIGNATURE_HEADER
from tallystick_client.payer.http.receipts import Receipt

T = TypeVar("T")

BUFFERED_BYTES_MAX: Final = 16 * 1024 * 1024
MANIFEST_PATH: Final = "/.well-known/x402.json"
MANIFEST_BYTES_MAX: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Send the request; then `received` with its response, or `lost`.

    `payment`: the value of its PAYMENT-SIGNATURE header; None: it goes without one, also where the caller set one.
    `read_s_min`: wait for the response at least this long, also where the caller's read timeout is shorter.
    """

    payment: str | None
    read_s_min: float = 0

    @property
    def headers(self) -> dict[str, str]:
        """The headers to add to the request's own."""
        return {} if self.payment is None else {PAYMENT_SIGNATURE_HEADER: self.payment}


@dataclass(frozen=True, slots=True)
class CloseResponse:
    """Close the last response without reading its body; then `resume`."""


@dataclass(frozen=True, slots=True)
class FetchManifest:
    """Fetch what the request's origin publishes; then `resume` with an Answer and its body, or with None.

    It is asked for only where `Purchases` was told to read manifests. A GET of `path` at the request's own scheme, host
    and port, with `headers` and none of the caller's; a redirect is an answer like others. None stands for no answer:
    the connection failed, the body is longer than `bytes_max`, or it was not there within `seconds`.
    """

    seconds: float
    etag: str = ""
    path: str = MANIFEST_PATH
    bytes_max: int = MANIFEST_BYTES_MAX

    @property
    def headers(self) -> dict[str, str]:
        """All headers of the request, beside Host."""
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        return {**headers, "if-none-match": self.etag} if self.etag else headers


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait this long; then `resume`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AskWallet:
    """Await this call to the wallet; then `resume` with its result, or `failed` with its exception."""

    call: Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Done:
    """Give the caller the last response. `receipt`: what it cost; None where no payment was sent with it."""

    receipt: Receipt | None


Step: TypeAlias = SendRequest | CloseResponse | FetchManifest | Wait | AskWallet | Done


class ConnectionLostError(Exception):
    """A request that got no response. `cause`: the HTTP library's error; `was_sent`: False, if it surely did not
    leave.
    """

    def __init__(self, cause: Exception, *, was_sent: bool) -> None:
        self.cause = cause
        self.was_sent = was_sent


class PayableRequest(NamedTuple):
    """A request that may be paid for.

    `target`: its path and query in their normal form. `request_hash`: what a payment for it is bound to.
    `body_digest`, `is_replayable`: see `payable_request`; `is_payable`: False for a body with a declared length that
    is too long to be hashed here, but that sellers hash.
    """

    method: str
    origin: str
    host: str
    target: bytes
    body_digest: bytes
    request_hash: bytes
    is_replayable: bool
    is_payable: bool

    @property
    def is_private(self) -> bool:
        """Whether nobody between reads it: https, or this machine's own address."""
        scheme, _, host = self.origin.partition("://")
        name = host.rpartition("@")[2]
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if scheme == "https" or name == "localhost":
            return True
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return False

    @property
    def key(self) -> tuple[str, str, bytes, bytes]:
        """What this request has in common with another try of it."""
        return self.method, self.origin, self.target, self.body_digest


def is_read_first(headers: Mapping[str, str]) -> bool:
    """Whether the body is to be read into memory before the request is sent: its length is declared, within limits."""
    length = headers.get("content-length", "0")
    is_short = length.isascii() and length.isdigit() and int(length[:20]) <= BUFFERED_BYTES_MAX
    return is_short and "transfer-encoding" not in headers


def payable_request(
    method: str, scheme: str, host: str, target: bytes, headers: Mapping[str, str], body: bytes | None
) -> PayableRequest:
    """The request as a purchase needs it.

    `host`: with the port, where the URL has one. `target`: path and query as they go on the request line. `body`: None
    where it was not read, as `is_read_first` advises; such a request is sent once only.
    """
    target = normal_target(target)
    digest = b"" if body is None else body_digest(body)
    return PayableRequest(
        method,
        f"{scheme}://{host}",
        host,
        target,
        digest,
        request_hash(method, target, digest),
        is_replayable=body is not None,
        is_payable=body is not None or "transfer-encoding" in headers,
    )


Flow: TypeAlias = Generator[Step, Any, T]
"""Rules that yield the steps to carry out, are sent what came of each, and return their own result."""


def ask_wallet(call: Callable[[], Awaitable[T]]) -> Flow[T]:
    """The result of a call to the wallet."""
    result: T = yield AskWallet(call)
    return result
