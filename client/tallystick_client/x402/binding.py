"""What a `deferred` payment of the SDK's pays for: the request as it came, or the resource where there is no request.

Over HTTP it is bound to method, path, query and body (`tallystick.requests`). A tool of the MCP transport is bound as
GET of its resource's URL ("mcp://tool/forecast"): its arguments are not, as no side of that transport hands them to
its schemes.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from io import BytesIO
from typing import Any, Final, TypeAlias, cast
from urllib.parse import urlsplit

from x402 import schemas
from x402.http.types import HTTPAdapter, HTTPTransportContext

from tallystick.errors import MalformedError
from tallystick.hexadecimal import to_hex
from tallystick.requests import body_digest, normal_target, request_hash
from tallystick.x402 import bound_hash, read_deferred, without_page
from tallystick_client.payer.http.steps import PayableRequest, is_read_first, payable_request
from tallystick_client.x402.messages import payment_of

METHOD: Final = "GET"
"""Of what is paid for without an HTTP request, and of requests that the client's scheme was not shown."""

BodyReader: TypeAlias = Callable[[HTTPAdapter], "bytes | Awaitable[bytes]"]
"""Reads the bytes of a request's body, and leaves them to the application as well."""


def request_at(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> PayableRequest:
    """A request as an HTTP client's URL tells it; `body` as of `payable_request`. Raises MalformedError."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise MalformedError("url", url, "a URL") from None
    # A login is no part of the host: budgets count by that.
    host = parts.netloc.rpartition("@")[2]
    return payable_request(method, parts.scheme, host, url.encode(), headers, body)


def resource_request(url: str) -> PayableRequest:
    """What is paid for, as far as a 402 tells it: GET of its resource. Raises MalformedError."""
    return request_at(METHOD, url, {}, b"")


def resource_hash(url: str) -> bytes:
    """The hash of `resource_request`."""
    return resource_request(url).request_hash


def is_bound_to_body(adapter: HTTPAdapter) -> bool:
    """Whether the request's body has a declared length; one that is streamed up is not known when it is paid for."""
    names = ("content-length", "transfer-encoding")
    headers = {name: value for name in names if (value := adapter.get_header(name)) is not None}
    return is_read_first(headers)


def http_hash(context: HTTPTransportContext, body: bytes) -> bytes:
    """The hash of a request as the server's framework has it."""
    request = context.request
    target = normal_target(request.path.encode() + b"?" + _query(request.adapter))
    return request_hash(request.method, target, body_digest(body))


def application_scope(adapter: HTTPAdapter) -> MutableMapping[str, Any] | None:
    """What the framework hands on with the request: ASGI's scope, WSGI's environ; None of a framework not known."""
    request: Any = getattr(adapter, "_request", None)
    found = getattr(request, "scope", None) or getattr(request, "environ", None)
    return cast("MutableMapping[str, Any]", found) if isinstance(found, dict) else None


def read_body(adapter: HTTPAdapter) -> "bytes | Awaitable[bytes]":
    """The body of a request that FastAPI or Flask took. Raises TypeError on another framework's."""
    # The SDK's adapters hand out parsed JSON at best, and FastAPI's nothing at all.
    request: Any = getattr(adapter, "_request", None)
    if hasattr(request, "get_data"):
        body = cast("bytes", request.get_data())
        # The application makes a request object of its own, which reads the stream from its beginning.
        request.environ["wsgi.input"] = BytesIO(body)
        return body
    if hasattr(request, "body"):
        return cast("Awaitable[bytes]", request.body())
    raise TypeError(f"give DeferredServerScheme a `read_body` that can read the body of a {type(adapter).__name__}")


def _query(adapter: HTTPAdapter) -> bytes:
    """The query as it was sent: a framework's URL may have a decoded one, and a host that the client has made up."""
    scope = application_scope(adapter)
    if scope is None:
        return adapter.get_url().partition("#")[0].partition("?")[2].encode()
    if "query_string" in scope:
        return bytes(scope["query_string"])
    return str(scope.get("QUERY_STRING", "")).encode("latin-1")


def bind(payload: schemas.PaymentPayload, request: bytes) -> None:
    """Check that a payment is for the request of this hash, and leave in it only what the aggregator may see.

    Raises RefusedError (`request_mismatch`), MalformedError.
    """
    message = payment_of(payload)
    bound = bound_hash(read_deferred(message), request)
    forwarded = without_page(message)
    payload.payload = {**forwarded.payload, "requestHash": to_hex(bound)}
    payload.resource = None
    payload.extensions = forwarded.extensions
