"""How often something expensive may be asked for: a token bucket."""

from collections.abc import Callable
from time import monotonic


class RateLimit:
    """At most `burst` at once and `per_s` a second in the long run. One event loop only."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self.burst = burst
        self._per_s = per_s
        self._clock = clock
        self._left = float(burst)
        self._at = clock()

    def give_back(self) -> None:
        """Undo a `take`: what was allowed was not done."""
        self._left = min(self.burst, self._left + 1)

    def take(self) -> bool:
        """Whether one more may go now; takes it if so."""
        now = self._clock()
        self._left = min(self.burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
