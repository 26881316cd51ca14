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
from hashlib import sha256
from typing import Any, Final, TypeAlias

from tallystick.x402 import PAYMENT_SIGNATURE_HEADER, PaymentTerms
from tallystick_client.payer.recent import Recent
from tallystick_client.seller.paywall.response_cache import AGE_S, Answer, ResponseCache, is_logged_in, keepable
from tallystick_client.seller.paywall.steps import Headers

BYTES_MAX: Final = 64 * 1024 * 1024
"""For all answers together; one takes at most an eighth."""
UNDER_WAY_MAX: Final = 16_384

_HEADER: Final = PAYMENT_SIGNATURE_HEADER.lower().encode()
_ENVIRON: Final = "HTTP_" + PAYMENT_SIGNATURE_HEADER.replace("-", "_")

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
WsgiApp: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class KeptAnswers:
    """The answers, by the payment's header as it was sent. Threads may share it."""

    def __init__(
        self, bytes_max: int = BYTES_MAX, age_s: float = AGE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = ResponseCache(bytes_max, age_s=age_s, clock=clock)
        self._age_s = age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: Recent[bytes, float] = Recent(UNDER_WAY_MAX)
        self._admitted: Recent[bytes, PaymentTerms] = Recent(UNDER_WAY_MAX)

    # What the server scheme says, by `key_of` the header.

    def begin(self, key: bytes, terms: PaymentTerms) -> None:
        """The payment was verified for the first time: its handler runs next."""
        with self._lock:
            self._under_way.put(key, self._clock())
            self._admitted.put(key, terms)

    def repeat(self, key: bytes, terms: PaymentTerms) -> bool:
        """The payment was taken before: have its answer sent again. False where none is kept."""
        with self._lock:
            if self._cache.get(key) is None:
                return False
            self._admitted.put(key, terms)
            return True

    def is_under_way(self, key: bytes) -> bool:
        """Whether the payment's handler may still run."""
        with self._lock:
            began = self._under_way.get(key)
        return began is not None and self._clock() - began < self._age_s

    def end(self, key: bytes, *, forget: bool = False) -> None:
        """The handling has ended; `forget`: nothing was charged for the answer."""
        with self._lock:
            self._under_way.remove(key)
            self._admitted.remove(key)
            if forget:
                self._cache.forget(key)

    # What the middleware does. A key is taken once for each verification of its payment, so that the same header on
    # a request that nobody verified finds and keeps nothing.

    def take(self, key: bytes) -> PaymentTerms | None:
        """The terms of a payment that was verified for the request at hand."""
        with self._lock:
            return self._admitted.remove(key)

    def get(self, key: bytes) -> Answer | None:
        """The answer that the payment paid for."""
        with self._lock:
            return self._cache.get(key)

    def keep(self, key: bytes, status: int, headers: Headers, body: bytes, terms: PaymentTerms) -> None:
        """Keep an answer, if it may be."""
        kept = keepable(headers)
        if kept is not None and status < 400:
            with self._lock:
                self._cache.keep(key, Answer(status, kept, body, terms, b""))

    def wsgi(self, app: WsgiApp) -> WsgiApp:
        """A WSGI application that answers what `app` would, and kept answers again."""

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            header = str(environ.get(_ENVIRON, ""))
            key = key_of(header)
            terms = self.take(key) if header else None
            if terms is None or "HTTP_AUTHORIZATION" in environ or "HTTP_COOKIE" in environ:
                return app(environ, start_response)
            kept = self.get(key)
            if kept is None:
                return self._recorded(app, environ, start_response, key, terms)
            headers = [(str(name, "latin-1"), str(value, "latin-1")) for name, value in kept.headers]
            start_response(f"{kept.status} OK", headers)
            return [kept.body]

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
        headers: Headers = list(scope.get("headers", []))
        header = next((bytes(value).decode("latin-1") for name, value in headers if name == _HEADER), "")
        key = key_of(header)
        terms = self._kept.take(key) if header else None
        if terms is None or is_logged_in(headers):
            await self._app(scope, receive, send)
            return
        answer = self._kept.get(key)
        if answer is not None:
            await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
            await send({"type": "http.response.body", "body": answer.body})
            return
        await self._app(scope, receive, _Recorder(self._kept, key, terms, send))


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
