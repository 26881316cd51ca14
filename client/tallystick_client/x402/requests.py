"""The SDK's adapter for `requests`, with a wallet that knows which request it pays for.

    session = requests.Session()
    session.mount("https://", PayingAdapter(client, scheme))

The SDK's own adapter pays too, for requests without a body.
"""

from typing import Any, cast

from requests import PreparedRequest, Response
from x402 import x402ClientSync
from x402.http import x402HTTPClientSync
from x402.http.clients.requests import x402HTTPAdapter

from tallystick_client.payer.http.steps import is_read_first
from tallystick_client.x402.client import DeferredClientSchemeSync


class PayingAdapter(x402HTTPAdapter):
    """Shows each request to the scheme, and how it ended; all else is the SDK's."""

    def __init__(
        self, client: x402ClientSync | x402HTTPClientSync, scheme: DeferredClientSchemeSync, **settings: Any
    ) -> None:
        self._scheme = scheme
        super().__init__(client, **settings)

    def send(self, request: PreparedRequest, **settings: Any) -> Response:  # type: ignore[override]
        """Send a request, and pay for it if need be."""
        with self._scheme.show(str(request.method), str(request.url), _body(request), request.headers):
            try:
                response = super().send(request, **settings)
            except BaseException:
                self._scheme.lost()
                raise
        self._scheme.was_answered(response.status_code, response.headers)
        return response


def _body(request: PreparedRequest) -> bytes | None:
    """The body's bytes; None for one that is streamed up."""
    if not is_read_first(request.headers):
        return None
    # Typed as text or bytes only, but a file or a generator with a declared length is sent too.
    body = cast("object", request.body) or b""
    if isinstance(body, str):
        return body.encode()
    return body if isinstance(body, bytes) else None
