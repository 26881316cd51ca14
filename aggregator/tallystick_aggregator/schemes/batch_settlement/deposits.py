"""Deposits into channels whose vouchers the facilitator manages: landed until final, and then the request is charged.

/verify holds the channel: in the ledger where that knows it, else in memory. /settle goes on holding it until the
deposit has landed and the charge is decided; a hold that was lost meanwhile is taken anew, if nobody else has the
channel ("POST /verify"). The same deposit again finds its transaction in the outbox, after a restart too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tallystick.charges import Charge
from tallystick.errors import InvalidSignatureError
from tallystick.facilitator import Settled, Verified
from tallystick.quantities import PaymentId
from tallystick.reasons import Reason
from tallystick.vouchers import check_voucher
from tallystick.x402.batch_settlement import ChannelState, DepositPayload, Settlement, corrective_extra, verified_extra
from tallystick_aggregator.accounts.deposits import Deposited, Deposits
from tallystick_aggregator.accounts.fundings import Funding
from tallystick_aggregator.accounts.outcomes import unless_unavailable
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.charging.steps import Steps
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.schemes.batch_settlement.fundings import Permit2Funding, funding_of
from tallystick_aggregator.schemes.batch_settlement.locks import Locks
from tallystick_aggregator.schemes.batch_settlement.port import ChannelChain
from tallystick_aggregator.schemes.batch_settlement.reason_codes import of_deposit
from tallystick_aggregator.schemes.batch_settlement.snapshots import Snapshots
from tallystick_aggregator.schemes.batch_settlement.steps import Step, read_pending_id
from tallystick_aggregator.schemes.batch_settlement.under_way import Sent, UnderWay
from tallystick_aggregator.schemes.batch_settlement.vouchers import ManagedVouchers
from tallystick_aggregator.store.port import TransactionKind


@dataclass(frozen=True, slots=True)
class _Hold:
    """A channel that is held for a settlement. `lock`: by what, in the ledger; None where it is held in memory.

    `is_new`: it was taken by this settlement, and ends with it.
    """

    lock: Charge | None
    is_new: bool = False


class ManagedDeposits:
    """Holds channels for deposits, and lands them."""

    def __init__(
        self,
        chains: Mapping[EscrowRef, ChannelChain],
        deposits: Deposits,
        vouchers: ManagedVouchers,
        steps: Steps,
        locks: Locks,
        under_way: UnderWay,
        writer: Writer,
        snapshots: Snapshots,
        new_id: Callable[[], PaymentId],
    ) -> None:
        self._chains = chains
        self._deposits = deposits
        self._vouchers = vouchers
        self._steps = steps
        self._locks = locks
        self._under_way = under_way
        self._writer = writer
        self._snapshots = snapshots
        self._new_id = new_id

    async def hold(self, step: Step, payload: DepositPayload) -> Verified | Refusal:
        """Check that the deposit would land and pay for this request, and hold its channel."""
        funding = self._signed(step, payload)
        if isinstance(funding, Refusal):
            return funding
        refusal = await self._deposits.check(funding)
        if refusal is not None:
            return _coded(refusal, funding)
        if self._is_known(step):
            return await self._hold_known(step, payload)
        return await unless_unavailable(self._hold_unknown(step, payload))

    async def settle(
        self, step: Step, payload: DepositPayload, amount: int, timeout_s: float | None
    ) -> Settled | Refusal:
        """Land the deposit, charge this much of what was accepted, and give the channel free."""
        funding = self._signed(step, payload)
        if isinstance(funding, Refusal):
            return funding
        if amount > step.accepted:
            return refuse(Why.CAPTURE_ABOVE_RESERVED, amount, f"at most {step.accepted}")
        hold = await unless_unavailable(self._hold_again(step, payload.reservation.pending_id))
        if isinstance(hold, Refusal):
            return hold
        goes_on = False
        try:
            with self._locks.at_work(step.channel_id):
                answer = await self._landed_and_charged(step, payload, funding, amount, timeout_s, hold)
            goes_on = isinstance(answer, Refusal) and answer.reason is Reason.TRANSACTION_PENDING
            if goes_on:
                # Its hold may end before, or have a name that nobody knows: the deposit keeps the channel by itself.
                sent = Sent(TransactionKind.DEPOSIT, funding.reference, step.bound)
                self._under_way.follow(step.channel_id, sent)
        finally:
            await self._let_go(step, hold, goes_on=goes_on)
        return answer

    async def cancel(self, step: Step, pending_id: str | None) -> Settled | Refusal:
        """Give the channel free: nothing was deposited, and nothing is charged."""
        payment_id = read_pending_id(pending_id)
        if isinstance(payment_id, Refusal):
            return payment_id
        if self._locks.cancel(step.channel_id, step.bound, payment_id):
            return Settled(step.config.payer, 0, extra={"chargedAmount": "0"}, moves=False)
        return await self._vouchers.released(step, step.lock(payment_id))

    # Holding.

    async def _hold_known(self, step: Step, payload: DepositPayload) -> Verified | Refusal:
        refusal = await self._vouchers.opened(step)
        if refusal is not None:
            return refusal
        await self._snapshots.refresh(step.channel_id)
        pending_id = self._new_id()
        refusal = self._would_cover(step, payload)
        held = refusal or await self._steps.hold(step.lock(pending_id), below=step.accepted)
        if isinstance(held, Refusal):
            return self._vouchers.corrected(step, held)
        refusal = await self._vouchers.taken_meanwhile(step, step.lock(pending_id))
        if refusal is not None:
            return refusal
        extra = verified_extra(self._snapshots.of(step.channel_id), pending_id.hex())
        return Verified(step.config.payer, expires_at=held.expires_at, extra=extra)

    async def _hold_unknown(self, step: Step, payload: DepositPayload) -> Verified | Refusal:
        state = await self._on_chain(step)
        refusal = _is_first_step(step, state, payload.amount)
        pending_id = self._new_id()
        refusal = refusal or await self._under_way.refusal(step.escrow, step.config, step.channel_id, step.bound)
        until = refusal or self._locks.take(step.channel_id, step.bound, pending_id)
        if isinstance(until, Refusal):
            return until
        return Verified(step.config.payer, expires_at=until, extra=verified_extra(state, pending_id.hex()))

    async def _hold_again(self, step: Step, pending_id: str | None) -> _Hold | Refusal:
        """Go on holding the channel, or hold it anew. What is charged already is seen before anything is sent."""
        if not self._is_known(step):
            state = await self._on_chain(step)
            until = _is_first_step(step, state, None) or self._locks.take_again(step.channel_id, step.bound)
            if not isinstance(until, Refusal):
                return _Hold(None)
            is_busy = until.reason is Reason.CHANNEL_BUSY and pending_id is not None
            return refuse(Why.RESERVATION_OF_ANOTHER_VOUCHER) if is_busy else until
        refusal = await self._vouchers.opened(step)
        if refusal is not None:
            return refusal
        before = None
        if pending_id is not None:
            payment_id = read_pending_id(pending_id)
            if isinstance(payment_id, Refusal):
                return payment_id
            before = step.lock(payment_id)
        lock = step.lock(self._new_id())
        held = await self._steps.hold_again(lock, before, below=step.accepted)
        if isinstance(held, Refusal):
            return self._vouchers.corrected(step, held)
        return _Hold(before if held.replayed else lock, is_new=not held.replayed)

    async def _let_go(self, step: Step, hold: _Hold, *, goes_on: bool) -> None:
        """Give the channel free, unless the same request comes again for its transaction."""
        if goes_on and not hold.is_new:
            return
        if hold.lock is None:
            self._locks.release(step.channel_id, step.bound)
        else:
            await self._steps.release(hold.lock)

    def _is_known(self, step: Step) -> bool:
        """Whether the ledger can hold the channel: it is there, or there is money to open it with."""
        ledger = self._writer.ledger
        account = ledger.account(step.channel_id)
        return ledger.channel(step.channel_id) is not None or (account is not None and account.funds > 0)

    # Checks.

    def _signed(self, step: Step, payload: DepositPayload) -> Funding | Refusal:
        """How the deposit is landed, if its voucher is the payer's."""
        chain = self._chains[step.escrow]
        try:
            check_voucher(chain.escrow.domain, step.voucher, step.config.payer_authorizer)
        except InvalidSignatureError:
            return refuse(Why.VOUCHER_SIGNATURE)
        funding = funding_of(chain, payload)
        if isinstance(funding, Refusal):
            return of_deposit(funding, by_permit2=True, is_proven=True)
        return funding

    def _would_cover(self, step: Step, payload: DepositPayload) -> Refusal | None:
        """Rule 9: the deposit and what is free on the channel are enough for this request."""
        available = self._writer.ledger.known_account(step.channel_id).available + payload.amount
        return None if step.accepted <= available else refuse(Why.FUNDS_TOO_LOW, step.accepted, f"at most {available}")

    async def _on_chain(self, step: Step) -> ChannelState:
        """What the contract has of a channel that the ledger does not know. Raises ChainUnavailableError."""
        chain = self._chains[step.escrow]
        head = await chain.head()
        (account,) = await chain.escrow.accounts([step.channel_id], head)
        (claimed,) = await chain.escrow.claimed([step.channel_id], head)
        return ChannelState(step.channel_id, account.balance + claimed, claimed, 0, account.refund_nonce, claimed)

    # Landing.

    async def _landed_and_charged(
        self,
        step: Step,
        payload: DepositPayload,
        funding: Funding,
        amount: int,
        timeout_s: float | None,
        hold: _Hold,
    ) -> Settled | Refusal:
        landed = await self._deposits.land(funding, timeout_s)
        if isinstance(landed, Refusal):
            return _coded(landed, funding)
        charged = await self._vouchers.opened(step) or await self._steps.charge(
            step.payment(self._new_id()), amount, hold.lock
        )
        await self._snapshots.refresh(step.channel_id)
        if isinstance(charged, Refusal):
            return _after_deposit(self._vouchers.corrected(step, charged), landed)
        count = self._snapshots.charge_count(step.channel_id)
        extra = Settlement(self._snapshots.of(step.channel_id), charged.amount, count).extra()
        payer, transaction = step.config.payer, landed.transaction
        return Settled(payer, payload.amount, charged.charged, transaction, extra=extra)


