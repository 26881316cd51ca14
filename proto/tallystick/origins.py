"""Origins of URLs: scheme, host and port, in one spelling (RFC 6454)."""

import re
from typing import Final
from urllib.parse import urlsplit

from tallystick.errors import MalformedError

ORIGIN_CHARS_MAX: Final = 300
_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ALLOWED: Final = "an origin such as https://news.example or http://127.0.0.1:8000, names in ASCII"


def origin_of(url: str) -> str:
    """The origin of an absolute http or https URL without user information; empty where it is none."""
    if not url.isascii() or not url.isprintable() or any(character in url for character in " \\"):
        return ""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme not in _DEFAULT_PORTS:
        return ""
    host = parts.netloc.lower()
    name = host if port is None else host.rpartition(":")[0]
    if not _HOST.fullmatch(name):
        return ""
    return f"{parts.scheme}://{name}" + ("" if port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{port}")


def parse_origin(text: str, field: str) -> str:
    """An origin in its one spelling. Raises MalformedError, which names `field`."""
    origin = origin_of(text) if len(text) <= ORIGIN_CHARS_MAX else ""
    parts = urlsplit(text) if origin else None
    if parts is None or parts.path not in {"", "/"} or "?" in text or "#" in text:
        raise MalformedError(field, text, _ALLOWED)
    return origin
