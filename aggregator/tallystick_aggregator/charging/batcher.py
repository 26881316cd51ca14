"""What edges and schemes call to take payments: batches in, answers out, each durable before it is given.

Where the journal cannot tell whether it has a charge, StoreUncertainError passes through: no answer is the right one.
Bounded at every step (threat 28): at most `waiting_max` payments are inside; beyond that they are refused as
`overloaded`, and a stream is simply not read. If checkpoints keep failing, about `WriterSettings.backlog_max` events
may wait for one; beyond that new payments are refused as `store_unavailable`. Up to `screenings_max` batches have their
signatures checked at once while the one before them is committed.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, NamedTuple, TypeVar

from tallystick.charges import Charge as UncheckedPayment
from tallystick.payment_ids import payment_ids_from
from tallystick_aggregator.charging.signatures import SignatureCheck, SignatureChecker, SignatureThreads
from tallystick_aggregator.charging.turns import Turn, Turns
from tallystick_aggregator.charging.verification import Provers, Replay, Screening, screen_first
from tallystick_aggregator.charging.writer import LedgerWriter, lookup_of
from tallystick_aggregator.ledger import decide
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal
from tallystick_aggregator.ledger.batch import charge_all
from tallystick_aggregator.ledger.commands import DecisionContext, ProvenPayment, Rules
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.state import Account, Ledger, payment_of_handle, reservation_handle
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import StoreUnavailableError, StoreUncertainError

BATCH_MAX: Final = 512
"""Payments screened together at most: bounds how long the event loop is held."""

_payment_id_of: Final = attrgetter("payment_id")


@dataclass(frozen=True, slots=True)
class BatcherSettings:
    """How much is worked on at once."""

    waiting_max: int = 16_384
    """Payments inside at once."""
    screenings_max: int = 8
    """Batches between their first check and their answer at once; with this many, those that wait grow together."""
    batch_max: int = BATCH_MAX


Answer = TypeVar("Answer")
ChargeAnswer = Accepted | Refusal
ReserveAnswer = Held | Accepted | Refusal


def _nobody_counts() -> None:
    """For callers that are counted by the batcher alone."""


class _Waiting(NamedTuple):
    """Payments of one caller that wait to be screened."""

    payments: Sequence[UncheckedPayment]
    done: "asyncio.Future[list[ChargeAnswer]]"
    released: Callable[[], None]


class PaymentBatcher:
    """The one way in for payments of a channel. Every method may raise StoreUncertainError."""

    def __init__(
        self,
        writer: LedgerWriter,
        domain_separators: Mapping[EscrowRef, bytes],
        rules: Rules,
        *,
        signatures: SignatureChecker | None = None,
        settings: BatcherSettings | None = None,
    ) -> None:
        """`domain_separators`: of each escrow.

        `signatures` checks the vouchers' and is closed by `close`; this process does it unless told otherwise.
        """
        self.rules = rules
        self._writer = writer
        self._separators = domain_separators
        self._provers = Provers()
        self._signatures = signatures or SignatureThreads()
        self._waiting: deque[_Waiting] = deque()
        self._gathering = 0
        """How many payments wait to be screened."""
        self._under_way = 0
        """How many payments are in batches between their first check and their answer."""
        self._inside = 0
        """Both, and reservations."""
        self._settings = settings or BatcherSettings()
        self._screenings: set[asyncio.Task[None]] = set()
        self._turns = Turns()

    def close(self) -> None:
        """Let go of whoever checks signatures."""
        self._signatures.close()

    @property
    def inside(self) -> int:
        """How many payments are being worked on."""
        return self._inside

    async def charge(self, payments: Sequence[UncheckedPayment]) -> list[ChargeAnswer]:
        """Charge a batch; one answer each, in order. Payments of one batch are decided in their order."""
        return await self.start(payments)

    def start(
        self, payments: Sequence[UncheckedPayment], released: Callable[[], None] = _nobody_counts
    ) -> "asyncio.Future[list[ChargeAnswer]]":
        """Charge a batch, as `charge` does. To cancel the answer is to want none; some may be charged all the same.

        `released` is called once, when the payments are no longer inside: that may be after the answer was cancelled.
        """
        done: asyncio.Future[list[ChargeAnswer]] = asyncio.get_running_loop().create_future()
        if self._inside + len(payments) > self._settings.waiting_max:
            released()
            done.set_result([self._overloaded()] * len(payments))
            return done
        self._inside += len(payments)
        self._gathering += len(payments)
        self._waiting.append(_Waiting(payments, done, released))
        self._start_screening()
        return done

    async def prove(self, account: Account, payment: UncheckedPayment) -> Refusal | None:
        """Check that the account's payer meant a payment whose channel is not known yet; None if so.

        What nobody proved opens no channel: a channel is state, and one of the few that an account may have.
        """
        writer = self._writer
        check = screen_first(writer.ledger, account, payment, self._provers, self._separators, writer.moment())
        if not isinstance(check, SignatureCheck):
            return check
        (good,) = await self._signatures.check([check])
        return None if good else refuse(Why.VOUCHER_SIGNATURE)

    async def reserve(self, payment: UncheckedPayment) -> ReserveAnswer:
        """Hold the payment's amount until `capture` or `release`."""
        if self._inside >= self._settings.waiting_max:
            return self._overloaded()
        self._inside += 1
        try:
            # What a spend key proves uses no voucher up, so its order means nothing.
            turn = self._turns.next() if payment.spend is None else None
            try:
                outcome = (await self._screen([payment], decide.replay_of_reservation))[0]
                if not isinstance(outcome, ProvenPayment):
                    return outcome
                if turn is not None:
                    await turn.comes()
                decided = self._submit_reservation(outcome)
            finally:
                if turn is not None:
                    turn.pass_on()
            return await self._decided(decided)
        finally:
            self._inside -= 1

    def _overloaded(self) -> Refusal:
        most = self._settings.waiting_max
        return refuse(Why.TOO_MANY_PAYMENTS, f"more than {most} waiting", f"at most {most}")

    def _submit_reservation(self, proven: ProvenPayment) -> "asyncio.Future[ReserveAnswer]":
        handle = reservation_handle(proven.channel_id, proven.payment_id, secrets.token_bytes(16))

        def decision(draft: Draft, _: Ledger, moment: DecisionContext) -> ReserveAnswer:
            return decide.reserve(draft, proven, handle, moment, self.rules)

        return self._writer.submit_payments(decision, 1, lookup_of(proven.channel_id, proven.payment_id))

    async def capture(self, handle: bytes, amount: int) -> ChargeAnswer:
        """Charge a reservation, in full or less. The same capture again gets the same answer."""

        def decision(draft: Draft, _: Ledger, moment: DecisionContext) -> ChargeAnswer:
            return decide.capture(draft, handle, amount, moment, self.rules)

        return await self._decided(self._writer.submit(decision, lookups=lookup_of(*payment_of_handle(handle))))

    async def capture_payment(self, payment: UncheckedPayment, amount: int) -> ChargeAnswer | None:
        """Charge what is held of this payment, in full or less; None where nothing of it is known.

        For callers that may charge the channel. The same capture again gets the same answer.
        """

        def decision(draft: Draft, _: Ledger, moment: DecisionContext) -> ChargeAnswer | None:
            return decide.capture_payment(draft, payment, amount, moment, self.rules)

        lookups = lookup_of(payment.channel_id, payment.payment_id)
        return await self._decided(self._writer.submit(decision, lookups=lookups))

    async def release_payment(self, payment: UncheckedPayment) -> Done | Refusal | None:
        """Give back what is held of this payment; None where nothing of it is known. As `capture_payment`."""

        def decision(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> Done | Refusal | None:
            return decide.release_payment(draft, payment)

        lookups = lookup_of(payment.channel_id, payment.payment_id)
        return await self._decided(self._writer.submit(decision, lookups=lookups))

    async def release(self, handle: bytes) -> Done | Refusal:
        """Give a reservation back. The same release again gets the same answer."""

        def decision(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> Done | Refusal:
            return decide.release(draft, handle)

        return await self._decided(self._writer.submit(decision, lookups=lookup_of(*payment_of_handle(handle))))

    # The pipeline of charges: gather, screen, decide.

    def _start_screening(self) -> None:
        if not self._may_start():
            return
        if gathered := self._gather():
            self._under_way += _count(gathered)
            task = asyncio.create_task(self._work(gathered, self._turns.next()))
            self._screenings.add(task)
            task.add_done_callback(self._screening_done)

    def _may_start(self) -> bool:
        """A batch starts alone, or beside others if full, or a quarter full and no smaller than what is under way.

        A batch of one costs as much as one of fifty in committing it and waking up who waits: few do better to wait for
        the one that is under way, and go on together. Where many come, one half is checked while the other is answered.
        """
        if not self._screenings:
            return True
        most = self._settings.batch_max
        enough = min(max(self._under_way, most // 4), most)
        return len(self._screenings) < self._settings.screenings_max and self._gathering >= enough

    def _screening_done(self, task: asyncio.Task[None]) -> None:
        self._screenings.discard(task)
        self._start_screening()

    def _gather(self) -> list[_Waiting]:
        gathered: list[_Waiting] = []
        taken, most = 0, self._settings.batch_max
        while self._waiting and (not gathered or taken + len(self._waiting[0].payments) <= most):
            waiting = self._waiting.popleft()
            self._gathering -= len(waiting.payments)
            if waiting.done.cancelled():
                self._inside -= len(waiting.payments)
                waiting.released()
            else:
                gathered.append(waiting)
                taken += len(waiting.payments)
        return gathered

    async def _work(self, gathered: list[_Waiting], turn: Turn) -> None:
        try:
            answers = await self._charge_all([payment for waiting in gathered for payment in waiting.payments], turn)
        except BaseException as error:
            for waiting in gathered:
                if not waiting.done.done():
                    waiting.done.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
            return
        finally:  # here, not when a caller goes away: what it left is still being worked on
            count = _count(gathered)
            self._under_way -= count
            self._inside -= count
            for waiting in gathered:
                waiting.released()
        start = 0
        for waiting in gathered:
            end = start + len(waiting.payments)
            if not waiting.done.done():
                waiting.done.set_result(list(answers[start:end]))
            start = end

    async def _charge_all(self, payments: list[UncheckedPayment], turn: Turn) -> Sequence[ChargeAnswer]:
        try:
            outcomes = await self._screen(payments, decide.replay_of_charge)
            proven = [outcome for outcome in outcomes if isinstance(outcome, ProvenPayment)]
            if not proven:
                return outcomes  # type: ignore[return-value]  # what is not proven is answered
            await turn.comes()
            decided = self._submit(proven)
        finally:
            turn.pass_on()
        answers: Sequence[ChargeAnswer]
        try:
            answers = await decided
        except StoreUncertainError:
            raise
        except StoreUnavailableError as error:
            answers = [refuse(Why.PAYMENT_NOT_STORED, error=error)] * len(proven)
        if len(answers) == len(outcomes):
            return answers
        rest = iter(answers)
        return [next(rest) if isinstance(outcome, ProvenPayment) else outcome for outcome in outcomes]  # type: ignore[misc]

    def _submit(self, proven: list[ProvenPayment]) -> "asyncio.Future[list[ChargeAnswer]]":
        rules = self.rules

        def decision(draft: Draft, _: Ledger, moment: DecisionContext) -> list[ChargeAnswer]:
            return charge_all(draft, proven, moment, rules)

        def lookups(since_ms: int) -> Sequence[tuple[bytes, bytes]]:
            since = payment_ids_from(since_ms)
            if min(map(_payment_id_of, proven)) >= since:
                return ()
            return [(payment.channel_id, payment.payment_id) for payment in proven if payment.payment_id < since]

        return self._writer.submit_payments(decision, len(proven), lookups)

    async def _screen(
        self, payments: Sequence[UncheckedPayment], replay: Replay
    ) -> list[ProvenPayment | Accepted | Held | Refusal]:
        screening = Screening(self._writer.ledger, payments, self._provers, self._separators, replay)
        while checks := screening.next_checks():
            screening.take(checks, await self._signatures.check(checks))
        return screening.proven()

    async def _decided(self, answer: asyncio.Future[Answer | Refusal]) -> Answer | Refusal:
        try:
            return await answer
        except StoreUncertainError:
            raise
        except StoreUnavailableError as error:
            return refuse(Why.PAYMENT_NOT_STORED, error=error)


def _count(gathered: list[_Waiting]) -> int:
    return sum(len(waiting.payments) for waiting in gathered)
