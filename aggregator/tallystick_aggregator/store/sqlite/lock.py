"""One process at a time: a lock that the operating system lets go of when the process dies, however it dies.

The lock is on a file of its own next to the store, because closing any handle of a database file would drop SQLite's
own locks on it. The file stays behind and means nothing then. It remembers the newest epoch of the store, so that an
older copy that was put back in the store's place is noticed (threat 38).
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from tallystick_aggregator.store.port import StoreLockedError, StoreUnavailableError

_TEXT_BYTES_MAX: Final = 64


class FileLock:
    """The lock on a store, held from `take` to `release`."""

    def __init__(self, handle: int, epoch: int) -> None:
        self._handle = handle
        self.epoch = epoch
        """The newest epoch that this lock has seen; 0 if none."""

    @classmethod
    def take(cls, store: Path) -> Self:
        """Take the lock of the store with this path.

        Raises StoreLockedError, or StoreUnavailableError if it cannot be made.
        """
        path = store.with_name(store.name + ".lock")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailableError(f"the lock {path} cannot be made: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _read(handle)[1]
            os.close(handle)
            raise StoreLockedError(f"{store} is in use by another process{holder and f' ({holder})'}") from None
        return cls(handle, _read(handle)[0])

    def remember(self, epoch: int) -> None:
        """Note the store's epoch and this process. Nothing relies on its being there after a power cut."""
        self.epoch = epoch
        text = f"{epoch} {os.getpid()}\n".encode()
        with suppress(OSError):
            os.pwrite(self._handle, text, 0)
            os.ftruncate(self._handle, len(text))

    def release(self) -> None:
        """Let the next process have the store."""
        os.close(self._handle)


def _read(handle: int) -> tuple[int, str]:
    words = os.pread(handle, _TEXT_BYTES_MAX, 0).decode(errors="replace").split()
    if len(words) != 2 or not all(word.isascii() and word.isdigit() for word in words):
        return 0, ""
    return int(words[0]), f"process {words[1]}"
