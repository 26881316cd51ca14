"""The workers of a served wallet: who holds which grants, and who has not been heard of for too long.

A worker's word frees nothing. What it says it was charged and lost must fit what it was given; what it says it returns
closes its grant, is unknown from then on, and becomes free once its key is revoked and the aggregator has told what was
charged (`settle`): it may have kept a copy. That is done when it leaves, when others lack headroom, and from time to
time. A worker that is silent for longer than its lease is taken for dead, with the same consequences. If it was only
slow, its next report tells it so.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tallystick.errors import MalformedError, TallystickError
from tallystick.reasons import Reason
from tallystick_client.payer.errors import BudgetExceededError, DepositNotAllowedError
from tallystick_client.payer.policy.offers import Seller
from tallystick_client.payer.policy.operators import Asset
from tallystick_client.payer.wallet.allocator import Allotment
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.rows import GrantRow
from tallystick_client.payer.wallet.spend_keys import SELF
from tallystick_client.payer.wallet.wallet import WalletCore

LEASE_S: Final = 30.0
CALL_BACK_WAIT_S: Final = 5.0
"""How long a worker waits for headroom that idle workers are giving back."""
_CALL_BACK_POLL_S: Final = 0.2
_ANSWERS_MAX: Final = 64
"""Kept per worker, for requests whose answer was lost."""

_log = logging.getLogger("tallystick.payer")


class Reported(NamedTuple):
    """What became of a grant, in atomic units. `charged`, and it together with `unknown`, only grow."""

    grant_id: int
    charged: int
    unknown: int
    returned: int
    is_final: bool


@dataclass(slots=True)
class _Worker:
    heard_at: float
    extensions: dict[bytes, asyncio.Task[Allotment]] = field(default_factory=dict[bytes, asyncio.Task[Allotment]])

    @property
    def is_busy(self) -> bool:
        """Whether something is on its way to it."""
        return any(not task.done() for task in self.extensions.values())


class Workers:
    """All workers of one wallet."""

    def __init__(
        self,
        core: WalletCore,
        lease_s: float = LEASE_S,
        call_back_wait_s: float = CALL_BACK_WAIT_S,
        clock: Clock = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if core.allocator.proof != "spend_key":
            raise MalformedError(
                "proof", core.allocator.proof, "spend_key for workers: a voucher needs the payer's key"
            )
        self.lease_s = lease_s
        self._core = core
        self._book = core.store.book
        self._call_back_wait_s = call_back_wait_s
        self._clock = clock
        self._monotonic = monotonic
        self._workers: dict[str, _Worker] = {}
        self._called_back_until = 0.0
        core.allocator.call_back_from(self._call_back)
        for row in self._open_rows():
            # Left by a former run of the wallet: the worker may still be there.
            self._worker(row.holder)

    async def extend(
        self, holder: str, seller: Seller, grant_id: int, request_id: bytes, need: int, want: int
    ) -> Allotment:
        """Between `need` and `want` more for the worker's grant, or a new grant; see Allocator.allot.

        The same request id again gets the same answer: nothing is given out twice because an answer was lost.
        """
        worker = self._worker(holder)
        task = worker.extensions.get(request_id)
        if task is None:
            task = asyncio.create_task(self._extend(holder, seller, grant_id, need, want))
            worker.extensions[request_id] = task
            for old in list(worker.extensions)[:-_ANSWERS_MAX]:
                del worker.extensions[old]
        try:
            # The caller may go away; what it asked for is entered in the book all the same, and there for its retry.
            allotment = await asyncio.shield(task)
        finally:
            worker.heard_at = self._monotonic()
            if task.done() and (task.cancelled() or task.exception() is not None):
                worker.extensions.pop(request_id, None)
        return allotment

    def report(self, holder: str, reports: Iterable[Reported], *, is_leaving: bool = False) -> list[int]:
        """Enter what a worker reports; returns the grants that it must not spend from any more.

        Raises ValueError on totals that do not fit what the grant was given.
        """
        self._worker(holder)
        closed = [report.grant_id for report in reports if not self._enter(holder, report)]
        if is_leaving:
            self._bury(holder)
        return closed

    def knows(self, holder: str) -> bool:
        """Whether this worker is among those that are heard of."""
        return holder in self._workers

    @property
    def is_calling_back(self) -> bool:
        """Whether workers should return what nobody is using."""
        return self._monotonic() < self._called_back_until

    async def recover_from(self, holder: str, seller: Seller, reason: Reason, key_id: bytes, amount: int) -> bool:
        """Do what can be done about a refusal that a worker met."""
        return await self._core.remedies.recover_from(seller, holder, reason, key_id, amount)

    async def settle(self, asset: Asset | None = None) -> None:
        """Have the keys revoked that no worker uses any more, and learn what of their headroom is free.

        `asset`: somebody lacks headroom in this one. Then the keys of all that returned some are revoked, though they
        pay under them elsewhere: such a payment that is refused is paid again under a new key. An aggregator that does
        not answer is logged.
        """
        for account in list(self._book.accounts.values()):
            operator = self._core.deposits.operator_of(account)
            if operator is None or asset not in {None, account.asset}:
                continue
            holders = self._holders_of_returned(account.id)
            if asset is not None:
                for row in self._open_rows():
                    if row.holder in holders and self._book.channels[row.channel_id].account_id == account.id:
                        self._book.close(row, int(self._clock()))
            if not holders and (asset is not None or not self._core.keys.has_unused(account)):
                continue
            try:
                await self._core.reconciler.reconcile(account, operator)
            except TallystickError as error:
                _log.warning("what workers returned is not free yet: %s", error)

    def expire_leases(self) -> int:
        """Close the grants of workers whose lease has run out; returns how many workers that were."""
        now = self._monotonic()
        dead = [
            holder
            for holder, worker in self._workers.items()
            if not worker.is_busy and now - worker.heard_at > self.lease_s
        ]
        for holder in dead:
            self._bury(holder)
        return len(dead)

    async def _extend(self, holder: str, seller: Seller, grant_id: int, need: int, want: int) -> Allotment:
        give_up_at = self._monotonic() + self._call_back_wait_s
        while True:
            row = self._book.grants.get(grant_id)
            if row is not None and row.holder != holder:
                row = None
            try:
                allotment = await self._core.allocator.allot(seller, holder, row, need, want)
            except (BudgetExceededError, DepositNotAllowedError):
                # Workers may hold what nobody is using: they are asked for it with their next report.
                if self._monotonic() >= give_up_at or not self._is_held_elsewhere(grant_id, seller.asset):
                    raise
                await self.settle(seller.asset)
                await asyncio.sleep(_CALL_BACK_POLL_S)
            else:
                return allotment

    def _enter(self, holder: str, report: Reported) -> bool:
        """Whether the grant is still the worker's to spend from."""
        row = self._book.grants.get(report.grant_id)
        if row is None or row.holder != holder or row.closed_at:
            return False
        # An older report that arrives late has nothing new to say. What was unknown may turn out to be charged.
        charged = max(row.charged, report.charged)
        spent = max(row.charged + row.unknown, report.charged + report.unknown)
        self._book.report(row, charged, spent - charged)
        if report.returned > row.open:
            raise ValueError(f"grant {row.id}: {report.returned} cannot be returned of {row.open} open")
        if report.is_final or 0 < row.open <= report.returned:
            # It says that it holds nothing of it any more.
            self._book.close(row, int(self._clock()))
            return False
        return True

    def _bury(self, holder: str) -> None:
        self._workers.pop(holder, None)
        self._core.keys.drop_holder(holder)
        for row in self._open_rows():
            if row.holder == holder:
                self._book.close(row, int(self._clock()))

    def _call_back(self, asset: Asset) -> None:
        del asset  # Grants in few tokens: the flag is for all.
        self._called_back_until = self._monotonic() + self._call_back_wait_s

    def _is_held_elsewhere(self, grant_id: int, asset: Asset) -> bool:
        return any(
            (row.open or row.unknown) and row.asset == asset and row.id != grant_id and row.holder != SELF
            for row in self._book.grants.values()
        )

    def _holders_of_returned(self, account_id: bytes) -> set[str]:
        """The workers whose closed grants hold what nobody else may use yet."""
        return {
            row.holder
            for row in self._book.grants.values()
            if row.closed_at
            and row.unknown
            and row.holder != SELF
            and self._book.channels[row.channel_id].account_id == account_id
        }

    def _open_rows(self) -> list[GrantRow]:
        return [row for row in self._book.grants.values() if row.holder != SELF and not row.closed_at]

    def _worker(self, holder: str) -> _Worker:
        worker = self._workers.get(holder)
        if worker is None:
            worker = self._workers[holder] = _Worker(self._monotonic())
        worker.heard_at = self._monotonic()
        return worker
