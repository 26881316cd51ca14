"""What a site sells, published by itself: /.well-known/x402.json, and the same at /.well-known/x402.

The shape is that of the specification's drafts (specs/extensions/well-known-discovery.md; `kind` is of discovery.md):
an item for each rule and method, made from the price list, so that it cannot drift from it. The 402 stays what counts.
A price that a function makes has an item without `accepts`. An application's own page at these paths comes first.

Under a key of ours, `pay-ahead`, stands where a fixed price holds for everybody, as in the extension of a 402:

    "pay-ahead": {"max_age_s": 300, "etag": "…", "patterns": [{"path": "/articles/*", "methods": ["GET"], "item": 0}]}

Without `methods` it holds for all that can cost something. `max_age_s` is how long it may be believed.
"""

import hmac
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from tallystick.facilitator import Supported
from tallystick.patterns import Pattern
from tallystick_client.seller.paywall.offers import OfferBook
from tallystick_client.seller.paywall.rules import Rule, is_always_free
from tallystick_client.seller.paywall.schemes.port import Offer
from tallystick_client.seller.paywall.steps import Headers, RequestHead, SendResponse

PATHS: Final = frozenset({"/.well-known/x402.json", "/.well-known/x402"})
MAX_AGE_S: Final = 300
PAY_AHEAD: Final = "pay-ahead"
_METHOD: Final = "GET"
"""Of a rule for all methods, the one that is named."""
_ETAG_CHARS: Final = 32


class Manifest:
    """The manifest of one price list.

    `etag_key`: its ETag is a MAC under this key, so that nobody can tell from it what the list was, or which server
    made it; the processes of a site share one, else each has its own ETags. `now`: seconds since the epoch.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        book: OfferBook,
        etag_key: bytes | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules
        self._book = book
        self._etag_key = etag_key or secrets.token_bytes(32)
        self._now = now
        self._etag = ""
        self._updated_at = 0

    def is_asked(self, head: RequestHead) -> bool:
        """Whether a request is for the manifest: at the root of the site, where its path is well known."""
        return head.path in PATHS and head.method in {"GET", "HEAD"} and not head.root_path

    def answer(self, supported: Supported, origin: str, head: RequestHead) -> SendResponse:
        """The manifest for clients that see the site at this origin; 304 where they have it already.

        Raises MalformedError where a fixed price cannot be asked for.
        """
        items, patterns = self._items(supported, origin)
        etag = hmac.digest(self._etag_key, msgspec.json.encode([items, patterns]), "sha256").hex()[:_ETAG_CHARS]
        if etag != self._etag:
            self._etag, self._updated_at = etag, int(self._now())
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", f"public, max-age={MAX_AGE_S}".encode()),
            (b"etag", f'W/"{etag}"'.encode()),
            # Public data, for scripts of any origin.
            (b"access-control-allow-origin", b"*"),
        ]
        if etag.encode() in (head.header(b"if-none-match") or b""):
            return SendResponse(304, headers, b"")
        body = msgspec.json.encode(
            {
                "x402Version": 2,
                "kind": "resource-server",
                "lastUpdated": self._updated_at,
                "items": items,
                PAY_AHEAD: {"max_age_s": MAX_AGE_S, "etag": etag, "patterns": patterns},
            }
        )
        headers.append((b"content-length", str(len(body)).encode()))
        return SendResponse(200, headers, b"" if head.method == "HEAD" else body)

    def told(self, supported: Supported, origin: str) -> bytes:
        """What the aggregator is told to list: the items, and whose they are. Raises as `answer` does."""
        items = self._items(supported, origin)[0]
        return msgspec.json.encode({"x402Version": 2, "origins": [origin], "items": items})

    def _items(self, supported: Supported, origin: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        items: list[dict[str, Any]] = []
        patterns: list[dict[str, Any]] = []
        for rule, path in _published(self._rules):
            offers = self._book.offers_for(supported, rule.price, rule) if isinstance(rule.price, str) else None
            if offers == ():
                continue  # a price of zero
            if offers is not None and _holds_for_everybody(rule, offers):
                methods = {} if rule.methods is None else {"methods": list(rule.methods)}
                patterns.append({"path": path, **methods, "item": len(items)})
            items += [_item(rule, path, method, offers or (), origin) for method in rule.methods or (_METHOD,)]
        return items, patterns


def _published(rules: Sequence[Rule]) -> Iterator[tuple[Rule, str]]:
    """The rules that ask for money, and the patterns of paths that they are for."""
    for rule in rules:
        path = rule.pattern.text if rule.pattern.text.startswith("/") else "/" + rule.pattern.text
        if not is_always_free(Pattern(path)):
            yield rule, path


def _holds_for_everybody(rule: Rule, offers: Sequence[Offer]) -> bool:
    return rule.user_agents is None and any(offer.scheme.is_reserved for offer in offers)


def _item(rule: Rule, path: str, method: str, offers: Sequence[Offer], origin: str) -> dict[str, Any]:
    about = {"description": rule.description, "mimeType": rule.mime_type}
    url = origin + quote(path, safe="/*:@!$&'()+,;=-._~")
    return {
        "resource": {"url": url, **{name: text for name, text in about.items() if text is not None}},
        "type": "http",
        "accepts": [offer.requirements for offer in offers],
        "input": {"method": method, "routeTemplate": path},
    }
