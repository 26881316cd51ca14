"""Holds on channels that the ledger does not know yet: somebody deposits into them for the first time.

The ledger holds the channels that it knows. These holds are in memory: a restart loses them, and then the deposit's
/settle verifies anew.
"""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, NamedTuple

from tallystick_aggregator.accounts.outcomes import overloaded
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse

LOCKS_MAX: Final = 16_384
"""Holds at once; each took a checked signature, and is over after the time of a reservation."""


class _Lock(NamedTuple):
    bound: bytes
    expires_at: int
    pending_id: bytes
    """What /verify has answered; empty of one that a settlement took."""


class Locks:
    """Who holds which unknown channel. No method awaits: each is one step for everybody."""

    def __init__(self, clock_s: Callable[[], int], hold_s: int, locks_max: int = LOCKS_MAX) -> None:
        """`clock_s` tells the time in seconds since the epoch; a hold ends after `hold_s`."""
        self._clock_s = clock_s
        self._hold_s = hold_s
        self._locks_max = locks_max
        self._locks: dict[bytes, _Lock] = {}
        """By channel, the oldest first."""
        self._at_work: Counter[bytes] = Counter()
        """Settlements under way, by channel."""

    def take(self, channel_id: bytes, bound: bytes, pending_id: bytes) -> int | Refusal:
        """Hold a channel that nobody holds, for a request that `bound` stands for; until when is returned.

        `pending_id`: what `cancel` is to name.
        """
        self._forget()
        if channel_id in self._locks:
            return refuse(Why.CHANNEL_BUSY)
        if len(self._locks) >= self._locks_max:
            return overloaded("channels that are opened by a deposit", self._locks_max)
        return self._hold(channel_id, bound, pending_id)

    def take_again(self, channel_id: bytes, bound: bytes) -> int | Refusal:
        """Hold a channel that nobody else holds: for the same request again, or after its hold was lost."""
        refusal = self.refusal(channel_id, bound)
        held = self._locks.get(channel_id)
        return refusal or self._hold(channel_id, bound, held.pending_id if held else b"")

    @contextmanager
    def at_work(self, channel_id: bytes) -> Generator[None]:
        """Let the channel's hold last, however long a transaction takes."""
        self._at_work[channel_id] += 1
        try:
            yield
        finally:
            self._at_work[channel_id] -= 1
            if not self._at_work[channel_id]:
                del self._at_work[channel_id]

    def refusal(self, channel_id: bytes, bound: bytes = b"") -> Refusal | None:
        """Refuse a channel that is held for another request than this."""
        self._forget()
        held = self._locks.get(channel_id)
        return None if held is None or held.bound == bound else refuse(Why.CHANNEL_BUSY)

    def release(self, channel_id: bytes, bound: bytes) -> bool:
        """Give the channel free if it is held for this request, and no settlement of it goes on; whether it was."""
        held = self._locks.get(channel_id)
        if held is None or held.bound != bound or channel_id in self._at_work:
            return False
        del self._locks[channel_id]
        return True

    def cancel(self, channel_id: bytes, bound: bytes, pending_id: bytes) -> bool:
        """The same for whoever names what /verify has answered."""
        held = self._locks.get(channel_id)
        return held is not None and held.pending_id == pending_id and self.release(channel_id, bound)

    def _hold(self, channel_id: bytes, bound: bytes, pending_id: bytes) -> int:
        self._locks.pop(channel_id, None)
        self._locks[channel_id] = _Lock(bound, self._clock_s() + self._hold_s, pending_id)
        return self._locks[channel_id].expires_at

    def _forget(self) -> None:
        now_s = self._clock_s()
        while self._locks:
            channel_id, lock = next(iter(self._locks.items()))
            if lock.expires_at > now_s:
                return
            del self._locks[channel_id]
            if channel_id in self._at_work:
                self._hold(channel_id, lock.bound, lock.pending_id)
