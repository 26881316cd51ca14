"""The ledger's only writer: takes what waits, decides it in one draft, commits it, adopts it, answers.

Nothing in memory runs ahead of the disk: the draft's copies replace the originals only after the journal has the
events (I3). While a commit is under way, everything that arrives waits for the next one: that is the group commit.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from tallystick.payment_ids import payment_id_ms
from tallystick_aggregator.charging.port import Decision
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.payments import PackedPayment
from tallystick_aggregator.ledger.state import Ledger, payment_key
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import Journal, StoreUnavailableError, StoreUncertainError

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """How much is decided and committed at once."""

    commit_weight_max: int = 2_048
    """About how many payments share a commit at most. Under load a commit takes six to eight milliseconds, however many
    they are: with half as many the event loop waits for commits at a hundred thousand charges a second."""
    decided_at_once: int = 1_024
    """After about this many payments others have their turn on the event loop: two milliseconds, or four where each is
    on a channel of its own."""
    backlog_max: int = 2_000_000
    """Events that may wait for a checkpoint, ten times as many as one is made for. If checkpoints have failed for so
    long, no more payments are taken: the log, and what memory keeps for the next one, would only grow (threat 28)."""


Lookups = Callable[[int], Sequence[tuple[bytes, bytes]]]
"""The (channel id, payment id) pairs that a decision will look up whose time is before this one (ms)."""


_Recalled = tuple[tuple[bytes, bytes], PackedPayment]


def no_lookups(_since_ms: int) -> Sequence[tuple[bytes, bytes]]:
    """Of a decision that looks no payment up."""
    return ()


def lookup_of(channel_id: bytes, payment_id: bytes) -> Lookups:
    """Of a decision that looks one payment up."""
    return lambda since_ms: ((channel_id, payment_id),) if payment_id_ms(payment_id) < since_ms else ()


class _Item(NamedTuple):
    """A decision that waits for its turn."""

    decide: Decision[Any]
    done: asyncio.Future[Any]
    weight: int
    lookups: Lookups


def system_clock_ms() -> int:
    """The time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class LedgerWriter:
    """Runs decisions one after another, many to a commit. See `charging.port.Writer`."""

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        *,
        stale_escrows: Callable[[], frozenset[EscrowRef]] = frozenset,
        clock_ms: Callable[[], int] = system_clock_ms,
        settings: WriterSettings | None = None,
    ) -> None:
        """`stale_escrows` tells at each commit which mirrors may not be relied on (I9)."""
        self._ledger = ledger
        self._journal = journal
        self._stale_escrows = stale_escrows
        self._clock_ms = clock_ms
        self._settings = settings or WriterSettings()
        self._waiting: deque[_Item] = deque()
        self._wakeup = asyncio.Event()
        self._closed = False
        self.available = True
        """False from a failed commit to the next good one: health answers NOT_SERVING."""

    @property
    def ledger(self) -> Ledger:
        """The state as of the last commit; read-only."""
        return self._ledger

    @property
    def backed_up(self) -> bool:
        """Whether so much waits for a checkpoint that no more payments are to be taken."""
        return self._journal.backlog >= self._settings.backlog_max

    def moment(self) -> DecisionContext:
        """The present, as decisions see it."""
        return DecisionContext(self._clock_ms(), self._stale_escrows())

    async def run(self, decision: Decision[Answer]) -> Answer:
        """Run one decision durably; see `charging.port.Writer.run`."""
        return await self.submit(decision)

    def submit(
        self, decision: Decision[Answer], *, weight: int = 1, lookups: Lookups = no_lookups
    ) -> asyncio.Future[Answer]:
        """Queue a decision. The payments that it looks up and that memory no longer answers for are fetched from the
        journal right before its turn.
        """
        if self._closed:
            return _refused("the aggregator is stopping")
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Item(decision, done, weight, lookups))
        self._wakeup.set()
        return done

    def submit_payments(self, decision: Decision[Answer], count: int, lookups: Lookups) -> asyncio.Future[Answer]:
        """Queue a decision about so many new payments, unless too much waits for a checkpoint."""
        if self.backed_up:
            return _refused("too much waits for a checkpoint")
        return self.submit(decision, weight=count, lookups=lookups)

    async def serve(self) -> None:
        """Work until `stop`, then finish what waits. Not to be cancelled: a commit's outcome would be unknown."""
        try:
            while not self._closed or self._waiting:
                await self._wakeup.wait()
                self._wakeup.clear()
                while self._waiting:
                    self._journal.trim()
                    await self._commit(self._take())
        finally:
            self._closed = True
            while self._waiting:
                _fail(self._waiting.popleft(), StoreUnavailableError("the ledger's writer has stopped"))

    def stop(self) -> None:
        """Take nothing new; `serve` returns when everything that waits is answered."""
        self._closed = True
        self._wakeup.set()

    def _take(self) -> list[_Item]:
        taken: list[_Item] = []
        weight, most = 0, self._settings.commit_weight_max
        while self._waiting and (not taken or weight + self._waiting[0].weight <= most):
            item = self._waiting.popleft()
            if not item.done.cancelled():  # nobody would hear the answer: it never happens
                weight += item.weight
                taken.append(item)
        return taken

    async def _commit(self, items: list[_Item]) -> None:
        try:
            draft, answers = await self._decide(items)
            if draft.events:
                if len(draft.events) > self._settings.commit_weight_max:  # to write so many down is as much again
                    await asyncio.sleep(0)
                await self._journal.append(draft.events)
                draft.adopt()
                self.available = True
        except StoreUnavailableError as error:
            self.available = False
            for item in items:
                _fail(item, error)
            return
        except BaseException as error:
            for item in items:
                _fail(item, StoreUncertainError(f"the ledger's writer stopped: {type(error).__name__}"))
            raise
        for item, answer in zip(items, answers, strict=True):
            if item.done.done():
                continue
            if isinstance(answer, _Failure):
                item.done.set_exception(answer.error)
            else:
                item.done.set_result(answer)

    async def _decide(self, items: list[_Item]) -> tuple[Draft, list[Any]]:
        recalled, failed = await self._recall_all(items)
        moment = self.moment()
        while True:
            draft = Draft(self._ledger)
            for (channel_id, payment_id), payment in recalled:
                draft.recall(channel_id, payment_id, payment)
            answers: list[Any] = []
            weight = 0
            for index, item in enumerate(items):
                if index in failed:
                    answers.append(failed[index])
                    continue
                if (
                    weight >= self._settings.decided_at_once
                ):  # nobody but this writer changes what the draft starts from
                    await asyncio.sleep(0)
                    weight = 0
                weight += item.weight
                try:
                    answers.append(item.decide(draft, self._ledger, moment))
                except Exception as error:  # noqa: BLE001 - a decision that raises fails alone, its half-made events go
                    failed[index] = _Failure(error)
                    await asyncio.sleep(0)
                    break
            else:
                return draft, answers

    async def _recall_all(self, items: list[_Item]) -> "tuple[list[_Recalled], dict[int, _Failure]]":
        """What the decisions look up, and those, by index, for which it cannot be read: they fail alone."""
        with suppress(StoreUnavailableError):
            return await self._recall(items), {}
        recalled: list[_Recalled] = []
        failed: dict[int, _Failure] = {}
        for index, item in enumerate(items):
            try:
                recalled += await self._recall([item])
            except StoreUnavailableError as error:
                failed[index] = _Failure(error)
        return recalled, failed

    async def _recall(self, items: list[_Item]) -> list[_Recalled]:
        since_ms, payments = self._ledger.payments_since_ms, self._ledger.payments
        pairs = [pair for item in items for pair in item.lookups(since_ms) if payment_key(*pair) not in payments]
        if not pairs:
            return []
        found = await self._journal.recall(pairs)
        return [(pair, found[payment_key(*pair)]) for pair in pairs if payment_key(*pair) in found]


class _Failure(NamedTuple):
    """What a decision raised."""

    error: Exception


def _refused(why: str) -> asyncio.Future[Any]:
    refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    refused.set_exception(StoreUnavailableError(why))
    return refused


def _fail(item: _Item, error: Exception) -> None:
    if not item.done.done():
        item.done.set_exception(error)
