"""What timers do for the ledger: reservations expire, old payment ids are forgotten, the journal is checkpointed.

Expiry and forgetting are decisions like any other, in small portions, so that charges never wait long for them.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from tallystick.payment_ids import payment_id_ms
from tallystick_aggregator.charging.writer import LedgerWriter
from tallystick_aggregator.ledger import decide
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.commands import DecisionContext, Rules
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger, Reservation
from tallystick_aggregator.store.port import Journal, StoreUnavailableError
from tallystick_aggregator.tasks import PeriodicTask

PAUSE_DOUBLINGS_MAX: Final = 32
"""So often the pause after a failed checkpoint is doubled at most."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MaintenanceSettings:
    """How often, and how much at once."""

    look_every_s: float = 1.0
    """How often reservations expire, and it is seen whether a checkpoint is due."""
    expired_per_commit_max: int = 256
    late_capture_s: int = 3_600
    """How long after its payment was made an expired reservation may still be captured; then it is released for good,
    so that sellers who never settle leave nothing behind."""
    forget_every_s: float = 600.0
    """Ids are refused by their age at once; this is how often the store may let go of them."""
    checkpoint_backlog: int = 200_000
    """Events that wait for a checkpoint when one is due."""
    checkpoint_every_s: float = 60.0
    """How old the last one is when the next is due, however little waits."""
    checkpoint_pause_s_max: float = 64.0
    """After failures a checkpoint is tried again after 2, 4, 8 and so on up to this many seconds."""
    checkpoint_failures_max: int = 3
    """This many failures in a row are told."""


class Maintenance:
    """Three timers; none minds a store that is unavailable for a while: it comes round again."""

    def __init__(
        self,
        writer: LedgerWriter,
        journal: Journal,
        rules: Rules,
        settings: MaintenanceSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` tells how much time has passed, in seconds since any moment."""
        self._writer = writer
        self._journal = journal
        self._rules = rules
        self._settings = settings or MaintenanceSettings()
        self._clock = clock
        self._checkpointed_at = clock()
        self._failures = 0
        """Checkpoints that failed since the last good one."""
        self._next_try_at = 0.0

    def timers(self) -> Sequence[PeriodicTask]:
        """Return what is to be started."""
        settings = self._settings
        return (
            PeriodicTask("expiring reservations", self.expire_reservations, settings.look_every_s),
            # What fails counts as trouble until its next run: of this rare one that must not be minutes away.
            PeriodicTask(
                "forgetting payment ids", self.forget_payments, settings.forget_every_s, retry_s=settings.look_every_s
            ),
            PeriodicTask("checkpoints", self.checkpoint, settings.look_every_s),
        )

    async def expire_reservations(self) -> None:
        """Give back what expired reservations hold, and release those that nobody captures."""
        with suppress(StoreUnavailableError):
            while any(self._due(self._writer.ledger, self._writer.moment())):
                await self._writer.run(self._expire)

    async def forget_payments(self) -> None:
        """Move the time forward before which payment ids are pruned (I4)."""
        with suppress(StoreUnavailableError):
            await self._writer.run(self._forget)

    async def checkpoint(self) -> None:
        """Checkpoint the journal by backlog and by age; the more often it fails, the less often it is tried."""
        settings, now = self._settings, self._clock()
        backlog, age_s = self._journal.backlog, now - self._checkpointed_at
        is_due = backlog >= settings.checkpoint_backlog or (backlog and age_s >= settings.checkpoint_every_s)
        if not is_due or (self._failures and now < self._next_try_at):
            return
        try:
            await self._journal.checkpoint(self._writer.moment().now_ms)
        except StoreUnavailableError as error:
            self._failures += 1
            # A disk may be full for days: two to the power of a thousand is no float any more.
            doublings = min(self._failures, PAUSE_DOUBLINGS_MAX)
            pause_s = min(settings.look_every_s * 2**doublings, settings.checkpoint_pause_s_max)
            self._next_try_at = self._clock() + pause_s
            log.warning("a checkpoint failed, the %d. in a row: %s", self._failures, error)
        else:
            self._checkpointed_at, self._failures = self._clock(), 0

    def problems(self) -> Sequence[str]:
        """What keeps the aggregator from serving for long: without checkpoints its memory and its log only grow."""
        if self._failures < self._settings.checkpoint_failures_max:
            return []
        return [f"{self._failures} checkpoints in a row failed; {self._journal.backlog} events wait for one"]

    def _forget(self, draft: Draft, ledger: Ledger, moment: DecisionContext) -> None:
        if moment.stale_escrows and moment.stale_escrows >= ledger.heads.keys():
            return  # perhaps it is our clock that is ahead, and what is forgotten is gone for good
        before_ms = moment.now_ms - self._rules.payment_id_retention_s * 1000
        if before_ms > ledger.payments_forgotten_ms:
            draft.record(ev.PaymentsForgotten(before_ms))

    def _due(self, ledger: Ledger, moment: DecisionContext) -> Iterator[Reservation]:
        """Reservations whose time is over, and expired ones that are too old to be captured."""
        oldest_ms = moment.now_ms - self._settings.late_capture_s * 1000
        for held in ledger.reservations.values():
            if held.expires_at <= moment.now_s and (held.expires_at or payment_id_ms(held.payment_id) < oldest_ms):
                yield held

    def _expire(self, draft: Draft, ledger: Ledger, moment: DecisionContext) -> None:
        for reservation in islice(self._due(ledger, moment), self._settings.expired_per_commit_max):
            if draft.reservation(reservation.handle) != reservation:
                continue
            if reservation.expires_at:
                decide.expire(draft, reservation)
            else:
                decide.release(draft, reservation.handle)
