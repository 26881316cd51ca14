"""The URL that a 402 names: how clients see the site, which its server does not know behind a proxy."""

import re
from typing import Final
from urllib.parse import urlsplit

from tallystick.errors import MalformedError
from tallystick.requests import normal_target
from tallystick_client.seller.paywall.steps import RequestHead

URL_CHARS_MAX: Final = 512
"""Of a longer URL the query is left out, then the path: it is repeated in headers, and proxies bound those."""
_SCHEMES: Final = frozenset({"http", "https"})
_HOST: Final = re.compile(r"[A-Za-z0-9._\-\[\]:]{1,255}")


class Urls:
    """`base_url`: scheme and host (and a path that a proxy takes away), as clients see them. Without it, and with
    `trust_proxy_headers`, X-Forwarded-Proto and X-Forwarded-Host are believed, the last value of each; else what the
    server says. Raises MalformedError.
    """

    def __init__(self, base_url: str | None = None, *, trust_proxy_headers: bool = False) -> None:
        self._base = ""
        if base_url is not None:
            parts = urlsplit(base_url)
            if parts.scheme not in _SCHEMES or not _HOST.fullmatch(parts.netloc) or parts.query or parts.fragment:
                raise MalformedError("base_url", base_url, 'scheme and host as clients see them, "https://example.org"')
            self._base = base_url.rstrip("/")
        self._is_proxy_trusted = trust_proxy_headers

    def of(self, head: RequestHead) -> str:
        """The URL of a request, at most URL_CHARS_MAX long unless its origin is."""
        base = self._base or self._told_base(head) or f"{head.scheme}://{head.host}"
        target = normal_target(head.target).decode("latin-1")
        for shorter in (target, target.partition("?")[0]):
            if len(base) + len(shorter) <= URL_CHARS_MAX:
                return base + shorter
        return base + "/"

    def _told_base(self, head: RequestHead) -> str:
        if not self._is_proxy_trusted:
            return ""
        scheme, host = (_last(head, name) for name in (b"x-forwarded-proto", b"x-forwarded-host"))
        scheme = scheme.lower() if scheme.lower() in _SCHEMES else head.scheme
        return f"{scheme}://{host if _HOST.fullmatch(host) else head.host}"


def _last(head: RequestHead, name: bytes) -> str:
    values = head.header_list(name)
    return values[-1].decode("latin-1").rpartition(",")[2].strip() if values else ""
