"""What the transports of httpx2 and httpx share: carrying out a purchase's steps, and copying the request.

The two libraries have classes of the same names, so that one code serves both; `Library` names those that it needs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

from tallystick.x402 import PAYMENT_SIGNATURE_HEADER
from tallystick_client.payer.http.background import WalletThread
from tallystick_client.payer.http.purchase import Purchase, Purchases
from tallystick_client.payer.http.steps import (
    AskWallet,
    Done,
    FetchManifest,
    PayableRequest,
    SendRequest,
    Step,
    Wait,
    is_read_first,
    payable_request,
)
from tallystick_client.payer.policy.answers import Answer, is_told_in_body
from tallystick_client.payer.wallet.schemes.port import Payer

TransportT = TypeVar("TransportT")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Library(NamedTuple):
    """What of an HTTP library the transports use."""

    async_transport: Callable[[], Any]
    sync_transport: Callable[[], Any]
    request: Callable[..., Any]
    transport_error: type[Exception]
    never_sent: tuple[type[Exception], ...]

    @classmethod
    def of(cls, module: ModuleType) -> "Library":
        """Those of `httpx2` or `httpx`."""
        names = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError")
        never_sent = tuple(getattr(module, name) for name in names)
        transports = module.AsyncHTTPTransport, module.HTTPTransport
        return cls(*transports, module.Request, module.TransportError, never_sent)

    def was_sent(self, error: Exception) -> bool:
        """Whether a request that failed by this may have left."""
        return not isinstance(error, self.never_sent)


class HttpResponse(Protocol):
    """A response of httpx2 or httpx."""

    status_code: int

    @property
    def headers(self) -> Mapping[str, str]:
        """Found in any spelling."""
        ...


async def until_io(purchase: Purchase, advance: Callable[[], Step]) -> Step:
    """Advance a purchase to its next step that is not the wallet's; those are carried out here."""
    step = advance()
    while isinstance(step, AskWallet):
        try:
            result = await step.call()
        except BaseException as error:  # noqa: BLE001 - the purchase ends what it has begun, and raises it again
            step = purchase.failed(error)
        else:
            step = purchase.resume(result)
    return step


