"""Holds on channels that the ledger does not know yet: somebody deposits into them for the first time.

The ledger holds the channels that it knows. These holds are in memory: a restart loses them, and then the deposit's
/settle verifies anew.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from tallystick_aggregator.accounts.outcomes import overloaded
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse

LOCKS_MAX: Final = 16_384
"""Holds at once; each took a checked signature, and is over after the time of a reservation."""


class _Lock(NamedTuple):
    bound: bytes
    expires_at: int


class Locks:
    """Who holds which unknown channel. No method awaits: each is one step for everybody."""

    def __init__(self, clock_s: Callable[[], int], hold_s: int, locks_max: int = LOCKS_MAX) -> None:
        """`clock_s` tells the time in seconds since the epoch; a hold ends after `hold_s`."""
        self._clock_s = clock_s
        self._hold_s = hold_s
        self._locks_max = locks_max
        self._locks: dict[bytes, _Lock] = {}
        """By channel, the oldest first."""

    def take(self, channel_id: bytes, bound: bytes) -> int | Refusal:
        """Hold a channel that nobody holds, for a request that `bound` stands for; until when is returned."""
        self._forget()
        if channel_id in self._locks:
            return refuse(Why.CHANNEL_BUSY)
        if len(self._locks) >= self._locks_max:
            return overloaded("channels that are opened by a deposit", self._locks_max)
        return self._hold(channel_id, bound)

    def take_again(self, channel_id: bytes, bound: bytes) -> int | Refusal:
        """Hold a channel that nobody else holds: for the same request again, or after its hold was lost."""
        return self.refusal(channel_id, bound) or self._hold(channel_id, bound)

    def refusal(self, channel_id: bytes, bound: bytes = b"") -> Refusal | None:
        """Refuse a channel that is held for another request than this."""
        self._forget()
        held = self._locks.get(channel_id)
        return None if held is None or held.bound == bound else refuse(Why.CHANNEL_BUSY)

    def release(self, channel_id: bytes, bound: bytes) -> bool:
        """Give the channel free if it is held for this request; whether it was."""
        held = self._locks.get(channel_id)
        if held is None or held.bound != bound:
            return False
        del self._locks[channel_id]
        return True

    def _hold(self, channel_id: bytes, bound: bytes) -> int:
        self._locks.pop(channel_id, None)
        self._locks[channel_id] = _Lock(bound, self._clock_s() + self._hold_s)
        return self._locks[channel_id].expires_at

    def _forget(self) -> None:
        now_s = self._clock_s()
        while self._locks:
            channel_id, lock = next(iter(self._locks.items()))
            if lock.expires_at > now_s:
                return
            del self._locks[channel_id]
