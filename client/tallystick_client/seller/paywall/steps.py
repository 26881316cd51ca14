"""What a payment flow asks its adapter to do next, and what the adapter tells it.

An adapter carries one `Step` out and tells the flow how it ended: that gives the next one (`payment_flow`).
"""

from collections.abc import Awaitable, Callable, Generator, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, TypeVar
from urllib.parse import quote

from tallystick.errors import Described, MalformedError, TallystickError
from tallystick.requests import normal_target
from tallystick_client.seller.paywall.paid import PaidRequest

T = TypeVar("T")

Headers: TypeAlias = list[tuple[bytes, bytes]]

_LENGTH_DIGITS_MAX: Final = 18


class BodyNotReadError(TallystickError):
    """A request's body could not be read ahead."""


class ClientGoneError(BodyNotReadError):
    """The client left before its request was complete."""


class BodyTooLargeError(BodyNotReadError):
    """The request's body is larger than what is read ahead."""


class BodyTooSlowError(BodyNotReadError):
    """The request's body did not come in time."""


class RoomFullError(BodyNotReadError):
    """The bodies of other requests take all the memory there is for them."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request without its body. Of `headers`, the names are in lower case."""

    method: str
    path: str
    """Percent-decoded, with `root_path` in front where the server puts it there."""
    headers: Headers
    query: bytes = b""
    raw_path: bytes = b""
    """The path as on the request line; empty where the server does not tell it."""
    root_path: str = ""
    """The prefix that the application was told to live under."""
    scheme: str = "http"
    server: str = "localhost"
    """The server's own name, with its port; counts only where the request has no Host header."""
    http_version: str = "1.1"
    scope: MutableMapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """What the application is given: ASGI's scope, WSGI's environ. It finds its payment there, as "tallystick"."""

    def header_list(self, name: bytes) -> list[bytes]:
        """All headers with this name, in lower case."""
        return [bytes(value) for key, value in self.headers if key == name]

    def header(self, name: bytes) -> bytes | None:
        """The first header with this name, in lower case."""
        return next(iter(self.header_list(name)), None)

    @property
    def target(self) -> bytes:
        """Path and query as on the request line. An empty query is taken for none: servers do not tell them apart."""
        path = self.raw_path or quote(self.path, safe="/:@!$&'()*+,;=-._~").encode("ascii")
        path = path.partition(b"?")[0]
        return path + b"?" + self.query if self.query else path

    @property
    def host(self) -> str:
        """The host with its port, as far as the server knows its own name."""
        return (self.header(b"host") or b"").decode("latin-1") or self.server

    @property
    def url(self) -> str:
        """The URL of the request, as far as the server knows its own name."""
        return f"{self.scheme}://{self.host}{normal_target(self.target).decode('latin-1')}"

    @property
    def content_length(self) -> int | None:
        """How long the body is said to be; None where it is streamed up or there is none. Raises MalformedError."""
        value = self.header(b"content-length")
        if value is None or self.header(b"transfer-encoding") is not None:
            return None
        if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
            got = Described(ascii(value[:20].decode("latin-1")))
            raise MalformedError("Content-Length", got, "the number of bytes of the body")
        return int(value)

    @property
    def may_have_body(self) -> bool:
        """Whether it may have a body though no length was told: chunked, or by HTTP/2 and later."""
        return self.header(b"transfer-encoding") is not None or self.http_version not in {"1.0", "1.1"}


@dataclass(frozen=True, slots=True)
class ReadBody:
    """Read the whole body; `resume` with it, or with None as soon as it is longer than `bytes_max`.

    The application has to get it all the same. `failed` with ClientGoneError, with BodyTooSlowError where it does not
    come in time, or with RoomFullError where there is no memory for it.
    """

    bytes_max: int


@dataclass(frozen=True, slots=True)
class AwaitPrice:
    """Await what a price function returned; then `resume` with its result, or `failed` with its exception."""

    price: Awaitable[str | None]


