"""Refunds of channels whose vouchers the facilitator manages ("Cooperative refund flow").

A voucher that charges nothing asks for one and holds the channel, as any voucher does. What is charged and not claimed
is claimed in the refund's transaction. The receiver's token is the server's consent; where the server names a key for
refunds, that key's signature is asked for too.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256

from tallystick import eip712
from tallystick.errors import InvalidSignatureError
from tallystick.facilitator import Settled, Verified
from tallystick.quantities import PaymentId
from tallystick.reasons import Reason
from tallystick.signatures import recover
from tallystick.x402.batch_settlement import BatchSettlementCode as Code
from tallystick.x402.batch_settlement import RefundPayload, Settlement, VoucherClaim
from tallystick_aggregator.accounts.outcomes import unless_unavailable
from tallystick_aggregator.accounts.refunds import Refunds
from tallystick_aggregator.chain.contradictions import read_account
from tallystick_aggregator.chain.port import Call
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.charging.steps import Steps
from tallystick_aggregator.ledger.accounts import attest_charges
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.state import Account, Channel, PendingRefund
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.schemes.batch_settlement.port import ChannelChain
from tallystick_aggregator.schemes.batch_settlement.snapshots import Snapshots
from tallystick_aggregator.schemes.batch_settlement.steps import Step, read_pending_id
from tallystick_aggregator.schemes.batch_settlement.vouchers import ManagedVouchers

_CODES: Mapping[Reason, str] = {
    Reason.PAYLOAD_INVALID: Code.REFUND_AMOUNT_INVALID,
    Reason.REFUND_EXCEEDS_AVAILABLE: Code.REFUND_NO_BALANCE,
    Reason.REFUND_PENDING: Code.CHANNEL_BUSY,
    Reason.SIMULATION_FAILED: Code.REFUND_SIMULATION_FAILED,
}


class ManagedRefunds:
    """Holds channels for refunds, and makes them."""

    def __init__(
        self,
        chains: Mapping[EscrowRef, ChannelChain],
        refunds: Refunds,
        vouchers: ManagedVouchers,
        steps: Steps,
        writer: Writer,
        snapshots: Snapshots,
        new_id: Callable[[], PaymentId],
    ) -> None:
        self._chains = chains
        self._refunds = refunds
        self._vouchers = vouchers
        self._steps = steps
        self._writer = writer
        self._snapshots = snapshots
        self._new_id = new_id

    async def hold(self, step: Step, payload: RefundPayload) -> Verified | Refusal:
        """Hold the channel for a refund, if there is something to give back."""
        refusal = _amount_is(payload) or await self._vouchers.opened(step) or self._has_money(step)
        return refusal or await self._vouchers.hold(step)

    async def settle(self, step: Step, payload: RefundPayload, refund_authorizer: bytes | None) -> Settled | Refusal:
        """Claim what is charged and give back what was asked for, or all; then the channel is free.

        The same pendingId again gets the same answer. `refund_authorizer`: whose signature the server asks for.
        """
        return await unless_unavailable(self._settle(step, payload, refund_authorizer))

    async def _settle(self, step: Step, payload: RefundPayload, refund_authorizer: bytes | None) -> Settled | Refusal:
        pending_id = payload.reservation.pending_id
        payment_id = self._new_id() if pending_id is None else read_pending_id(pending_id)
        if isinstance(payment_id, Refusal):
            return payment_id
        lock, amount = step.lock(payment_id), payload.amount or 0
        refund_id = sha256(b"refund of a channel" + step.bound + payment_id + amount.to_bytes(16, "big")).digest()
        if await self._refunds.is_begun(step.channel_id, refund_id):
            return await self._given_back(step, refund_id, 0)
        refusal = _amount_is(payload) or await self._vouchers.opened(step) or self._has_money(step)
        if refusal is not None:
            return refusal
        # A hold of /verify's goes on; else the channel is held anew, so that nothing is charged meanwhile.
        anew = step.lock(self._new_id())
        held = await self._steps.hold_again(anew, None if pending_id is None else lock)
        if isinstance(held, Refusal):
            return self._vouchers.corrected(step, held)
        try:
            refusal = await self._consents(step, payload, refund_authorizer)
            return refusal or await self._given_back(step, refund_id, self._at_most(step, amount))
        finally:
            await self._steps.release(lock if held.replayed else anew)

    async def _given_back(self, step: Step, refund_id: bytes, amount: int) -> Settled | Refusal:
        done = await self._refunds.give_back(step.channel_id, refund_id, amount)
        if isinstance(done, Refusal):
            return done._replace(code=done.code or _CODES.get(done.reason, ""))
        await self._snapshots.refresh(step.channel_id)
        count = self._snapshots.charge_count(step.channel_id)
        extra = Settlement(self._snapshots.of(step.channel_id), charge_count=count).extra()
        return Settled(step.config.payer, done.amount, 0, done.transaction, extra=extra)

    def _has_money(self, step: Step) -> Refusal | None:
        available = self._writer.ledger.known_account(step.channel_id).available
        if available:
            return None
        return refuse(Why.REFUND_TOO_LARGE, "nothing left", "more than 0")._replace(code=Code.REFUND_NO_BALANCE)

    def _at_most(self, step: Step, amount: int) -> int:
        """The contract gives back what there is, if that is less than was asked for; 0 asks for all."""
        available = self._writer.ledger.known_account(step.channel_id).available
        return 0 if amount >= available else amount

    async def _consents(self, step: Step, payload: RefundPayload, authorizer: bytes | None) -> Refusal | None:
        """Check the signature over this very refund by the key that the server named for refunds, if it named one."""
        if authorizer is None:
            return None
        chain, channel_id = self._chains[step.escrow], step.channel_id
        on_chain = await read_account(chain.escrow, channel_id, await chain.head())
        ledger = self._writer.ledger
        rest = ledger.known_account(channel_id).funds - ledger.known_channel(channel_id).charged
        amount = payload.amount or rest
        digest = eip712.digest(chain.escrow.domain, eip712.hash_refund(channel_id, on_chain.refund_nonce, amount))
        signature = payload.refund_authorizer_signature
        try:
            good = signature is not None and recover(digest, signature) == authorizer
        except InvalidSignatureError:
            good = False
        what = f"of {amount} under the nonce {on_chain.refund_nonce}"
        return None if good else refuse(Why.REFUND_NOT_AUTHORIZED, what=what)


class RefundCalls:
    """The transactions of journaled refunds: what is charged and not claimed is claimed first, in the same one."""

    def __init__(self, chains: Mapping[EscrowRef, ChannelChain], writer: Writer) -> None:
        self._chains = chains
        self._writer = writer

    async def __call__(self, account: Account, refund: PendingRefund) -> Call:
        """Return the call; a channel whose money left before its claim is refunded alone.

        What its claim attests is noted before: as with other claims, see `claims.claiming`.
        """
        channel = self._writer.ledger.channel(account.id)
        claims: list[VoucherClaim] = []
        counts: list[int] = []
        if channel is not None and channel.claimed < channel.charged <= account.funds and channel.signature:
            claims = [VoucherClaim(account.config, channel.ceiling, channel.signature, channel.charged)]
            counts = [await self._attested(channel)]
        escrow = self._chains[account.escrow].escrow
        return escrow.claim_and_refund_call(claims, account.config, refund.amount, refund.nonce, counts)

    async def _attested(self, channel: Channel) -> int:
        """Note what the claim attests. Claims up to less are taken to be under way; of two up to the same total only
        one takes effect, so that both attest alike.
        """
        total, earlier = channel.charged, [attested.total for attested in channel.attesting]
        before = max((known for known in earlier if known < total), default=channel.claimed)
        charges = channel.to_attest(before)
        if charges:
            await self._writer.run(
                lambda draft, _ledger, _moment: attest_charges(draft, channel.id, total, before, charges)
            )
        return charges


def _amount_is(payload: RefundPayload) -> Refusal | None:
    if payload.amount != 0:
        return None
    return refuse(Why.REFUND_OF_NOTHING, 0, "more than 0, or no amount for all")
