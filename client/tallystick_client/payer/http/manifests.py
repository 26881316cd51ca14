"""Prices learned from what sites publish at /.well-known/x402.json, so that even a first page can be paid ahead.

Off unless the program says so: it is one more request for each origin, and pages inside a published pattern are paid
for without having asked.

- An origin's manifest is asked for before the first request to it whose price is not known, then again when it has
  grown older than it says itself, and at most once in LOOK_EVERY_S. It goes to the same origin, without the program's
  cookies and credentials; a redirect, a long answer or a slow one counts as none.
- What is believed of it: patterns of this origin under `pay-ahead`, with an offer that the wallet would take from a 402
  of the same page. A request that no pattern covers gets its 402 first.
- Nothing is promised by it. What is paid is what the wallet's budgets allow, to an operator of its allow-list. Where a
  402 then says otherwise, the 402 counts (`price_cache`), and a payment that a 402 refuses is followed by another one
  to the same receiver only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import msgspec

from tallystick.errors import TallystickError
from tallystick.origins import origin_of
from tallystick.x402 import PayAhead, read_pay_ahead
from tallystick.x402.messages import as_object
from tallystick.x402.pay_ahead import PAY_AHEAD
from tallystick_client.payer.http.price_cache import PATTERNS_MAX, Prices
from tallystick_client.payer.http.steps import FetchManifest, PayableRequest
from tallystick_client.payer.policy.answers import Answer
from tallystick_client.payer.policy.offers import Asked, Offer, choose, read_requirements
from tallystick_client.payer.recent import Recent
from tallystick_client.payer.wallet.schemes.port import Payer

ORIGINS_MAX: Final = 1_024
MANIFEST_S_MAX: Final = 5.0
"""How long a manifest is waited for, before its page is asked for without it."""
LOOK_EVERY_S: Final = 60.0
"""How often one origin is asked at most, whatever age it allows."""
LOOK_AGAIN_S: Final = 600.0
"""After an answer that was no manifest."""
AGE_S_MAX: Final = 3_600
"""A manifest that calls itself good for longer is believed as long as this."""
_ETAG_CHARS_MAX: Final = 256
_OK: Final = 200
_NOT_MODIFIED: Final = 304


@dataclass(frozen=True, slots=True)
class _Known:
    """What an origin published: until when it is believed, and from when on it is asked for again."""

    prices: tuple[tuple[PayAhead, Offer], ...] = ()
    age_s: int = 0
    etag: str = ""
    believed_until: float = 0.0
    look_at: float = 0.0


class _Manifest(msgspec.Struct, frozen=True, rename={"version": "x402Version", "pay_ahead": PAY_AHEAD}):
    version: int
    items: list[Any]
    pay_ahead: Any = None


class _Read(NamedTuple):
    prices: tuple[tuple[PayAhead, Offer], ...]
    age_s: int


class Manifests:
    """What was learned of many origins. `monotonic`: seconds that nobody sets; `s_max`: how long one may take."""

    def __init__(
        self, wallet: Payer, prices: Prices, monotonic: Callable[[], float], s_max: float = MANIFEST_S_MAX
    ) -> None:
        self._wallet = wallet
        self._prices = prices
        self._monotonic = monotonic
        self._s_max = s_max
        self._known: Recent[str, _Known] = Recent(ORIGINS_MAX)

    def due(self, request: PayableRequest) -> FetchManifest | None:
        """What is to be fetched before the request is sent; None where its price is known, or it is not time yet."""
        now = self._monotonic()
        known = self._known.get(request.origin) or _Known()
        if now < known.believed_until:
            return None
        # Too old, or forgotten here for newer ones: then nobody would say when it is.
        self._prices.publish(request.origin, ())
        if now < known.look_at or self._prices.offer_for(request.origin, request.method, request.target) is not None:
            return None
        # Others that are sent meanwhile do not wait for this one: they get their 402.
        self._put(request.origin, known, believed_until=0.0, look_at=now + LOOK_AGAIN_S)
        return FetchManifest(self._s_max, known.etag)

    def fetched(self, origin: str, answer: Answer | None) -> None:
        """Learn from what came; None: nothing did, or not in time."""
        if answer is None:
            return
        now = self._monotonic()
        known = self._known.get(origin) or _Known()
        if answer.status == _NOT_MODIFIED and known.etag:
            self._believe(origin, known, now)
        elif answer.status == _OK:
            read = self._read(origin, answer.body)
            if read is not None:
                etag = answer.headers.get("etag") or ""
                is_usable = len(etag) <= _ETAG_CHARS_MAX and etag.isascii() and etag.isprintable()
                self._believe(origin, _Known(read.prices, read.age_s, etag if is_usable else ""), now)

    def _believe(self, origin: str, known: _Known, now: float) -> None:
        self._put(
            origin,
            known,
            believed_until=now + known.age_s,
            look_at=now + max(known.age_s, LOOK_EVERY_S),
        )
        self._prices.publish(origin, known.prices)

    def _put(self, origin: str, known: _Known, *, believed_until: float, look_at: float) -> None:
        self._known.put(origin, _Known(known.prices, known.age_s, known.etag, believed_until, look_at))

    def _read(self, origin: str, body: bytes) -> _Read | None:
        """The prices in a manifest; None where it is none, or does not say for how long it holds."""
        try:
            manifest = msgspec.json.decode(body, type=_Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        told = as_object(manifest.pay_ahead)
        age_s, patterns = told.get("max_age_s"), told.get("patterns")
        if manifest.version != 2 or type(age_s) is not int or age_s < 1 or not isinstance(patterns, list):
            return None
        prices: list[tuple[PayAhead, Offer]] = []
        for entry in cast("list[object]", patterns)[:PATTERNS_MAX]:
            pay_ahead = read_pay_ahead({PAY_AHEAD: {"info": entry}})
            number = as_object(entry).get("item")
            if pay_ahead is None or type(number) is not int or not 0 <= number < len(manifest.items):
                continue
            offer = self._offer(origin, as_object(manifest.items[number]))
            if offer is not None:
                prices.append((pay_ahead, offer))
        return _Read(tuple(prices), min(age_s, AGE_S_MAX))

    def _offer(self, origin: str, item: Any) -> Offer | None:
        """What the wallet would take of an item, if it is one of this origin and may be paid ahead."""
        url, accepts = as_object(item.get("resource")).get("url"), item.get("accepts")
        if not isinstance(url, str) or origin_of(url) != origin_of(origin) or not isinstance(accepts, list):
            return None
        try:
            offer = choose(Asked("", read_requirements(cast("list[object]", accepts))), self._wallet)
        except TallystickError:
            return None
        return offer if self._wallet.schemes[offer.terms.scheme].is_paid_ahead else None
