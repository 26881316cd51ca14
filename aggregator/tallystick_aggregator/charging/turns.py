"""Whose turn it is to be decided: payments by voucher are decided in the order in which they came, though some are
screened faster. A channel's vouchers then arrive at the ledger as they were signed, and none is taken for used because
hundreds of later ones were faster.
"""

import asyncio


class Turn:
    """One place in the order."""

    __slots__ = ("_before", "taken")

    def __init__(self, before: "asyncio.Future[None] | None") -> None:
        self._before = before
        self.taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def comes(self) -> None:
        """Wait until the batch before has had its turn."""
        if self._before is not None:
            await asyncio.shield(self._before)
            self._before = None

    def pass_on(self) -> None:
        """Let the next proceed. It still waits until everything before this one has been decided."""
        if self._before is None or self._before.done():
            self.taken.set_result(None)
        else:
            self._before.add_done_callback(lambda _: self.taken.set_result(None))


class Turns:
    """The order of all batches of one batcher."""

    def __init__(self) -> None:
        self._last: asyncio.Future[None] | None = None

    def next(self) -> Turn:
        """Return the place behind all that were given before."""
        turn = Turn(self._last)
        self._last = turn.taken
        return turn
