"""Answers that are kept behind the SDK's middleware, so that a payment that comes again gets what it paid for.

    kept = KeptAnswers()
    server.register("eip155:8453", DeferredServerScheme(kept=kept))
    app.add_middleware(KeptAnswersMiddleware, kept=kept)      # FastAPI: before the payment middleware is added
    app.wsgi_app = kept.wsgi(app.wsgi_app)                    # Flask: before PaymentMiddleware is made

A payer whose connection broke sends the same payment again. It was charged, so no handler may run for it; the answer
that it paid for is sent again. In memory of one process, bounded in bytes and in age. What the paywall does not keep
is not kept here either (`seller.paywall.response_cache`).
"""

import threading
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeAlias

from tallystick.x402 import PaymentTerms
from tallystick_client.seller.paywall.response_cache import AGE_S, Answer, ResponseCache, is_logged_in, keepable
from tallystick_client.seller.paywall.steps import Headers

BYTES_MAX: Final = 64 * 1024 * 1024
"""For all answers together; one takes at most an eighth."""

_LOGINS: Final = ("HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_COOKIE")
_ADMITTED: Final = "tallystick.admitted"
"""Where a verified request carries what it was verified for: in ASGI's scope, in WSGI's environ."""

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
WsgiApp: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class _Admitted:
    """What one request was verified for: a new answer at these terms, or a kept one."""

    key: bytes
    what: Answer | PaymentTerms


class KeptAnswers:
    """The answers, by the payment's header as it was sent. Threads may share it."""

    def __init__(
        self, bytes_max: int = BYTES_MAX, age_s: float = AGE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = ResponseCache(bytes_max, age_s=age_s, clock=clock)
        self._lock = threading.Lock()

    # What the server scheme says of the request at hand; `scope` is ASGI's, or WSGI's environ. The request carries it
    # on, so no other one can take it away and have a handler run for a payment that was used.

    def begin(self, scope: Scope, key: bytes, terms: PaymentTerms) -> None:
        """The payment was verified: its handler runs next, and its answer is to be kept under `key` (`key_of`)."""
        scope[_ADMITTED] = _Admitted(key, terms)

    def repeat(self, scope: Scope, key: bytes) -> bool:
        """The payment was taken before: its answer is to be sent again. False where none is kept."""
        with self._lock:
            answer = self._cache.get(key)
        if answer is not None:
            scope[_ADMITTED] = _Admitted(key, answer)
        return answer is not None

    def forget(self, key: bytes) -> None:
        """Nothing was charged for the answer."""
        with self._lock:
            self._cache.forget(key)

    # What the middleware does.

    def keep(self, key: bytes, status: int, headers: Headers, body: bytes, terms: PaymentTerms) -> None:
        """Keep an answer, if it may be."""
        kept = keepable(headers)
        if kept is not None and status < 400:
            with self._lock:
                self._cache.keep(key, Answer(status, kept, body, terms, b""))

    def wsgi(self, app: WsgiApp) -> WsgiApp:
        """A WSGI application that answers what `app` would, and kept answers again."""

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            admitted: _Admitted | None = environ.pop(_ADMITTED, None)
            if admitted is None:
                return app(environ, start_response)
            if isinstance(admitted.what, Answer):
                found = admitted.what
                headers = [(str(name, "latin-1"), str(value, "latin-1")) for name, value in found.headers]
                start_response(f"{found.status} OK", headers)
                return [found.body]
            if any(name in environ for name in _LOGINS):
                return app(environ, start_response)
            return self._recorded(app, environ, start_response, admitted.key, admitted.what)

        return answer

    def _recorded(
        self, app: WsgiApp, environ: dict[str, Any], start_response: Callable[..., Any], key: bytes, terms: PaymentTerms
    ) -> Iterable[bytes]:
        # The SDK's middleware reads the whole answer before it sends any of it.
        started: list[tuple[int, Headers]] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            started[:] = [(int(status.partition(" ")[0]), encoded)]
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        chunks = app(environ, start)
        try:
            body = b"".join(chunks)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        if started:
            self.keep(key, *started[0], body, terms)
        return [body]


class KeptAnswersMiddleware:
    """Kept answers for ASGI applications: `app.add_middleware(KeptAnswersMiddleware, kept=kept)`."""

    def __init__(self, app: AsgiApp, kept: KeptAnswers) -> None:
        self._app = app
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        admitted: _Admitted | None = scope.pop(_ADMITTED, None)
        if admitted is None:
            await self._app(scope, receive, send)
        elif isinstance(admitted.what, Answer):
            found = admitted.what
            await send({"type": "http.response.start", "status": found.status, "headers": list(found.headers)})
            await send({"type": "http.response.body", "body": found.body})
        elif is_logged_in(list(scope.get("headers", []))):
            await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, _Recorder(self._kept, admitted.key, admitted.what, send))


class _Recorder:
    """Sends an answer on, and keeps it once it is whole."""

    def __init__(self, kept: KeptAnswers, key: bytes, terms: PaymentTerms, send: Send) -> None:
        self._kept = kept
        self._key = key
        self._terms = terms
        self._send = send
        self._start: MutableMapping[str, Any] = {}
        self._body = bytearray()

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Take the next message of the application."""
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            # The SDK's middleware reads the whole answer into memory in any case.
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                headers: Headers = list(self._start.get("headers", []))
                self._kept.keep(self._key, self._start["status"], headers, bytes(self._body), self._terms)
        await self._send(message)


def key_of(header: str) -> bytes:
    """What an answer is kept under: nobody but its payer knows the payment's header."""
    return sha256(header.encode("latin-1", "replace")).digest()
