"""What a payment pays for: a hash that binds one HTTP request, computed alike by payer and seller.

    request_hash = SHA-256( frame("tallystick/request/1") || frame(method) || frame(target) || frame(body digest) )
    frame(x)     = length of x as 4 bytes, big-endian || x

Every part is preceded by its length, so no two different requests have the same framing.

- **method**: as on the request line; HTTP methods are case-sensitive.
- **target**: path and query as on the request line, in the normal form of `normal_target`, because servers and proxies
  pass on equal URIs in other words (a bare `?` dropped, `%7e` for `~`). No scheme and no host: proxies change them, and
  the channel's receiver stands for the site.
- **body digest**: SHA-256 of the body, or empty. Empty where there is no body, where the body has no bytes (proxies
  add and drop `Content-Length: 0`), and where it is streamed up and its bytes are not known when the payment is made.

An aggregator sees this hash, and could find out by trying which page it stands for. So a payer may **blind** it:

    blinded_hash = SHA-256( frame("tallystick/blind/1") || frame(blind) || frame(request_hash) )

with 16 random bytes, new for each payment, that the payer tells the seller alone. The payment is then bound to the
blinded hash in the other one's place.
"""

import re
from hashlib import sha256
from typing import Final

from tallystick.errors import MalformedError
from tallystick.quantities import Bytes32

_PREFIX: Final = len(b"tallystick/request/1").to_bytes(4, "big") + b"tallystick/request/1"
_BLIND_PREFIX: Final = len(b"tallystick/blind/1").to_bytes(4, "big") + b"tallystick/blind/1"
BLIND_BYTES: Final = 16
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_NOT_AS_IT_STANDS: Final = re.compile(rb"%([0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]")
"""An escape, or a byte that may stand in no URI (a % that begins no escape is one)."""


def normal_target(target: bytes) -> bytes:
    """The target of a request line in its normal form; both sides hash this (RFC 3986, section 6.2.2).

    Of an absolute URI the path and query; an empty path is `/`; no fragment, and no `?` with nothing behind it. Escapes
    are in upper case, none stands for an unreserved character, and bytes that may stand in no URI are escaped. Doubled
    slashes and dot segments stay: they may make another resource.
    """
    target = _NOT_AS_IT_STANDS.sub(_normal_byte, target.partition(b"#")[0])
    absolute = _ABSOLUTE.match(target)
    path, mark, query = target[absolute.end() if absolute is not None else 0 :].partition(b"?")
    return (path or b"/") + (mark + query if query else b"")


def request_hash(method: str, target: bytes, body_digest: bytes = b"") -> Bytes32:
    """The 32 bytes that bind a request. `target` is a normal one, `body_digest` what the function of that name returns.

    Raises MalformedError on a method that is not ASCII and on a digest of another length.
    """
    if not method or not method.isascii():
        raise MalformedError("method", method, "the ASCII name of an HTTP method")
    if len(body_digest) not in {0, 32}:
        raise MalformedError("body digest", body_digest, "32 bytes, or none for no body or a streamed one")
    return Bytes32(sha256(_PREFIX + _frame(method.encode()) + _frame(target) + _frame(body_digest)).digest())


def blinded_hash(request_hash: bytes, blind: bytes) -> Bytes32:
    """The 32 bytes that bind the request of this hash, for everybody who does not know `blind`.

    Raises MalformedError on a hash or a blind of another length.
    """
    if len(request_hash) != 32:
        raise MalformedError("request hash", request_hash, "32 bytes")
    if len(blind) != BLIND_BYTES:
        raise MalformedError("blind", blind, f"{BLIND_BYTES} bytes")
    return Bytes32(sha256(_BLIND_PREFIX + _frame(blind) + _frame(request_hash)).digest())


def body_digest(body: bytes) -> bytes:
    """The SHA-256 of a body; empty for a body without bytes, which is no other request than one without a body."""
    return sha256(body).digest() if body else b""


def _normal_byte(found: re.Match[bytes]) -> bytes:
    escape = found[1]
    if escape is None:
        return b"%%%02X" % ord(found[0])
    byte = int(escape, 16)
    return bytes([byte]) if byte in _UNRESERVED else b"%%%02X" % byte


def _frame(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part
