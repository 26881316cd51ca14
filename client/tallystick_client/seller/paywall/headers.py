"""The headers of what goes out: kept from shared caches, and readable by scripts of other origins."""

import re
from typing import Any, Final

from tallystick.x402 import PAYMENT_REQUIRED_HEADER, PAYMENT_RESPONSE_HEADER, PAYMENT_SIGNATURE_HEADER
from tallystick_client.seller.paywall.steps import Headers

EXPOSED: Final = (PAYMENT_REQUIRED_HEADER.encode(), PAYMENT_RESPONSE_HEADER.encode())
"""What a script has to read to pay."""
_EXPOSE: Final = b"access-control-expose-headers"
_DIRECTIVES: Final = b"cache-control"
_FOR_SHARED_CACHES: Final = re.compile(rb"expires|surrogate-control|edge-control|x-accel-expires|.*cdn-cache-control")
"""What caches in between obey instead of Cache-Control: RFC 9213 and its vendors' own, Varnish, Akamai, nginx."""
_LAYERS_MAX: Final = 64


def make_private(headers: Headers) -> Headers:
    """The headers with a Cache-Control that keeps the page out of shared caches, or the stricter one they had.

    What speaks to such caches alone goes, and Expires, which older ones obey; the rest is told that answers differ
    with the payment.
    """
    directives = [part for name, value in headers if name.lower() == _DIRECTIVES for part in _parts(value)]
    names = {directive.partition(b"=")[0].lower() for directive in directives}
    others = [(name, value) for name, value in headers if name.lower() != _DIRECTIVES]
    others = [(name, value) for name, value in others if not _FOR_SHARED_CACHES.fullmatch(name.lower())]
    if not names & {b"private", b"no-store"}:
        shared = {b"public", b"s-maxage", b"proxy-revalidate"}
        kept = [directive for directive in directives if directive.partition(b"=")[0].lower() not in shared]
        directives = [b"private", *kept]
    return [*_with_names(others, b"vary", (PAYMENT_SIGNATURE_HEADER.encode(),)), (_DIRECTIVES, b", ".join(directives))]


def make_readable(headers: Headers) -> Headers:
    """The headers, and that scripts of other origins may read what they say of payments (Fetch, "CORS protocol").

    Whether such a script may see the answer at all is for the site's own CORS to say.
    """
    names = {name.lower().upper() for name, _ in headers}
    exposed = tuple(name for name in EXPOSED if name in names)
    return _with_names(headers, _EXPOSE, exposed) if exposed else headers


def hides_cors(app: Any) -> bool:
    """Whether a CORS middleware is inside of this application, as far as that can be seen.

    Behind a paywall it never sees a 402, so that scripts of other origins cannot read it.
    """
    for _ in range(_LAYERS_MAX):
        if app is None:
            break
        kinds: list[object] = [app.__class__]
        kinds += [getattr(layer, "cls", None) for layer in getattr(app, "user_middleware", ())]
        if any("CORS" in getattr(kind, "__name__", "") for kind in kinds):
            return True
        app = getattr(app, "app", None)
    return False


def _with_names(headers: Headers, header: bytes, names: tuple[bytes, ...]) -> Headers:
    """The headers with these names in a header that lists some."""
    listed = [part for name, value in headers if name.lower() == header for part in _parts(value)]
    known = {part.lower() for part in listed}
    missing = [name for name in names if name.lower() not in known]
    if b"*" in known or not missing:
        return headers
    return [*(pair for pair in headers if pair[0].lower() != header), (header, b", ".join([*listed, *missing]))]


def _parts(value: bytes) -> list[bytes]:
    return [part.strip() for part in value.split(b",") if part.strip()]
