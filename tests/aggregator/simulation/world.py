"""A whole aggregator without sockets, in a world that follows from one number: customers, strangers, an escrow with
reorgs, a store that refuses and a process that dies at any write.

One step is a handful of things at once. Between steps everything has come to rest, and everything is checked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, Final, TypeVar
from unittest.mock import patch

from auditor import Auditor
from customers import Customer, Purchase, strange_payments
from doubles import DOMAIN, ESCROW_REF, MUSIC, NEWS, NOW_MS, OPERATOR, Payer, refund_id_of
from escrow_blocks import EscrowBlocks
from failing_disk import CrashedError, Fault, MemoryDisk, Operation
from running import Running

from escrow_model import signed
from tallystick.payment_ids import payment_id_ms
from tallystick.signatures import recover
from tallystick.vouchers import voucher_digest
from tallystick_aggregator.chain.deferred_escrow import CLAIM_COSTS
from tallystick_aggregator.charging import PaymentBatcher, UncheckedPayment
from tallystick_aggregator.charging import batcher as intake_module
from tallystick_aggregator.charging import signatures as signatures_module
from tallystick_aggregator.charging.batcher import BatcherSettings
from tallystick_aggregator.charging.maintenance import Maintenance
from tallystick_aggregator.claims.planner import EVERYTHING, plan_account
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Held, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, Rules
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger, SpendKey
from tallystick_aggregator.store.memory import MemoryJournal
from tallystick_aggregator.store.port import StoreUnavailableError, StoreUncertainError
from tallystick_contracts.claim_batch import ClaimRow
from tallystick_contracts.events import RowSkipped, SkipReason

Answer = TypeVar("Answer")

SELLERS: Final = (NEWS, MUSIC, bytes.fromhex("cc" * 20))
WITHDRAW_DELAY_S: Final = 7_200
RULES: Final = Rules(
    payment_id_retention_s=10_000,
    reservations_per_account_max=2,
    exposure_per_account_max=150,
    exposure_per_receiver_max=250,
)
_UNSIGNED: Final = (SkipReason.BAD_SIGNATURE, SkipReason.ABOVE_CEILING)
HOT_PAYMENTS: Final = 12
HOT_AGE_MS: Final = 3_000_000


class World:
    """Everything that there is. `log` counts what happened, by name."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.calm = True
        self.disk = MemoryDisk(plan=self._fault)
        self.auditor = Auditor(self.disk)
        # The operator's signatures need not be real here, the payers' are.
        self.escrow = EscrowBlocks(lambda who, digest, signature: who == OPERATOR or signed(who, digest, signature))
        self.customers = [
            Customer(Payer(name, withdraw_delay_s=WITHDRAW_DELAY_S), uses_keys, Random(self.random.random()))
            for name, uses_keys in (("ann", False), ("ben", True), ("cat", False), ("dan", True))
        ]
        self.payers = {customer.payer.account_id: customer.payer for customer in self.customers}
        self.refunds: dict[bytes, tuple[int, int, int]] = {}
        self.refund_number = 0
        self.now_ms = NOW_MS
        self.seen_head = False
        self.dead = False
        self.log: dict[str, int] = {}

    # Life and death of the process.

    async def live(self, steps: int) -> None:
        """The whole story: so many steps, then everything comes to its end and is compared."""
        with (
            patch.object(signatures_module, "INLINE_CHECKS_MAX", 10**9),  # threads would bring chance in
            patch.object(intake_module.secrets, "token_bytes", self.random.randbytes),
        ):
            await self.start()
            await self.open_accounts()
            self.calm = False
            for _ in range(steps):
                await self.step()
            self.calm = True
            await self.end()
            await self.stop()

    async def start(self) -> None:
        """A process begins on what is on disk."""
        self.dead = self.seen_head = False
        self.journal = MemoryJournal(self.disk, hot_payments_max=HOT_PAYMENTS, hot_age_ms_max=HOT_AGE_MS)
        self.run = Running(await self.journal.load(), self.journal, RULES, BatcherSettings(waiting_max=25))
        self.tick(0)
        self.maintenance = Maintenance(self.run.writer, self.journal, RULES)
        self.serving = asyncio.create_task(self.run.writer.serve())
        self.auditor.compare(self.run.ledger)

    async def stop(self) -> None:
        """It ends in good order, or is dead already."""
        self.run.writer.stop()
        await asyncio.wait([self.serving])
        error = self.serving.exception()
        assert error is None or isinstance(error, CrashedError), error
        self.run.batcher.close()

    def _fault(self, operation: Operation) -> Fault:
        if self.calm:
            return Fault.NONE
        if self.dead:
            return Fault.CRASH_BEFORE  # whatever else was on its way reaches no disk
        weights = (90, 6, 2, 2)
        fault = self.random.choices((Fault.NONE, Fault.REFUSED, Fault.CRASH_BEFORE, Fault.CRASH_AFTER), weights)[0]
        if fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER):
            self.dead = True
        self.count(f"{operation.name.lower()} {fault.name.lower()}")
        return fault

    # One step.

    async def step(self) -> None:
        """A few things at once, until they have come to rest; a dead process is replaced."""
        count = self.random.choice((1, 2, 3, 5, 8))
        await self.at_once([self.thing() for _ in range(count)])
        self.tick(self.random.choice((0, 0, 1, 5, 500, 40_000, 600_000)))
        if self.random.random() < 0.1:
            await self.finalize_a_withdrawal()
        if self.dead or self.random.random() < 0.02:
            self.count("restart")
            await self.stop()
            await self.start()
        self.auditor.compare(self.run.ledger)
        self.check_solvency()

    def thing(self) -> Coroutine[Any, Any, None]:
        """One thing that happens, by chance."""
        customer = self.random.choice(self.customers)
        things: list[tuple[int, Callable[[], Coroutine[Any, Any, None]]]] = [
            (30, self.send_a_batch),
            (14, self.send_a_reservation),
            (14, self.settle_a_reservation),
            (8, self.send_strange_payments),
            (10 if self.seen_head else 60, self.watch),
            (6, self.claim),
            (4, self.expire),
            (2, self.forget),
            (4, self.checkpoint),
            (6, lambda: self.deposit(customer)),
            (2, lambda: self.withdraw(customer)),
            (2, lambda: self.refund(customer)),
            (2, self.land_a_refund),
            (2, lambda: self.change_key(customer)),
            (3, self.reorg),
        ]
        return self.random.choices([make for _, make in things], [weight for weight, _ in things])[0]()

    async def at_once(self, things: list[Coroutine[Any, Any, None]]) -> None:
        """Run all of it interleaved by chance, and wait until nothing moves any more."""

        async def late(thing: Coroutine[Any, Any, None], turns: int) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await thing

        await asyncio.gather(*(late(thing, self.random.randrange(6)) for thing in things))
        for _ in range(200):
            await asyncio.sleep(0)
        assert self.dead or self.run.batcher.inside == 0

    def tick(self, ms: int) -> None:
        """Time passes."""
        self.now_ms += ms
        self.run.now_ms = self.now_ms
        self.run.stale_escrows = frozenset() if self.seen_head else frozenset({ESCROW_REF})

    @property
    def now_s(self) -> int:
        """Seconds since the epoch."""
        return self.now_ms // 1000

    def count(self, what: str) -> None:
        """Keep the log."""
        self.log[what] = self.log.get(what, 0) + 1

    # What callers do. Answers may be lost, callers may hang up, and what a dead process says nobody hears.

    async def ask(self, make: Callable[[PaymentBatcher], Awaitable[Answer]]) -> Answer | None:
        """Ask the batcher; None: no answer came."""
        if self.dead:
            return None
        task = asyncio.ensure_future(make(self.run.batcher))
        if not self.calm and self.random.random() < 0.05:
            for _ in range(self.random.randrange(12)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.count("hang-up")
            return None
        try:
            answer = await task
        except StoreUncertainError:
            assert self.dead, "only a dead writer leaves a caller without an answer"
            return None
        if self.dead or (not self.calm and self.random.random() < 0.05):
            self.count("lost answer")
            return None
        return answer

    async def decide(self, decision: Callable[[Draft, Ledger, DecisionContext], Answer]) -> Answer | None:
        """Run a decision; None: the store would not take it, or the process died."""
        if self.dead:
            return None
        try:
            answer = await self.run.writer.run(decision)
        except StoreUnavailableError:
            return None
        return None if self.dead else answer

    async def send_a_batch(self) -> None:
        """A seller sends payments of several customers: new ones, open ones again, known ones again, some twice."""
        purchases = [self.new_or_known(by_reservation=False) for _ in range(self.random.randint(1, 6))]
        purchases += self.random.choices(purchases, k=self.random.choice((0, 0, 1, 3)))
        self.random.shuffle(purchases)
        await self.send(purchases)

    async def send(self, purchases: list[Purchase]) -> None:
        """Charge these, and hear the answers."""
        was_charged = [purchase.charged is not None for purchase in purchases]
        payments = [purchase.payment for purchase in purchases]
        answers = await self.ask(lambda batcher: batcher.charge(payments))
        self.auditor.read()
        for index, purchase in enumerate(purchases):
            answer = None if answers is None else answers[index]
            self.note("charge", answer)
            if isinstance(answer, Accepted):
                assert self.auditor.charges[purchase.key] == answer.amount, "I3: accepted, so it is on disk"
                assert answer.replayed or self.seen_head, "I9: nothing new on a mirror that is behind"
            purchase.hear_charge(answer, was_charged=was_charged[index], pruned=self.pruned(purchase))

    async def send_a_reservation(self) -> None:
        """Verify, once or twice at once."""
        purchase = self.new_or_known(by_reservation=True)
        await asyncio.gather(*(self.hold(purchase) for _ in range(self.random.choice((1, 1, 2)))))

    async def hold(self, purchase: Purchase) -> None:
        """Reserve this one, and hear the answer."""
        answer = await self.ask(lambda batcher: batcher.reserve(purchase.payment))
        self.note("reserve", answer)
        self.auditor.read()
        if isinstance(answer, Held) and answer.handle:
            assert answer.handle in self.auditor.ledger.reservations, "I3"
            assert self.seen_head, "I9"
        if purchase.charged is None:
            purchase.hear_hold(answer)

    async def settle_a_reservation(self) -> None:
        """Capture or release one whose handle is known; also twice, also when it was settled already."""
        held = [purchase for customer in self.customers for purchase in customer.purchases if purchase.handle]
        waiting = [purchase for purchase in held if purchase.open]
        if waiting or held:
            purchase = self.random.choice(waiting if waiting and self.random.random() < 0.9 else held)
            await asyncio.gather(*(self.settle(purchase) for _ in range(self.random.choice((1, 1, 2)))))

    async def settle(self, purchase: Purchase) -> None:
        """Capture or release this one, and hear the answer."""
        was_charged = purchase.charged is not None
        if purchase.capture < 0:
            released = await self.ask(lambda batcher: batcher.release(purchase.handle))
            self.note("release", released)
            purchase.hear_release(released)
            return
        captured = await self.ask(lambda batcher: batcher.capture(purchase.handle, purchase.capture))
        self.note("capture", captured)
        self.auditor.read()
        if isinstance(captured, Accepted):
            assert self.auditor.charges[purchase.key] == captured.amount, "I3"
        purchase.hear_charge(captured, was_charged=was_charged, pruned=self.pruned(purchase))

    def new_or_known(self, *, by_reservation: bool) -> Purchase:
        """A purchase to send: a new one, one that is open, or (rarely) one that is known to be charged."""
        customer = self.random.choice(self.customers)
        known = [purchase for purchase in customer.purchases[-60:] if purchase.by_reservation is by_reservation]
        unsettled = [purchase for purchase in known if purchase.open and not purchase.handle]
        charged = [purchase for purchase in known if purchase.charged is not None]
        chance = self.random.random()
        if chance < 0.35 and unsettled:
            purchase = self.random.choice(unsettled)
            customer.renew(purchase, self.seller_of(purchase))
            return purchase
        if chance < 0.45 and charged:
            return self.random.choice(charged)
        return customer.buy(self.random.choice(SELLERS), self.now_ms, by_reservation=by_reservation)

    def pruned(self, purchase: Purchase) -> bool:
        """Whether its payment id was forgotten."""
        return payment_id_ms(purchase.payment.payment_id) < self.auditor.ledger.payments_forgotten_ms

    def seller_of(self, purchase: Purchase) -> bytes:
        """Whom it pays."""
        channels = {purchase.customer.payer.channel_id(seller): seller for seller in SELLERS}
        return channels[purchase.payment.channel_id]

    async def send_strange_payments(self) -> None:
        """Strangers try what they can with a payment that has become public."""
        customer = self.random.choice(self.customers)
        public = [purchase for purchase in customer.purchases[-100:] if purchase.charged and purchase.payment.signature]
        if not public:
            return
        tries = strange_payments(customer, self.random.choice(public), self.random, self.now_ms)

        def reserve_each(payments: list[UncheckedPayment]) -> Callable[[PaymentBatcher], Awaitable[list[Any]]]:
            return lambda batcher: asyncio.gather(*(batcher.reserve(payment) for payment in payments))

        for make in (lambda batcher: batcher.charge(tries), reserve_each(tries)):
            for answer in await self.ask(make) or ():  # type: ignore[arg-type]
                self.note("stranger", answer)
                assert isinstance(answer, Refusal), "strangers pay with nobody's money"
        guess = await self.ask(lambda batcher: batcher.capture(self.random.randbytes(64), 1))
        assert guess is None or isinstance(guess, Refusal)

    # The chain.

    async def watch(self) -> None:
        """The watcher takes over what the chain says of every account, and ends refunds whose nonce is final."""
        seen = [self.escrow.observe(customer.payer) for customer in self.customers]
        final = {account_id: self.escrow.at_final(self.payers[account_id]).refund_nonce for account_id in self.refunds}
        pending = dict(self.refunds)
        number = self.escrow.head

        def decision(draft: Draft, ledger: Ledger, _moment: DecisionContext) -> bool:
            for account in seen:
                assert not accounts.mirror(draft, ledger, account), "nobody claims more than was charged"
            for account_id, (refund, nonce, _) in pending.items():
                if final[account_id] > nonce:
                    accounts.end_refund(draft, account_id, refund_id_of(refund))
            draft.record(ev.ChainAdvanced(ESCROW_REF, number, number.to_bytes(32, "big")))
            return True

        if await self.decide(decision):
            self.count("watched")
            self.seen_head = True
            self.tick(0)
            for account_id, (_, nonce, _) in pending.items():
                if final[account_id] > nonce:
                    self.refunds.pop(account_id, None)

    async def claim(self) -> None:
        """A settlement of what the planner says; the escrow checks every row as the contract does (I5, I6)."""
        if self.dead:
            return
        self.auditor.read()
        ledger = self.run.ledger
        for account in list(ledger.accounts.values()):
            for group in plan_account(account, ledger.channels_of(account.id), {}, EVERYTHING, CLAIM_COSTS):
                for row in group.rows:
                    digest = voucher_digest(DOMAIN.separator, row.channel_id, row.ceiling)
                    assert recover(digest, row.signature) == account.config.payer_authorizer, "I5"
                    assert row.total == self.auditor.ledger.channels[row.channel_id].charged <= row.ceiling, "I6"
                rows = [ClaimRow(row.receiver, row.total, row.ceiling, row.signature) for row in group.rows]
                events = self.escrow.claim(self.payers[account.id], rows)
                assert not [event for event in events if isinstance(event, RowSkipped) and event.reason in _UNSIGNED]
                self.count("claim")

    async def deposit(self, customer: Customer) -> None:
        """More money."""
        self.escrow.deposit(customer.payer, self.random.randrange(50, 400))
        self.count("deposit")

    async def withdraw(self, customer: Customer) -> None:
        """The timed way out is begun, or given up."""
        if self.escrow.at_head(customer.payer).withdrawable_at:
            self.escrow.cancel_withdraw(customer.payer)
        else:
            self.escrow.initiate_withdraw(customer.payer, self.random.randrange(1, 300), self.now_s)
            self.count("withdrawal")

    async def finalize_a_withdrawal(self) -> None:
        """Its delay is over. The watcher saw it coming, so what was charged is claimed first (I9)."""
        due = [
            customer.payer.account_id
            for customer in self.customers
            if self.escrow.at_head(customer.payer).withdrawable_at
        ]
        if not due or self.dead:
            return
        account_id = self.random.choice(due)
        await self.at_once([self.watch()])
        at = self.escrow.at_head(self.payers[account_id]).withdrawable_at
        if self.run.ledger.accounts[account_id].withdraw_finalizes_at != at or self.dead:
            return  # the store would not take it; the watcher comes again long before the delay is over
        self.tick((max(0, at - self.now_s) + RULES.reservation_s + 1) * 1000)
        while not self.dead and any(held.expires_at for held in self.run.ledger.reservations.values()):
            await self.at_once([self.expire()])
        if self.dead:
            return  # it starts again long before the delay is over
        await self.claim()
        self.escrow.finalize_withdraw(self.payers[account_id], self.now_s)
        self.count("withdrawn")
        await self.at_once([self.watch()])

    async def refund(self, customer: Customer) -> None:
        """The payer asks for some of it back; the operator signs only what was journaled as started."""
        account_id = customer.payer.account_id
        self.refund_number += 1
        number, nonce = self.refund_number, self.escrow.at_head(customer.payer).refund_nonce
        amount = self.random.choice((0, self.random.randrange(1, 200)))
        if account_id in self.refunds:
            return
        started = await self.decide(
            lambda draft, _ledger, moment: accounts.start_refund(
                draft, account_id, refund_id_of(number), nonce, amount, moment
            )
        )
        self.auditor.read()
        account = self.auditor.ledger.accounts[account_id]
        if account.refund is not None:  # on disk, heard of or not: it will be signed after a restart
            self.refunds[account_id] = (number, nonce, account.refund.amount)
            self.count("refund")
        else:
            assert not isinstance(started, ev.RefundStarted), "I3"

    async def land_a_refund(self) -> None:
        """The payer uses a signed refund, sooner or later."""
        if self.refunds:
            account_id = self.random.choice(sorted(self.refunds))
            _, nonce, amount = self.refunds[account_id]
            if self.escrow.refund(self.payers[account_id], nonce, amount):
                self.count("refunded")

    async def reorg(self) -> None:
        """The newest blocks are lost, with what was in them."""
        self.escrow.mine(self.random.randrange(4))
        self.escrow.reorg(self.random.randint(1, 3))
        self.count("reorg")

    # What timers and payers do.

    async def expire(self) -> None:
        """Reservations whose time is over."""
        await self.decide(self.maintenance._expire)

    async def forget(self) -> None:
        """Payment ids whose retention is over."""
        await self.decide(self.maintenance._forget)

    async def checkpoint(self) -> None:
        """The journal writes down and memory lets go."""
        if not self.dead:
            try:
                await self.journal.checkpoint(self.now_ms)
            except StoreUnavailableError:
                self.count("checkpoint refused")
            except CrashedError:
                assert self.dead

    async def change_key(self, customer: Customer) -> None:
        """Revoke the spend key in use, and register another."""
        if not customer.uses_keys:
            return
        account_id = customer.payer.account_id
        if customer.keys and self.random.random() < 0.5:
            old = customer.keys[-1].key_id
            await self.decide(lambda draft, _ledger, _moment: accounts.revoke_spend_key(draft, account_id, old))
        key = customer.new_key(self.now_s)
        answer = await self.decide(
            lambda draft, _ledger, moment: accounts.register_spend_key(draft, account_id, key, moment, RULES)
        )
        self.auditor.read()
        if any(known.key_id == key.key_id for known in self.auditor.ledger.spend_keys.values()):
            customer.keys.append(key)
            self.count("new key")
        else:
            assert not isinstance(answer, SpendKey), "I3"

    # Beginning and end.

    async def open_accounts(self) -> None:
        """Everybody deposits and knows every seller."""
        for customer in self.customers:
            payer = customer.payer
            self.escrow.deposit(payer, 500)

            def opening(draft: Draft, _ledger: Ledger, _moment: DecisionContext, payer: Payer = payer) -> bool:
                accounts.open_account(draft, payer.account_id, ESCROW_REF, payer.config)
                for seller in SELLERS:
                    accounts.open_channel(draft, payer.account_id, payer.channel_id(seller), seller, 0, RULES)
                return True

            assert await self.decide(opening)
            await self.change_key(customer)
        self.escrow.mine(4)
        await self.watch()

    async def end(self) -> None:
        """Every purchase comes to an outcome, every reservation to its end, everything is claimed; books are equal."""
        await self.watch()
        for customer in self.customers:
            for purchase in customer.purchases:
                await self.bring_to_an_end(purchase)
        self.tick(RULES.reservation_s * 1000 + 1)
        while any(held.expires_at for held in self.run.ledger.reservations.values()):
            await self.expire()
        await self.claim()
        self.escrow.mine(4)
        await self.watch()
        self.auditor.compare(self.run.ledger)
        self.check_solvency()
        self.compare_books()

    async def bring_to_an_end(self, purchase: Purchase) -> None:
        """What is not known yet is asked once more, now that nothing gets lost."""
        if not purchase.open:
            return
        if not purchase.by_reservation:
            await self.send([purchase])
        elif purchase.handle:
            await self.settle(purchase)
        if purchase.lost:  # too old to be sent again: a statement tells
            amount = self.auditor.charges.get(purchase.key)
            purchase.charged = None if amount is None else Accepted(amount, 0, replayed=True)
        purchase.ended = True

    def compare_books(self) -> None:
        """For each channel: charged by the ledger, paid by the customer's own book, received on chain."""
        for customer in self.customers:
            on_chain = self.escrow.at_head(customer.payer).claimed
            for seller in SELLERS:
                channel = self.run.ledger.channels[customer.payer.channel_id(seller)]
                assert channel.reserved == 0
                assert channel.charged == customer.spent_at(channel.id), f"{customer.payer.name}'s book"
                assert channel.charged == channel.claimed == on_chain.get(channel.id, 0), "every seller is paid"
        purchases = {
            purchase.key: purchase.charged.amount
            for customer in self.customers
            for purchase in customer.purchases
            if purchase.charged is not None
        }
        assert purchases == self.auditor.charges, "nothing lost, nothing doubled, nothing charged that was refused"

    def check_solvency(self) -> None:
        """The escrow can pay every seller all that was charged, whatever payers have got back."""
        for customer in self.customers:
            account = self.escrow.at_head(customer.payer)
            channels = self.auditor.ledger.channels_of(customer.payer.account_id)
            owed = sum(channel.charged for channel in channels)
            assert account.balance + sum(account.claimed.values()) >= owed

    def note(self, what: str, answer: object) -> None:
        """Keep the log of answers."""
        if isinstance(answer, Refusal):
            self.count(f"{what}: {answer.reason.code}")
        else:
            self.count(f"{what}: {type(answer).__name__}{' again' if getattr(answer, 'replayed', False) else ''}")
