"""What timers do for the ledger: reservations expire, old payment ids are forgotten, the journal is checkpointed.

Expiry and forgetting are decisions like any other, in small portions, so that charges never wait long for them.
"""

import asyncio
from itertools import islice
from typing import Final

from tallystick_aggregator.intake.port import Decision
from tallystick_aggregator.intake.writer import LedgerWriter
from tallystick_aggregator.journal.port import Journal, StoreUnavailable
from tallystick_aggregator.ledger import decide
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.commands import Moment, Rules
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger

EXPIRY_EVERY_S: Final = 1.0
EXPIRED_PER_COMMIT_MAX: Final = 256
FORGET_EVERY_S: Final = 600.0
"""Ids are refused by their age at once; this is how often the store may let go of them."""
CHECKPOINT_BACKLOG: Final = 200_000
CHECKPOINT_EVERY_S: Final = 60.0


class Upkeep:
    """Three timers. Each stops by cancellation and survives a store that is unavailable for a while."""

    def __init__(self, writer: LedgerWriter, journal: Journal, rules: Rules) -> None:
        self._writer = writer
        self._journal = journal
        self._rules = rules

    async def expire_reservations(self) -> None:
        """Give back what expired reservations hold, about once a second."""
        while True:
            await asyncio.sleep(EXPIRY_EVERY_S)
            now_s = self._writer.moment().now_s
            while any(0 < held.expires_at <= now_s for held in self._writer.ledger.reservations.values()):
                if not await _patiently(self._writer, _expire):
                    break

    async def forget_payments(self) -> None:
        """Move the time forward before which payment ids are pruned (I4)."""
        while True:
            await _patiently(self._writer, self._forget)
            await asyncio.sleep(FORGET_EVERY_S)

    async def checkpoint(self) -> None:
        """Checkpoint the journal by backlog and by age."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(EXPIRY_EVERY_S)
            backlog, age_s = self._journal.backlog, loop.time() - last
            if backlog >= CHECKPOINT_BACKLOG or (backlog and age_s >= CHECKPOINT_EVERY_S):
                try:
                    await self._journal.checkpoint(self._writer.moment().now_ms)
                except StoreUnavailable:
                    continue
                last = loop.time()

    def _forget(self, draft: Draft, ledger: Ledger, moment: Moment) -> None:
        before_ms = moment.now_ms - self._rules.payment_id_retention_s * 1000
        if before_ms > ledger.payments_forgotten_ms:
            draft.record(ev.PaymentsForgotten(before_ms))


def _expire(draft: Draft, ledger: Ledger, moment: Moment) -> None:
    due = (held for held in ledger.reservations.values() if 0 < held.expires_at <= moment.now_s)
    for reservation in islice(due, EXPIRED_PER_COMMIT_MAX):
        if draft.reservation(reservation.handle) == reservation:
            decide.expire(draft, reservation)


async def _patiently(writer: LedgerWriter, decision: Decision[None]) -> bool:
    """Run a decision; False if the store cannot take it now: the timer comes round again."""
    try:
        await writer.run(decision)
    except StoreUnavailable:
        return False
    return True
