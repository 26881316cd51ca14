"""Vouchers that the facilitator manages: /verify holds the channel, /settle charges it or gives it free.

The hold is a reservation of the ledger under a payment id of ours, `pendingId`: durable, one for each channel, ended by
settle, cancel or time. What a voucher must be is the ledger's rule 2c (docs/design.md §6).
"""

from collections.abc import Callable

from tallystick.charges import Charge
from tallystick.facilitator import Settled, Verified
from tallystick.quantities import PaymentId
from tallystick.reasons import Reason
from tallystick.x402 import PaymentTerms
from tallystick.x402.batch_settlement import BatchSettlementCode, Settlement, corrective_extra, verified_extra
from tallystick_aggregator.accounts.channels import Channels
from tallystick_aggregator.accounts.outcomes import unless_unavailable
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.charging.steps import Steps
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.batch_settlement.locks import Locks
from tallystick_aggregator.schemes.batch_settlement.requests import ChannelPayload, payload_type
from tallystick_aggregator.schemes.batch_settlement.snapshots import Snapshots
from tallystick_aggregator.schemes.batch_settlement.steps import Step, read_pending_id
from tallystick_aggregator.schemes.batch_settlement.under_way import UnderWay


class ManagedVouchers:
    """Holds, charges and frees channels."""

    def __init__(
        self,
        channels: Channels,
        steps: Steps,
        writer: Writer,
        snapshots: Snapshots,
        locks: Locks,
        under_way: UnderWay,
        new_id: Callable[[], PaymentId],
    ) -> None:
        """`new_id` makes payment ids by the clock that the ledger goes by."""
        self._locks = locks
        self._under_way = under_way
        self._channels = channels
        self._steps = steps
        self._writer = writer
        self._snapshots = snapshots
        self._new_id = new_id

    def step_of(self, terms: PaymentTerms, payload: ChannelPayload, accepted: int) -> Step | Refusal:
        """The voucher in a payload, once its channel's id is that of its configuration (rule 1)."""
        config, voucher = payload.config, payload.voucher
        escrow = self._channels.escrow_of(str(terms.network), config, voucher.channel_id)
        if isinstance(escrow, Refusal):
            return escrow
        return Step(payload_type(payload), escrow, config, voucher, accepted)

    async def hold(self, step: Step) -> Verified | Refusal:
        """Hold the channel for this voucher, if it is the channel's next step; it is opened if it is not known yet."""
        refusal = await self.opened(step)
        if refusal is not None:
            return refusal
        await self._snapshots.refresh(step.channel_id)
        payment = step.payment(self._new_id())
        held = self._is_above_claimed(step) or await self._steps.hold(payment)
        if isinstance(held, Refusal):
            return self.corrected(step, held)
        refusal = await self.taken_meanwhile(step, payment)
        if refusal is not None:
            return refusal
        extra = verified_extra(self._snapshots.of(step.channel_id), payment.payment_id.hex())
        return Verified(step.config.payer, expires_at=held.expires_at, extra=extra)

    async def taken_meanwhile(self, step: Step, held: Charge) -> Refusal | None:
        """Give back what was just held if a server's refund took the channel meanwhile.

        That takes its lock first and looks at the ledger's holds then; here it is the other way round, so that at least
        one of the two sees the other.
        """
        refusal = self._locks.refusal(step.channel_id, step.bound)
        if refusal is None and self._under_way.is_anothers(step.channel_id, step.bound):
            refusal = refuse(Why.CHANNEL_BUSY)
        if refusal is not None:
            await self._steps.release(held)
        return refusal

    async def charge(self, step: Step, pending_id: str | None, amount: int) -> Settled | Refusal:
        """Charge what is held under this pendingId, in full or less, and give the channel free.

        Without a pendingId the voucher is verified now.
        """
        captured: Accepted | Refusal
        if pending_id is None:
            captured = await self.opened(step) or self._is_above_claimed(step) or await self._charge_now(step, amount)
        else:
            payment_id = read_pending_id(pending_id)
            if isinstance(payment_id, Refusal):
                return payment_id
            captured = await self._steps.capture(step.payment(payment_id), amount)
        if isinstance(captured, Refusal):
            return self.corrected(step, captured)
        return self._settled(step, captured)

    async def cancel(self, step: Step, pending_id: str | None) -> Settled | Refusal:
        """Give the channel free, and charge nothing."""
        payment_id = read_pending_id(pending_id)
        if isinstance(payment_id, Refusal):
            return payment_id
        return await self.released(step, step.payment(payment_id))

    async def released(self, step: Step, held: Charge) -> Settled | Refusal:
        """Give back what holds the channel, and charge nothing."""
        released = await self._steps.release(held)
        if released is None or isinstance(released, Refusal):
            return refuse(Why.RESERVATION_OF_ANOTHER_VOUCHER)
        return self._settled(step, None)

    def corrected(self, step: Step, refusal: Refusal) -> Refusal:
        """The refusal with what its payer needs to sign the next step: the channel's state and its newest voucher."""
        channel_id = step.channel_id
        if refusal.reason is not Reason.CUMULATIVE_AMOUNT_MISMATCH or self._writer.ledger.channel(channel_id) is None:
            return refusal
        extra = corrective_extra(self._snapshots.of(channel_id), self._snapshots.newest_voucher(channel_id))
        return refusal._replace(extra=extra)

    async def _charge_now(self, step: Step, amount: int) -> Accepted | Refusal:
        """Hold, look whether a server's refund has the channel, and charge: what is held it does not take."""
        if amount > step.accepted:
            return refuse(Why.CAPTURE_ABOVE_RESERVED, amount, f"at most {step.accepted}")
        await self._snapshots.refresh(step.channel_id)
        payment = step.payment(self._new_id())
        held = await self._steps.hold(payment)
        if isinstance(held, Refusal):
            return held
        return await self.taken_meanwhile(step, payment) or await self._steps.capture(payment, amount)

    def _is_above_claimed(self, step: Step) -> Refusal | None:
        """Rule 10: where nothing is asked for, a voucher over what is claimed already pays for nothing."""
        channel = self._writer.ledger.channel(step.channel_id)
        ceiling = step.voucher.max_claimable_amount
        if step.accepted or step.is_refund or channel is None or not ceiling == channel.charged == channel.claimed:
            return None
        return refuse(Why.VOUCHER_CLAIMED, ceiling, f"above {channel.claimed}")

    def _settled(self, step: Step, captured: Accepted | None) -> Settled:
        amount, charged = (captured.amount, captured.charged) if captured else (0, 0)
        state = self._snapshots.of(step.channel_id)
        extra = Settlement(state, amount, self._snapshots.charge_count(step.channel_id)).extra()
        return Settled(step.config.payer, amount, charged, extra=extra, moves=False)

    async def opened(self, step: Step) -> Refusal | None:
        """Make the channel known, if it has money; refuses one that a first deposit holds, or whose money leaves."""
        refusal = self._locks.refusal(step.channel_id, step.bound) or await unless_unavailable(
            self._under_way.refusal(step.escrow, step.config, step.channel_id, step.bound)
        )
        if refusal is not None:
            return refusal
        if self._writer.ledger.channel(step.channel_id) is not None:
            return None
        account = self._channels.account_of(step.escrow, step.config)
        if isinstance(account, Refusal):
            is_empty = account.reason is Reason.INSUFFICIENT_FUNDS  # rule 7: a channel without a balance is none
            return account._replace(code=BatchSettlementCode.CHANNEL_NOT_FOUND) if is_empty else account
        # It is opened only for a voucher of its payer's: its configuration is public, so anybody can name it.
        is_forged = await self._steps.is_signed(account, step.payment(self._new_id()))
        return is_forged or await self._channels.open(step.escrow, step.config)
