"""What a payment pays for: a hash that binds one HTTP request, computed alike by payer and seller.

    request_hash = SHA-256( frame("tallystick/request/1") || frame(method) || frame(target) || frame(body digest) )
    frame(x)     = length of x as 4 bytes, big-endian || x

Every part is preceded by its length, so no two different requests have the same framing.

- **method**: as on the request line; HTTP methods are case-sensitive.
- **target**: path and query exactly as on the request line, before any decoding. No scheme and no host: proxies change
  them, and the channel's receiver stands for the site.
- **body digest**: SHA-256 of the body, or empty. Empty where there is no body, where the body has no bytes (proxies
  add and drop `Content-Length: 0`), and where it is streamed up and its bytes are not known when the payment is made.
"""

from hashlib import sha256
from typing import Final

from tallystick.errors import MalformedError
from tallystick.quantities import Bytes32

_PREFIX: Final = len(b"tallystick/request/1").to_bytes(4, "big") + b"tallystick/request/1"


def request_hash(method: str, target: bytes, body_digest: bytes = b"") -> Bytes32:
    """The 32 bytes that bind a request. `body_digest` is what the function of that name returns, or empty.

    Raises MalformedError on a method that is not ASCII and on a digest of another length.
    """
    if not method or not method.isascii():
        raise MalformedError("method", method, "the ASCII name of an HTTP method")
    if len(body_digest) not in {0, 32}:
        raise MalformedError("body digest", body_digest, "32 bytes, or none for no body or a streamed one")
    return Bytes32(sha256(_PREFIX + _frame(method.encode()) + _frame(target) + _frame(body_digest)).digest())


def body_digest(body: bytes) -> bytes:
    """The SHA-256 of a body; empty for a body without bytes, which is no other request than one without a body."""
    return sha256(body).digest() if body else b""


def _frame(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part
