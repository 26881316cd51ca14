"""What the transport remembers of prices, so that it can send a payment ahead instead of asking first.

Nothing is guessed from one page to another. A payment is sent ahead for a target (method, path and query) that asked
for money before, and for one inside a pattern that the seller published (the `pay-ahead` extension). A target that took
no payment is remembered as free, inside a pattern too.

- A price that the wallet refuses is forgotten (`ask_next`): the next request for the target asks, whatever stands here.
- A pattern keeps the price it came with until another was seen twice in a row, or a lower one once. So a dear page, or
  a spike of the price, is the price of its own target only.

Nothing here is a promise: a seller whose price has changed says so in a new 402, and the wallet decides anew. All of it
is bounded; what was not used for longest goes first.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import msgspec

from tallystick.x402 import PayAhead
from tallystick_client.payer.policy.offers import Offer
from tallystick_client.payer.recent import Recent

ORIGINS_MAX: Final = 4_096
TARGETS_MAX: Final = 1_024
"""Per origin."""
PATTERNS_MAX: Final = 32
"""Per origin."""
OFFERS_MAX: Final = 64
"""Different offers of one origin; one that makes more of them starts anew."""
OFFER_BYTES_MAX: Final = 4_096
"""A longer offer, as the payment has to repeat it, is not remembered."""
MOVES_MAX: Final = 2
"""How often an origin may turn out to have another receiver before its patterns are not believed any more."""
_TARGET_BYTES_MAX: Final = 256
"""A longer target is remembered by its hash."""
FREE_METHODS: Final = frozenset({"HEAD", "OPTIONS", "TRACE", "CONNECT"})


class _NoPrice:
    """What is remembered of a target that is asked for unpaid: it was free, or its price was refused here."""


_ASK: Final = _NoPrice()


@dataclass(slots=True)
class _Published:
    """A pattern and its price; `other` is a different price that the last page inside it had."""

    pay_ahead: PayAhead
    offer: Offer
    other: Offer | None = None

    def saw(self, offer: Offer) -> None:
        """Take over the price of a page inside, if it is lower, or seen for the second time in a row."""
        if offer == self.offer:
            self.other = None
        elif offer == self.other or offer.terms.amount < self.offer.terms.amount:
            self.offer, self.other = offer, None
        else:
            self.other = offer


class _Origin:
    def __init__(self, moves: int = 0) -> None:
        self.moves = moves
        self.clear()

    def clear(self) -> None:
        """Forget all prices."""
        self.offers: list[Offer] = []
        """Most offers of an origin are alike: one object stands for all that are."""
        self.targets: Recent[tuple[str, bytes], Offer | _NoPrice] = Recent(TARGETS_MAX)
        self.patterns: Recent[PayAhead, _Published] = Recent(PATTERNS_MAX)
        self.manifest: list[_Published] = []

    def same(self, offer: Offer) -> Offer | None:
        """The object that stands for all equal offers; None where this one is too long to be remembered."""
        for known in reversed(self.offers):
            if known == offer:
                return known
        if len(msgspec.json.encode(offer.accepted)) > OFFER_BYTES_MAX:
            return None
        if len(self.offers) == OFFERS_MAX:
            self.clear()
        self.offers.append(offer)
        return offer

    def published_offer(self, method: str, target: bytes) -> Offer | None:
        """The price of the newest pattern of a 402 that covers the target, else of the manifest's first."""
        patterns = chain(reversed(self.patterns.values()), self.manifest)
        return next((known.offer for known in patterns if known.pay_ahead.covers(method, target)), None)


class Prices:
    """The prices of many origins."""

    def __init__(self) -> None:
        self._origins: Recent[str, _Origin] = Recent(ORIGINS_MAX)

    def offer_for(self, origin: str, method: str, target: bytes) -> Offer | None:
        """The offer to pay ahead, None to ask first."""
        known = self._origins.get(origin)
        if known is None or is_free_everywhere(method, target):
            return None
        found = known.targets.get(_key(method, target))
        if found is None:
            return known.published_offer(method, target)
        return found if isinstance(found, Offer) else None

    def learn(self, origin: str, method: str, target: bytes, offer: Offer, pay_ahead: PayAhead | None = None) -> None:
        """Remember what a target costs, and where the same holds."""
        known = self._origins.get(origin)
        if known is None:
            known = _Origin()
            self._origins.put(origin, known)
        same = known.same(offer)
        if same is None:
            return
        offer = same
        if pay_ahead is not None and known.moves < MOVES_MAX:
            published = known.patterns.get(pay_ahead)
            if published is None:
                known.patterns.put(pay_ahead, _Published(pay_ahead, offer))
            elif pay_ahead.covers(method, target):
                published.saw(offer)
        for published in known.manifest:
            if published.pay_ahead.covers(method, target):
                published.saw(offer)
        known.targets.put(_key(method, target), offer)

    def publish(self, origin: str, prices: Sequence[tuple[PayAhead, Offer]]) -> None:
        """Take these for what the origin's manifest says, and nothing else. Its first pattern that covers a target
        counts; what 402s say comes first.
        """
        known = self._origins.get(origin)
        if known is None:
            if not prices:
                return
            known = _Origin()
            self._origins.put(origin, known)
        known.manifest = []
        if known.moves < MOVES_MAX:
            for pay_ahead, offer in prices[:PATTERNS_MAX]:
                same = known.same(offer)
                if same is not None:
                    known.manifest.append(_Published(pay_ahead, same))

    def was_taken(self, origin: str, method: str, target: bytes, offer: Offer) -> None:
        """Note that a payment at this price was taken: what another page in the pattern cost was its own price."""
        known = self._origins.get(origin)
        for published in (*known.patterns.values(), *known.manifest) if known is not None else ():
            if published.other is not None and published.offer == offer and published.pay_ahead.covers(method, target):
                published.other = None

    def forget(self, origin: str) -> None:
        """Forget all prices of an origin: a page of it has another receiver. If that happens again, the origin has
        several sellers, and one of them cannot publish a price for all.
        """
        known = self._origins.remove(origin)
        self._origins.put(origin, _Origin(known.moves + 1 if known is not None else 1))

    def ask_next(self, origin: str, method: str, target: bytes) -> None:
        """Send no payment ahead for this target: it took none, or its price was refused here."""
        known = self._origins.get(origin)
        if known is None:
            return
        key = _key(method, target)
        if known.published_offer(method, target) is None:
            known.targets.remove(key)  # nothing would be sent ahead without a price of its own
        else:
            known.targets.put(key, _ASK)


def is_free_everywhere(method: str, target: bytes) -> bool:
    """Whether no seller asks for money here."""
    path = target.partition(b"?")[0]
    return method in FREE_METHODS or path == b"/robots.txt" or path.startswith(b"/.well-known/")


def _key(method: str, target: bytes) -> tuple[str, bytes]:
    return method, target if len(target) <= _TARGET_BYTES_MAX else hashlib.sha256(target).digest()
