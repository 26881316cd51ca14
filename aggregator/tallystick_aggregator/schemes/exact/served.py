"""Which payments callers that name no attempt have verified, as all do over HTTP.

Such a caller is not known again: a seller that verifies the same payment twice may be answering two requests, and would
serve two pages for one transfer, since settling it again is answered alike. So a payment is new to verify once. What
was sent is on disk; a restart forgets what was only verified, and then its seller may serve it a second time.
"""

from typing import Final

from tallystick_aggregator.schemes.exact.claims import Claim

SERVED_MAX: Final = 65_536
"""Payments in memory; the oldest is forgotten first, which is long settled or expired."""


class Served:
    """The payments of one scheme over one sender. No method awaits: each is one step for everybody."""

    def __init__(self, served_max: int = SERVED_MAX) -> None:
        self._served_max = served_max
        self._claims: dict[Claim, None] = {}

    def begin(self, mine: Claim) -> bool:
        """Remember that a payment is served; returns whether it is the first time."""
        if mine in self._claims:
            return False
        self._claims[mine] = None
        if len(self._claims) > self._served_max:
            del self._claims[next(iter(self._claims))]
        return True
