"""A request that may be paid for, and its copies with a payment."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import httpx

from tallystick.requests import normal_target, request_hash
from tallystick.x402 import PAYMENT_SIGNATURE_HEADER
from tallystick_client.payer.http.bodies import Body, prepare

READ_MARGIN_S: Final = 10.0
"""How much longer than a seller may take for a transfer its answer is waited for."""


class PurchaseKey(NamedTuple):
    """What makes two requests the same one: method, origin, target and what the body hashes to."""

    method: str
    origin: str
    target: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Purchase:
    """A request that may be paid for. `target` is its path and query in their normal form (`tallystick.requests`)."""

    request: httpx.Request
    body: Body
    origin: str
    host: str
    target: bytes
    request_hash: bytes

    @property
    def method(self) -> str:
        """The request's method."""
        return self.request.method

    @property
    def key(self) -> PurchaseKey:
        """What this request has in common with another try of it."""
        return PurchaseKey(self.method, self.origin, self.target, self.body.digest)


async def read_purchase(request: httpx.Request) -> Purchase:
    """The purchase that a request may become; reads its body, where that may be sent twice."""
    body = await prepare(request)
    url = request.url
    # What goes on the request line; httpcore lets the caller replace it.
    target = normal_target(request.extensions.get("target", url.raw_path))
    host = url.netloc.decode("ascii")
    return Purchase(
        request, body, f"{url.scheme}://{host}", host, target, request_hash(request.method, target, body.digest)
    )


def with_payment(request: httpx.Request, header: str | None, read_s_min: float = 0) -> httpx.Request:
    """A copy of the request with this payment and no other: the caller's own request never carries one.

    `read_s_min`: the least time that its answer is waited for, where the caller's read timeout is shorter.
    """
    headers = request.headers.copy()
    headers.pop(PAYMENT_SIGNATURE_HEADER, None)
    if header is not None:
        headers[PAYMENT_SIGNATURE_HEADER] = header
    extensions = dict(request.extensions)
    timeout = extensions.get("timeout")
    if read_s_min and timeout and timeout.get("read") is not None:
        extensions["timeout"] = {**timeout, "read": max(timeout["read"], read_s_min)}
    return httpx.Request(request.method, request.url, headers=headers, stream=request.stream, extensions=extensions)
