"""What one caller may take up over HTTP, so that seats stay for the others (threat 28)."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from tallystick_aggregator.api.http.responses import ProblemError
from tallystick_aggregator.ledger.values import COUNT_MAX, SECONDS_MAX

Count = Annotated[int, Meta(ge=1, le=COUNT_MAX)]
Seconds = Annotated[float, Meta(ge=0.1, le=SECONDS_MAX)]

_RETRY_AFTER_S: Final = 1
_STRANGERS: Final = ""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Settings of `[http]`; sizes in bytes, times in seconds."""

    body_bytes_max: Annotated[int, Meta(ge=1_024, le=16 * 1024 * 1024)] = 65_536
    head_bytes_max: Annotated[int, Meta(ge=1_024, le=1024 * 1024)] = 32_768
    """A request's line and headers."""
    json_containers_max: Annotated[int, Meta(ge=16, le=500)] = 500
    """Arrays and objects in one request: bounds how deep they nest."""
    head_s_max: Seconds = 10.0
    """How long a caller may take to say what it wants."""
    body_s_max: Seconds = 10.0
    """How long a body may take to arrive."""
    settle_s_max: Seconds = 300.0
    """How long /settle stays open at most, whatever `maxTimeoutSeconds` says."""
    idle_s_max: Seconds = 75.0
    """How long a connection may wait for its next request."""
    connections_max: Count = 8_192
    requests_max: Count = 4_096
    """Requests under way at once, of all callers."""
    requests_per_seller_max: Count = 2_048
    requests_of_strangers_max: Count = 256
    """Of all callers without a token together."""


class Seats:
    """How many requests are under way, and whose. One event loop only."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._taken: Counter[str] = Counter()
        self.all = 0
        """Requests under way."""

    @contextmanager
    def seat(self, seller: str = _STRANGERS) -> Generator[None]:
        """Sit down, as a seller by name or as a stranger. Raises ProblemError: 503 where all is full, 429 where it is
        this caller's share.
        """
        limits = self._limits
        if self.all >= limits.requests_max:
            raise ProblemError(
                503, "overloaded", _too_many("requests", limits.requests_max), retry_after_s=_RETRY_AFTER_S
            )
        most = limits.requests_per_seller_max if seller else limits.requests_of_strangers_max
        if self._taken[seller] >= most:
            whose = "requests of this token" if seller else "requests without a token"
            raise ProblemError(429, "too_many_requests", _too_many(whose, most), retry_after_s=_RETRY_AFTER_S)
        self.all += 1
        self._taken[seller] += 1
        try:
            yield
        finally:
            self.all -= 1
            self._taken[seller] -= 1
            if not self._taken[seller]:
                del self._taken[seller]


def _too_many(what: str, most: int) -> str:
    return f"at most {most} {what} at once; wait a moment and send it again"