def _is_first_step(step: Step, state: ChannelState, deposit: int | None) -> Refusal | None:
    """Rules 9 and 10 of a channel that nothing was charged on here: its baseline is what is claimed on chain.

    `deposit` None: it may be there already.
    """
    ceiling, expected = step.voucher.max_claimable_amount, state.total_claimed + step.accepted
    if ceiling != expected:
        return refuse(Why.WATERMARK_MISSED, ceiling, expected)._replace(extra=corrective_extra(state, None))
    if ceiling == state.total_claimed:
        return refuse(Why.VOUCHER_CLAIMED, ceiling, f"above {state.total_claimed}")
    if deposit is not None and ceiling > state.balance + deposit:
        return refuse(Why.FUNDS_TOO_LOW, step.accepted, f"at most {state.balance - state.total_claimed + deposit}")
    return None


def _coded(refusal: Refusal, funding: Funding) -> Refusal:
    by_permit2 = isinstance(funding, Permit2Funding)
    return of_deposit(refusal, by_permit2=by_permit2, is_proven=funding.why_unproven() is None)


def _after_deposit(refusal: Refusal, landed: Deposited) -> Refusal:
    """Say that the deposit is there: it is the payer's, in its channel, and pays for the next request."""
    said = f"The deposit has landed in its channel, but nothing was charged: {refusal.message}"
    return refusal._replace(message=said, transaction=landed.transaction)
