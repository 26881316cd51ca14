"""What waits for a checkpoint: the same count for every journal."""

from collections import deque


class Backlog:
    """How many events the commits have that no checkpoint covers."""

    def __init__(self, seq: int, events: int) -> None:
        self.events = events
        self._commits = deque([(seq, events)])

    def add(self, seq: int, events: int) -> None:
        """A commit was made."""
        self._commits.append((seq, events))
        self.events += events

    def cover(self, seq: int) -> None:
        """A checkpoint covers all commits up to this one."""
        while self._commits and self._commits[0][0] <= seq:
            self.events -= self._commits.popleft()[1]
