"""One JSON-RPC endpoint over HTTP, as web3 takes it: `AsyncWeb3(Provider(url))`.

web3's own AsyncHTTPProvider would not do: it sends eth_sendRawTransaction again by itself, which is the sender's
decision, and a call that is cancelled while it waits for its lock of sessions takes that lock with it, for all
endpoints of the process. Here a question is sent once, has one time limit for all of its steps, follows no redirect,
reads no more than `RESPONSE_BYTES_MAX`, and can be cancelled at any point.
"""

import asyncio
import json
import re
from typing import Any, Final, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from web3.providers.async_base import AsyncJSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from tallystick_chain.errors import ChainUnavailableError, RpcError, UnansweredError, read_error

RESPONSE_BYTES_MAX: Final = 64 * 2**20
"""Of a response, unpacked. 10,000 events, the most that providers answer at once, have some 10 MiB."""

_TOO_LARGE: Final = 413
_HEADERS: Final = {"Content-Type": "application/json"}


class Provider(AsyncJSONBaseProvider):
    """One endpoint. `name` is what may be shown of its URL. `disconnect` it in the end."""

    def __init__(self, url: str, *, timeout_s: float, response_bytes_max: int = RESPONSE_BYTES_MAX) -> None:
        super().__init__()
        self.name = _without_secrets(url)
        self._url = url
        self._timeout_s = timeout_s
        self._response_bytes_max = response_bytes_max
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, method: str, *params: Any) -> Any:
        """The result of a method.

        Raises RpcError, UnansweredError if there is no sensible answer in time, and ChainUnavailableError if there is
        no result in it.
        """
        # web3's encoder, for the types of web3, takes ten times as long.
        question = {"jsonrpc": "2.0", "id": next(self.request_counter), "method": method, "params": params}
        return await self._exchange(method, json.dumps(question, separators=(",", ":")).encode())

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The same for web3, which is told of errors by our exceptions, never by an answer."""
        result = await self._exchange(method, self.encode_rpc_request(method, params))
        return {"jsonrpc": "2.0", "id": 0, "result": result}

    async def disconnect(self) -> None:
        """Let the connections go."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _exchange(self, method: str, request: bytes) -> Any:
        """See `ask`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                status, retry_after, content = await self._post(request)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:  # ValueError: what is no URL
            raise UnansweredError(f"{self.name}: {method}: {type(error).__name__}") from error
        body = None if content is None else self._parse(content)
        if body is not None and body.get("error") is not None:
            raise read_error(body["error"], status=status, retry_after=retry_after)
        if content is None or status == _TOO_LARGE:
            # The question or the answer: it is about this call, not about the endpoint.
            raise RpcError(_TOO_LARGE, "too large for the endpoint (status 413)", b"", status=status)
        # Some send an error of JSON-RPC along with a status of 4xx or 5xx; others only the status.
        if body is None or status >= 400:
            message = f"{self.name}: {method}: no JSON-RPC response (status {status})"
            raise UnansweredError(message, status=status, retry_after=retry_after)
        if "result" not in body:
            raise ChainUnavailableError(f"{self.name}: {method}: no result")
        return body["result"]

    async def _post(self, request: bytes) -> tuple[int, str, bytes | None]:
        """Status, Retry-After and body; None for a body that is too large."""
        session = self._session or self._open()
        async with session.post(self._url, data=request, headers=_HEADERS, allow_redirects=False) as response:
            content: bytes | None = b""
            parts: list[bytes] = []
            size = 0
            async for part in response.content.iter_any():
                size += len(part)
                if size > self._response_bytes_max:
                    response.close()
                    content = None
                    break
                parts.append(part)
            else:
                content = b"".join(parts)
            return response.status, response.headers.get("Retry-After", ""), content

    def _open(self) -> aiohttp.ClientSession:
        """Open the session; here, because it belongs to the loop that runs."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=0),
            proxy=_proxy_of(self._url),
        )
        return self._session

    def _parse(self, content: bytes) -> dict[str, Any] | None:
        """The object in a response; None if it is none, or nested so deeply that nobody can have meant it."""
        try:
            body: Any = json.loads(content)
        except (ValueError, RecursionError):
            return None
        return cast("dict[str, Any]", body) if isinstance(body, dict) else None


def _proxy_of(url: str) -> str | None:
    """What the environment names (HTTPS_PROXY, NO_PROXY): asked once, because aiohttp would ask for every request."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _without_secrets(url: str) -> str:
    """The endpoint's scheme and host: paths, queries and user names of endpoints hold access keys."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest)[0].rpartition('@')[2]}"
