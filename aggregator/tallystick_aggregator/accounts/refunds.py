"""Refunds: what is not owed to sellers goes back to its payer at once, by the operator's signature.

The order makes them safe (threat 35, I2):
1. `RefundStarted` is journaled, with the account's refund nonce. From here on the amount counts as `refunding`.
2. Only then does the operator sign, and the transaction goes out through the outbox.
3. The watcher ends it when the nonce has passed in a final block: nothing under this nonce can land any more.

A crash after 1 leaves a refund that was started and not sent. `resume` sends it, at start-up and from a timer.

Each costs the operator a transaction, so it is refused where nothing was ever charged on the account, or an hour's gas
is spent: before step 1, for what was journaled must be sent. The payer can then withdraw on chain by itself.

What is told is what the escrow paid, by its own event: it pays what the refund names, or what the account still holds.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Self

from tallystick import eip712
from tallystick.hashing import keccak256
from tallystick.reasons import Reason
from tallystick_aggregator.accounts.accounts import Accounts
from tallystick_aggregator.accounts.outcomes import (
    NEVER_HAPPENED,
    newest_sent,
    overloaded,
    unless_unavailable,
    wait_until_mined,
)
from tallystick_aggregator.accounts.signed_calls import SignedCall
from tallystick_aggregator.auth.limits import GasBudget, RateLimits, has_paid
from tallystick_aggregator.chain.contradictions import read_account
from tallystick_aggregator.chain.port import Call, Chain, ChainUnavailableError, RevertedError, Send
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.state import Account, Ledger, PendingRefund
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import (
    OutboundTransaction,
    Outbox,
    StoreUnavailableError,
    TransactionKind,
)
from tallystick_aggregator.tasks import SingleFlight

REFUNDS_MAX: Final = 64
"""Refunds that are waited for at once."""
REFUND_EVERY_S: Final = 600.0
"""How often an account may begin a refund in the long run: each costs the operator a transaction (threat 18)."""
REFUND_BURST: Final = 3
REFUND_TIMEOUT_S: Final = 90.0
REFUND_GAS_MAX: Final = 600_000
"""Gas of one refund at most: the escrow gives the token's transfer 300,000 at most, whatever it does."""
RESUME_EVERY_S: Final = 15.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refunded:
    """A refund that is on chain; `transaction` is empty where somebody else landed it.

    `asked` is what it named, `amount` what the escrow paid; both in atomic units.
    """

    transaction: bytes
    asked: int
    amount: int
    account: Account


@dataclass(frozen=True, slots=True)
class RefundMemo:
    """What the outbox keeps of a refund, to report it again after it has ended."""

    amount: int
    nonce: int

    def to_bytes(self) -> bytes:
        """Return 16 bytes of amount and 32 of nonce, big-endian."""
        return self.amount.to_bytes(16, "big") + self.nonce.to_bytes(32, "big")

    @classmethod
    def from_bytes(cls, memo: bytes) -> Self:
        """Read what `to_bytes` made."""
        return cls(int.from_bytes(memo[:16], "big"), int.from_bytes(memo[16:48], "big"))