@dataclass(frozen=True, slots=True)
class AskAggregator:
    """Await this call to the aggregator; then `resume` with its result, or `failed` with its exception.

    `within_s`: how long to wait for it at most; `failed` with TimeoutError then.
    """

    verb: Literal["supported", "verify", "settle", "release"]
    arguments: tuple[Any, ...] = ()
    within_s: float | None = None

    def call(self, aggregator: Any) -> Awaitable[Any]:
        """The call, to an `Aggregator` or whatever has its methods."""
        method: Callable[..., Awaitable[Any]] = getattr(aggregator, self.verb)
        return method(*self.arguments)


@dataclass(frozen=True, slots=True)
class CheckClient:
    """`resume` with True if it is known by now that the client has left, else with False; without waiting."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait this long; then `resume`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class CallApp:
    """Call the application, and hold its response back until the first part of its body.

    Then `responded`. `resume` where it ended without one, `failed` with the exception that it raised. `is_held`:
    False, if its response is sent as it is; then only `resume` or `failed`. `paid`: what it works for, which is in the
    request's `scope` too.
    """

    paid: PaidRequest | None = None
    is_held: bool = True


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send the response that was held back, with these headers instead of its own, and the first part of its body.

    `sent` then.
    """

    headers: Headers


@dataclass(frozen=True, slots=True)
class ContinueApp:
    """Let the application go on. `sent` after each further part; `resume` when it has ended, or `failed`."""


@dataclass(frozen=True, slots=True)
class StopApp:
    """Send nothing of the application's response; `resume` when it has ended, or `failed` with what it raised."""


@dataclass(frozen=True, slots=True)
class SendResponse:
    """Send this response, which is whole, in place of the application's; then `resume`."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Background:
    """Carry this work out beside the request, which does not wait for it; `resume` at once."""

    work: "Work"


@dataclass(frozen=True, slots=True)
class AwaitWork:
    """Wait for work that was begun, this long at most; then `resume`."""

    work: "Work"
    seconds: float


@dataclass(frozen=True, slots=True)
class Done:
    """The request is answered."""


Step: TypeAlias = (
    ReadBody
    | AwaitPrice
    | AskAggregator
    | CheckClient
    | Wait
    | CallApp
    | Deliver
    | ContinueApp
    | StopApp
    | SendResponse
    | Background
    | AwaitWork
    | Done
)
OF_THE_APP: Final = (CallApp, Deliver, ContinueApp, StopApp, Done)
"""Steps that an adapter carries out by its application; all others it can carry out wherever it is."""

Flow: TypeAlias = Generator[Step, Any, T]
"""Rules that yield the steps to carry out, are sent what came of each, and return their own result."""


class Part(NamedTuple):
    """A part of a response's body. `body`: None where its bytes are not known, as of a file that the server sends."""

    body: bytes | None
    is_last: bool


class AppResponse(NamedTuple):
    """The beginning of the application's response: all that is known before its first byte is sent."""

    status: int
    headers: Headers
    first: Part


class Steps:
    """Rules that are carried out step by step: each method tells how the last step ended, and returns the next.

    Each raises what has to go on to the server: what the application or a price function raised, and what an adapter
    told by `failed` and the rules have no answer to, as that the request was cancelled. It is over then.
    """

    def __init__(self, flow: Flow[None]) -> None:
        self._flow = flow
        self.is_done = False

    def start(self) -> Step:
        """Begin."""
        return self._advance(partial(next, self._flow))

    def resume(self, result: Any = None) -> Step:
        """The step was carried out; `result` is what the step asks for."""
        return self._advance(partial(self._flow.send, result))

    def failed(self, error: BaseException) -> Step:
        """Carrying the step out raised this.

        Anything but an Exception says that the adapter itself is to end: what is asked for then is Background only.
        """
        return self._advance(partial(self._flow.throw, error))

    def close(self) -> None:
        """Leave it, wherever it is. What is held of a payment then expires by itself."""
        self.is_done = True
        self._flow.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _advance(self, resume: Callable[[], Step]) -> Step:
        try:
            return resume()
        except StopIteration:
            self.is_done = True
            return Done()
        except BaseException:
            self.is_done = True
            raise


class Work(Steps):
    """What is done about a payment beside its request. Its steps are AskAggregator and Wait.

    `may_be_left`: when the adapter stops, it need not be waited for; it says in the log what is not known then.
    """

    def __init__(self, flow: Flow[None], *, may_be_left: bool = False) -> None:
        super().__init__(flow)
        self.may_be_left = may_be_left
