"""What timers do for the ledger: reservations expire, old payment ids are forgotten, the journal is checkpointed.

Expiry and forgetting are decisions like any other, in small portions, so that charges never wait long for them.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from tallystick.payment_ids import payment_id_ms
from tallystick_aggregator.charging.port import Decision
from tallystick_aggregator.charging.writer import LedgerWriter
from tallystick_aggregator.ledger import decide
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.commands import DecisionContext, Rules
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger, Reservation
from tallystick_aggregator.store.port import Journal, StoreUnavailableError

EXPIRY_EVERY_S: Final = 1.0
EXPIRED_PER_COMMIT_MAX: Final = 256
LATE_CAPTURE_S: Final = 3_600
"""How long after its payment was made an expired reservation may still be captured; then it is released for good, so
that sellers who never settle leave nothing behind."""
FORGET_EVERY_S: Final = 600.0
"""Ids are refused by their age at once; this is how often the store may let go of them."""
CHECKPOINT_BACKLOG: Final = 200_000
CHECKPOINT_EVERY_S: Final = 60.0
CHECKPOINT_PAUSES_MAX: Final = 64
"""After failures a checkpoint is tried again after 2, 4, 8 and so on up to so many times EXPIRY_EVERY_S."""
CHECKPOINT_FAILURES_MAX: Final = 3
"""So many failures in a row are told."""

log = logging.getLogger(__name__)


class Maintenance:
    """Three timers. Each stops by cancellation and survives a store that is unavailable for a while."""

    def __init__(self, writer: LedgerWriter, journal: Journal, rules: Rules) -> None:
        self._writer = writer
        self._journal = journal
        self._rules = rules
        self._failures = 0
        """Checkpoints that failed since the last good one."""

    async def expire_reservations(self) -> None:
        """Give back what expired reservations hold, about once a second, and release those that nobody captures."""
        while True:
            await asyncio.sleep(EXPIRY_EVERY_S)
            while any(_due(self._writer.ledger, self._writer.moment())):
                if not await _patiently(self._writer, _expire):
                    break

    async def forget_payments(self) -> None:
        """Move the time forward before which payment ids are pruned (I4)."""
        while True:
            await _patiently(self._writer, self._forget)
            await asyncio.sleep(FORGET_EVERY_S)

    async def checkpoint(self) -> None:
        """Checkpoint the journal by backlog and by age; the more often it fails, the less often it is tried."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(EXPIRY_EVERY_S * min(2**self._failures, CHECKPOINT_PAUSES_MAX))
            backlog, age_s = self._journal.backlog, loop.time() - last
            if backlog >= CHECKPOINT_BACKLOG or (backlog and age_s >= CHECKPOINT_EVERY_S):
                try:
                    await self._journal.checkpoint(self._writer.moment().now_ms)
                except StoreUnavailableError as error:
                    self._failures += 1
                    log.warning("a checkpoint failed, the %d. in a row: %s", self._failures, error)
                    continue
                last, self._failures = loop.time(), 0

    def problems(self) -> Sequence[str]:
        """What keeps the aggregator from serving for long: without checkpoints its memory and its log only grow."""
        if self._failures < CHECKPOINT_FAILURES_MAX:
            return []
        return [f"{self._failures} checkpoints in a row failed; {self._journal.backlog} events wait for one"]

    def _forget(self, draft: Draft, ledger: Ledger, moment: DecisionContext) -> None:
        if moment.stale_escrows and moment.stale_escrows >= ledger.heads.keys():
            return  # perhaps it is our clock that is ahead, and what is forgotten is gone for good
        before_ms = moment.now_ms - self._rules.payment_id_retention_s * 1000
        if before_ms > ledger.payments_forgotten_ms:
            draft.record(ev.PaymentsForgotten(before_ms))


def _due(ledger: Ledger, moment: DecisionContext) -> Iterator[Reservation]:
    """Reservations whose time is over, and expired ones that are too old to be captured."""
    oldest_ms = moment.now_ms - LATE_CAPTURE_S * 1000
    for held in ledger.reservations.values():
        if held.expires_at <= moment.now_s and (held.expires_at or payment_id_ms(held.payment_id) < oldest_ms):
            yield held


def _expire(draft: Draft, ledger: Ledger, moment: DecisionContext) -> None:
    for reservation in islice(_due(ledger, moment), EXPIRED_PER_COMMIT_MAX):
        if draft.reservation(reservation.handle) != reservation:
            continue
        if reservation.expires_at:
            decide.expire(draft, reservation)
        else:
            decide.release(draft, reservation.handle)


async def _patiently(writer: LedgerWriter, decision: Decision[None]) -> bool:
    """Run a decision; False if the store cannot take it now: the timer comes round again."""
    try:
        await writer.run(decision)
    except StoreUnavailableError:
        return False
    return True