class Refunds:
    """Makes refunds and sees them through."""

    def __init__(
        self,
        chains: Mapping[EscrowRef, Chain],
        payers: Accounts,
        writer: Writer,
        outbox: Outbox,
        *,
        refund_timeout_s: float = REFUND_TIMEOUT_S,
        budget: GasBudget | None = None,
        call_of: Callable[[Account, PendingRefund], Awaitable[Call]] | None = None,
    ) -> None:
        """`budget` bounds what refunds cost in gas; without one there is no bound.

        `call_of` makes the transaction of a refund that was journaled; without one it is the escrow's own.
        """
        self._chains = chains
        self._call_of = call_of or self._refund_call
        self._payers = payers
        self._writer = writer
        self._outbox = outbox
        self._refund_timeout_s = refund_timeout_s
        self._under_way = SingleFlight[bytes, Refunded | Refusal]()
        self._rates = RateLimits(1 / REFUND_EVERY_S, REFUND_BURST)
        self._budget = budget or GasBudget()

    async def refund(self, account_id: bytes, refund_id: bytes, amount: int, call: SignedCall) -> Refunded | Refusal:
        """Refund `amount`, or all that is available for 0; the same refund id again gets the same answer."""
        struct_hash = eip712.hash_request_refund(account_id, refund_id, amount, call.deadline)
        account = self._payers.signed(account_id, struct_hash, call)
        if isinstance(account, Refusal):
            return account
        return await self.give_back(account_id, refund_id, amount)

    async def give_back(self, account_id: bytes, refund_id: bytes, amount: int) -> Refunded | Refusal:
        """The same for a caller who was found to be allowed to ask for it."""
        reference = refund_reference(account_id, refund_id)
        if reference not in self._under_way and len(self._under_way) >= REFUNDS_MAX:
            return overloaded("refunds", REFUNDS_MAX)
        answer = await self._under_way.run(
            reference, lambda: unless_unavailable(self._refund(account_id, refund_id, amount))
        )
        # Another call with this id may have asked for another amount.
        return _of_amount(answer, amount) if isinstance(answer, Refunded) else answer

    async def is_begun(self, account_id: bytes, refund_id: bytes) -> bool:
        """Whether this refund was started before, whatever has become of it. Raises StoreUnavailableError."""
        account = self._writer.ledger.account(account_id)
        if account is not None and account.refund is not None and account.refund.refund_id == refund_id:
            return True
        newest, _ = await self._newest(refund_reference(account_id, refund_id))
        return newest is not None

    async def resume(self) -> None:
        """Send what was started and not sent: no refund waits for somebody to ask again.

        What cannot be sent now is tried again next time.
        """
        ledger = self._writer.ledger
        started = [one for one in ledger.every_account() if one.refund is not None and one.escrow in self._chains]
        for account in started:
            try:
                await self._send(account.id)
            except (ChainUnavailableError, StoreUnavailableError, RevertedError) as error:
                log.warning("a refund is still to be sent", extra={"account": account.id.hex(), "error": str(error)})

    async def _refund(self, account_id: bytes, refund_id: bytes, amount: int) -> Refunded | Refusal:
        sent, _ = await self._newest(refund_reference(account_id, refund_id))
        if sent is None or sent.status in NEVER_HAPPENED:
            outcome = await self._begin(account_id, refund_id, amount, sent)
            if isinstance(outcome, Refusal):
                return outcome
            sent = outcome
        return await self._landed(account_id, sent)

    async def _begin(
        self, account_id: bytes, refund_id: bytes, amount: int, sent: OutboundTransaction | None
    ) -> OutboundTransaction | Refusal:
        """Start and send a refund, or send one again that never happened, if the operator still pays for it."""
        account = self._writer.ledger.account(account_id)
        if account is None:
            return refuse(Why.ACCOUNT_UNKNOWN)
        is_started = account.refund is not None and account.refund.refund_id == refund_id
        with self._hold(account) as refusal:
            # What is journaled and was not sent yet has its place in the budget since it was started.
            if refusal is not None and not (is_started and sent is None):
                return refusal
            if sent is None:
                problem = await self._start(account_id, refund_id, amount)
                if problem is not None:
                    return problem
            try:
                return await self._send(account_id, refund_id) or sent or refuse(Why.TRANSACTION_PENDING, what="refund")
            except RevertedError as error:
                return refuse(Why.REFUND_WOULD_FAIL, error=error.reason)

    def _hold(self, account: Account) -> AbstractContextManager[Refusal | None]:
        if not self._budget.limits.refunds_unpaid and not has_paid(account):
            return nullcontext(refuse(Why.NEVER_PAID, "charged 0", "more than 0"))
        chain, payer = self._chains[account.escrow], account.config.payer
        return self._budget.hold(chain, TransactionKind.REFUND, payer, has_paid=True)

    async def _start(self, account_id: bytes, refund_id: bytes, amount: int) -> Refusal | None:
        """Journal the refund (step 1), unless this very one was started before."""
        account = self._writer.ledger.account(account_id)
        if account is None:
            return refuse(Why.ACCOUNT_UNKNOWN)
        if account.refund is not None:
            return None if account.refund.refund_id == refund_id else refuse(Why.REFUND_PENDING)
        refusal = _is_large_enough(account, amount, self._payers.min_deposit(account))
        if refusal is not None:
            return refusal
        rate = self._rates.of(account_id)
        if not rate.take():
            return refuse(
                Why.REFUNDED_TOO_OFTEN,
                f"more than {REFUND_BURST} refunds in a short while",
                f"{REFUND_BURST} at once, then one every {REFUND_EVERY_S:g} s",
            )
        started: ev.RefundStarted | Refusal | None = None
        try:
            started = await self._journal(account, refund_id, amount)
        finally:
            if not isinstance(started, ev.RefundStarted):
                rate.give_back()
        return started if isinstance(started, Refusal) else None

    async def _journal(self, account: Account, refund_id: bytes, amount: int) -> ev.RefundStarted | Refusal:
        account_id = account.id
        chain = self._chains[account.escrow]
        on_chain = await read_account(chain.escrow, account_id, await chain.head())

        def decision(draft: Draft, _: Ledger, moment: DecisionContext) -> ev.RefundStarted | Refusal:
            return accounts.start_refund(draft, account_id, refund_id, on_chain.refund_nonce, amount, moment)

        return await self._writer.run(decision)

    async def _send(self, account_id: bytes, refund_id: bytes | None = None) -> OutboundTransaction | None:
        """Sign and send the refund that the account has started (step 2), unless it was sent; None: it has none."""
        account = self._writer.ledger.known_account(account_id)
        refund = account.refund
        if refund is None or (refund_id is not None and refund.refund_id != refund_id):
            return None
        newest, reference = await self._newest(refund_reference(account_id, refund.refund_id))
        if newest is not None and newest.status not in NEVER_HAPPENED:
            return newest
        chain = self._chains[account.escrow]
        memo = RefundMemo(refund.amount, refund.nonce).to_bytes()
        call, payer = await self._call_of(account, refund), account.config.payer
        return await chain.send(
            Send(TransactionKind.REFUND, reference, call, memo=memo, payer=payer, gas_max=REFUND_GAS_MAX)
        )

    async def _refund_call(self, account: Account, refund: PendingRefund) -> Call:
        return self._chains[account.escrow].escrow.refund_call(account.config, refund.amount, refund.nonce)

    async def _newest(self, reference: bytes) -> tuple[OutboundTransaction | None, bytes]:
        return await newest_sent(self._outbox, TransactionKind.REFUND, reference)

    async def _landed(self, account_id: bytes, sent: OutboundTransaction) -> Refunded | Refusal:
        account = self._writer.ledger.known_account(account_id)
        chain = self._chains[account.escrow]
        memo = RefundMemo.from_bytes(sent.memo)
        mined = await wait_until_mined(chain, sent, "refund", self._refund_timeout_s)
        if isinstance(mined, Refusal):
            # Whoever saw the signed refund may have landed it before us: then ours reverts, and it has happened.
            on_chain = await read_account(chain.escrow, account_id, await chain.final())
            if mined.reason is Reason.TRANSACTION_FAILED and on_chain.refund_nonce > memo.nonce:
                return await self._told(account_id, memo, b"", None)
            return mined
        try:
            await chain.mirrored(mined.block_number, self._refund_timeout_s)
        except TimeoutError:
            return refuse(Why.TRANSACTION_PENDING, what="refund")
        paid = mined.payouts[0].amount if mined.payouts else None
        return await self._told(account_id, memo, mined.transaction_hash, paid)

    async def _told(
        self, account_id: bytes, memo: RefundMemo, transaction: bytes, paid: int | None
    ) -> Refunded | Refusal:
        """Tell what the refund paid; where our own transaction does not know it, by the event of whoever landed it."""
        account = self._writer.ledger.known_account(account_id)
        if paid is None:
            landing = await self._chains[account.escrow].refund_landing(account_id, memo.nonce)
            if landing is None:
                return refuse(Why.REFUND_LANDED_LONG_AGO)
            paid = landing.amount
        return Refunded(transaction, memo.amount, paid, account)


def refund_reference(account_id: bytes, refund_id: bytes) -> bytes:
    """Return what names a refund in the outbox; refund ids are unique within their account only."""
    return keccak256(account_id + refund_id)


def _is_large_enough(account: Account, amount: int, least: int) -> Refusal | None:
    """Refuse dust, unless it is the account's rest: 0 and all that is available empty it."""
    if amount == 0 or amount >= min(least, account.available):
        return None
    return refuse(Why.REFUND_TOO_SMALL, amount, f"0 for all that is available, or at least {least}")


def _of_amount(refunded: Refunded, amount: int) -> Refunded | Refusal:
    if amount in (0, refunded.asked):
        return refunded
    return refuse(Why.REFUND_OF_ANOTHER_AMOUNT, amount, refunded.asked)
