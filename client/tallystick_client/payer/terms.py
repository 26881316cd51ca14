"""What the transport remembers of sellers' terms, so that it can send a payment ahead instead of asking first.

Terms are remembered per path, and per origin for paths that were not seen yet: a guess that costs one more answer where
it is wrong. A path that answered without asking for money is remembered as free. Nothing here is a promise: a seller
whose price has changed says so in a new 402, and the wallet decides anew. Both memories are bounded; the least recently
used go first.
"""

from typing import Final, Generic, TypeVar

from tallystick_client.payer.offers import Offer

ORIGINS_MAX: Final = 4_096
PATHS_MAX: Final = 1_024
"""Per origin."""
_FREE_METHODS: Final = frozenset({"HEAD", "OPTIONS", "TRACE", "CONNECT"})

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A dictionary that forgets what was not used for longest."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._items: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The value, which is now the most recently used."""
        value = self._items.pop(key, None)
        if value is not None:
            self._items[key] = value
        return value

    def put(self, key: K, value: V) -> None:
        """Remember a value."""
        self._items.pop(key, None)
        self._items[key] = value
        if len(self._items) > self._size_max:
            del self._items[next(iter(self._items))]

    def remove(self, key: K) -> None:
        """Forget a value."""
        self._items.pop(key, None)

    def __len__(self) -> int:
        return len(self._items)


class Free:
    """What is remembered of a path that costs nothing."""


_FREE: Final = Free()


class _Origin:
    def __init__(self) -> None:
        self.newest: Offer | None = None
        self.paths: Recent[tuple[str, bytes], Offer | Free] = Recent(PATHS_MAX)


class Terms:
    """The terms of many origins."""

    def __init__(self) -> None:
        self._origins: Recent[str, _Origin] = Recent(ORIGINS_MAX)

    def offer_for(self, origin: str, method: str, target: bytes) -> Offer | None:
        """The offer to pay ahead, None to ask first."""
        path = _path(target)
        known = self._origins.get(origin)
        if known is None or method in _FREE_METHODS or path == b"/robots.txt" or path.startswith(b"/.well-known/"):
            return None
        found = known.paths.get((method, path))
        if isinstance(found, Free):
            return None
        return found or known.newest

    def learn(self, origin: str, method: str, target: bytes, offer: Offer) -> None:
        """Remember what a path costs. `exact` is never paid ahead: a wrong guess would be a transfer."""
        if not offer.is_deferred:
            return
        known = self._origins.get(origin)
        if known is None:
            known = _Origin()
            self._origins.put(origin, known)
        known.newest = offer
        known.paths.put((method, _path(target)), offer)

    def learn_free(self, origin: str, method: str, target: bytes) -> None:
        """Remember that a path took no payment."""
        known = self._origins.get(origin)
        if known is not None:
            known.paths.put((method, _path(target)), _FREE)


def _path(target: bytes) -> bytes:
    return target.partition(b"?")[0]
