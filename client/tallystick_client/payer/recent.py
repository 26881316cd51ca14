"""A dictionary with a bound."""

from typing import Generic, TypeVar

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

    def put(self, key: K, value: V) -> V | None:
        """Remember a value; returns the one that had to go for it, if any."""
        self._items.pop(key, None)
        self._items[key] = value
        return self._items.pop(next(iter(self._items))) if len(self._items) > self._size_max else None

    def remove(self, key: K) -> V | None:
        """Forget a value, and return it."""
        return self._items.pop(key, None)

    def values(self) -> list[V]:
        """All values, the most recently used one last."""
        return list(self._items.values())

    def __len__(self) -> int:
        return len(self._items)