class AsyncAdapter(Generic[TransportT, RequestT, ResponseT]):
    """A transport that pays for requests from a wallet. Closing it closes the inner transport, not the wallet."""

    _library: ClassVar[Library]

    def __init__(
        self,
        wallet: Payer,
        inner: TransportT | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> None:
        """`settings`: `deadline_s`, `require_https` and `read_manifests`, and others of `Purchases`."""
        self._inner: Any = inner or self._library.async_transport()
        self._sleep = sleep
        self._purchases = Purchases(wallet, clock, monotonic, **settings)

    async def handle_async_request(self, request: RequestT) -> ResponseT:
        """The response, paid for if need be. Raises what the inner transport raises, and what `Purchase` does."""
        response: ResponseT = await self._buy(request)
        return response

    async def _buy(self, request: Any) -> Any:
        sent = await request.aread() if is_read_first(request.headers) else None
        purchase = self._purchases.purchase(_payable(request, sent), _deadline_s(request))
        response: Any = None
        try:
            step = await until_io(purchase, purchase.start)
            while not isinstance(step, Done):
                advance: Callable[[], Step] = purchase.resume
                if isinstance(step, SendRequest):
                    try:
                        response = await self._inner.handle_async_request(_with_payment(self._library, request, step))
                        body = await response.aread() if _is_told_in_body(response) else b""
                    except self._library.transport_error as error:
                        advance = partial(purchase.lost, error, was_sent=self._library.was_sent(error))
                    else:
                        advance = _received(purchase, response, body)
                elif isinstance(step, FetchManifest):
                    advance = partial(purchase.resume, await self._fetch(request, step))
                elif isinstance(step, Wait):
                    await self._sleep(step.seconds)
                else:
                    await response.aclose()
                step = await until_io(purchase, advance)
        except BaseException:
            purchase.close()
            if response is not None:
                # Nobody else can: its connection would be taken for ever.
                await response.aclose()
            raise
        return _noted(response, step)

    async def _fetch(self, request: Any, step: FetchManifest) -> Answer | None:
        response: Any = None
        try:
            async with asyncio.timeout(step.seconds):
                response = await self._inner.handle_async_request(_manifest_request(self._library, request, step))
                parts = _Parts(step.bytes_max)
                async for part in response.stream:
                    if not parts.take(part):
                        return None
                return parts.answer(response)
        except (self._library.transport_error, TimeoutError):
            return None
        finally:
            if response is not None:
                await response.aclose()

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        """Enter the inner transport."""
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        """Leave the inner transport."""
        await self._inner.__aexit__(*error)


class SyncAdapter(Generic[TransportT, RequestT, ResponseT]):
    """A transport that pays for requests from a wallet on a thread of its own, where every rule is too.

    Closing it closes the inner transport, not the wallet.
    """

    _library: ClassVar[Library]

    def __init__(
        self,
        wallet: WalletThread[Any],
        inner: TransportT | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> None:
        """`settings`: of `Purchases`."""
        self._thread = wallet
        self._monotonic = monotonic
        self._inner: Any = inner or self._library.sync_transport()
        self._sleep = sleep
        self._purchases = Purchases(wallet.wallet, clock, monotonic, **settings)

    def handle_request(self, request: RequestT) -> ResponseT:
        """The response, paid for if need be. Raises what the inner transport raises, and what `Purchase` does."""
        response: ResponseT = self._buy(request)
        return response

    def _buy(self, request: Any) -> Any:
        sent = request.read() if is_read_first(request.headers) else None
        purchase = self._purchases.purchase(_payable(request, sent), _deadline_s(request))
        response: Any = None
        try:
            step = self._thread.run(until_io(purchase, purchase.start))
            while not isinstance(step, Done):
                advance: Callable[[], Step] = purchase.resume
                if isinstance(step, SendRequest):
                    try:
                        response = self._inner.handle_request(_with_payment(self._library, request, step))
                        body = response.read() if _is_told_in_body(response) else b""
                    except self._library.transport_error as error:
                        advance = partial(purchase.lost, error, was_sent=self._library.was_sent(error))
                    else:
                        advance = _received(purchase, response, body)
                elif isinstance(step, FetchManifest):
                    advance = partial(purchase.resume, self._fetch(request, step))
                elif isinstance(step, Wait):
                    self._sleep(step.seconds)
                else:
                    response.close()
                step = self._thread.run(until_io(purchase, advance))
        except BaseException:
            self._thread.call_soon(purchase.close)
            if response is not None:
                response.close()
            raise
        return _noted(response, step)

    def _fetch(self, request: Any, step: FetchManifest) -> Answer | None:
        response: Any = None
        end_at = self._monotonic() + step.seconds
        try:
            response = self._inner.handle_request(_manifest_request(self._library, request, step))
            parts = _Parts(step.bytes_max)
            for part in response.stream:
                # Each part may take the whole time: a thread cannot be interrupted in between.
                if not parts.take(part) or self._monotonic() > end_at:
                    return None
            return parts.answer(response)
        except self._library.transport_error:
            return None
        finally:
            if response is not None:
                response.close()

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()

    def __enter__(self) -> Self:
        """Enter the inner transport."""
        self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the inner transport."""
        self._inner.__exit__(*error)


def _payable(request: Any, body: bytes | None) -> PayableRequest:
    url = request.url
    # What goes on the request line; httpcore lets the caller replace it.
    target = request.extensions.get("target", url.raw_path)
    return payable_request(request.method, url.scheme, url.netloc.decode("ascii"), target, request.headers, body)


def _with_payment(library: Library, request: Any, step: SendRequest) -> Any:
    """A copy of the request with this payment and no other: the caller's own request never carries one."""
    headers = request.headers.copy()
    headers.pop(PAYMENT_SIGNATURE_HEADER, None)
    headers.update(step.headers)
    extensions = dict(request.extensions)
    timeout = extensions.get("timeout")
    if step.read_s_min and timeout and timeout.get("read") is not None:
        extensions["timeout"] = {**timeout, "read": max(timeout["read"], step.read_s_min)}
    return library.request(request.method, request.url, headers=headers, stream=request.stream, extensions=extensions)


def _manifest_request(library: Library, request: Any, step: FetchManifest) -> Any:
    """A request of our own to the same origin: it carries nothing of the caller's but the name of its program."""
    headers = step.headers
    if "user-agent" in request.headers:
        headers["user-agent"] = request.headers["user-agent"]
    extensions: dict[str, Any] = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), step.seconds)}
    if "sni_hostname" in request.extensions:
        extensions["sni_hostname"] = request.extensions["sni_hostname"]
    url = request.url.copy_with(raw_path=step.path.encode(), fragment=None)
    return library.request("GET", url, headers=headers, extensions=extensions)


class _Parts:
    """A body of bounded length, part by part."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._body = bytearray()

    def take(self, part: bytes) -> bool:
        """Add a part; False where the body is too long by now."""
        self._body += part
        return len(self._body) <= self._bytes_max

    def answer(self, response: Any) -> Answer | None:
        """The answer with this body; None where it is encoded in a way that was not asked for."""
        if response.headers.get("content-encoding", "identity") != "identity":
            return None
        return Answer(response.status_code, response.headers, bytes(self._body))


def _deadline_s(request: Any) -> float | None:
    """The request's own deadline, in its extension `payment_deadline_s`."""
    deadline_s = request.extensions.get("payment_deadline_s")
    return None if deadline_s is None else float(deadline_s)


def _is_told_in_body(response: HttpResponse) -> bool:
    return is_told_in_body(response.status_code, response.headers)


def _received(purchase: Purchase, response: HttpResponse, body: bytes) -> Callable[[], Step]:
    return partial(purchase.received, response.status_code, response.headers, body)


def _noted(response: Any, step: Done) -> Any:
    if step.receipt is not None:
        response.extensions["payment"] = step.receipt
    return response
