"""Payloads of channels whose vouchers the server manages: verified against the chain alone, and nothing is kept.

The server holds the channel, counts what it charged and has the vouchers. Here is checked what only the chain can tell
("Verification Rules" 6 to 10), and a deposit is landed. The receiverAuthorizer may be anybody's.
"""

from collections.abc import Mapping

from tallystick.errors import InvalidSignatureError
from tallystick.facilitator import Settled, Verified
from tallystick.vouchers import check_voucher
from tallystick.x402.batch_settlement import BatchSettlementCode as Code
from tallystick.x402.batch_settlement import ChannelState, DepositPayload, RefundPayload, Settlement
from tallystick_aggregator.accounts.deposits import Deposits
from tallystick_aggregator.accounts.fundings import Funding
from tallystick_aggregator.accounts.offers import Offers
from tallystick_aggregator.accounts.outcomes import unless_unavailable
from tallystick_aggregator.chain.port import Block
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.schemes.batch_settlement.fundings import Permit2Funding, funding_of
from tallystick_aggregator.schemes.batch_settlement.port import ChannelChain
from tallystick_aggregator.schemes.batch_settlement.reason_codes import of_deposit
from tallystick_aggregator.schemes.batch_settlement.requests import ChannelPayload
from tallystick_aggregator.schemes.batch_settlement.steps import Step


class OnChain:
    """Channels as the contract holds them."""

    def __init__(self, chains: Mapping[EscrowRef, ChannelChain], offers: Offers) -> None:
        self.chains = chains
        self._offers = offers

    async def state(self, escrow: EscrowRef, channel_id: bytes, block: Block) -> ChannelState:
        """A channel after this block. Raises ChainUnavailableError."""
        binding = self.chains[escrow].escrow
        (held,) = await binding.accounts([channel_id], block)
        (claimed,) = await binding.claimed([channel_id], block)
        # The contract does not tell a channel's delay: the binding takes the shortest that is served.
        requested_at = max(0, held.withdrawable_at - self._offers[escrow].withdraw_delay_s_min)
        return ChannelState(channel_id, held.balance + claimed, claimed, requested_at, held.refund_nonce)


class ServerPayments:
    """Verifies what payers send, and lands their deposits."""

    def __init__(self, on_chain: OnChain, deposits: Deposits) -> None:
        """`deposits` takes any receiverAuthorizer's channels."""
        self._on_chain = on_chain
        self._deposits = deposits

    async def verify(self, step: Step, payload: ChannelPayload) -> Verified | Refusal:
        """Check the voucher, what the channel holds, and that a deposit would land."""
        refusal = self._is_signed(step)
        if refusal is not None:
            return refusal
        coming = 0
        if isinstance(payload, DepositPayload):
            funding = self._funding(step, payload)
            if isinstance(funding, Refusal):
                return funding
            refusal = await self._deposits.check(funding)
            if refusal is not None:
                return _coded(refusal, funding)
            coming = payload.amount
        elif isinstance(payload, RefundPayload) and payload.amount == 0:
            return refuse(Why.REFUND_OF_NOTHING, 0, "more than 0, or no amount for all")
        return await unless_unavailable(self._covered(step, coming))

    async def deposit(self, step: Step, payload: DepositPayload, timeout_s: float | None) -> Settled | Refusal:
        """Land the deposit; the answer comes when it is final. The same payload again gets the same answer."""
        funding = self._is_signed(step) or self._funding(step, payload)
        if isinstance(funding, Refusal):
            return funding
        landed = await self._deposits.land(funding, timeout_s)
        if isinstance(landed, Refusal):
            return _coded(landed, funding)

        async def told() -> Settled:
            head = await self._on_chain.chains[step.escrow].head()
            state = await self._on_chain.state(step.escrow, step.channel_id, head)
            extra = Settlement(state).extra()
            return Settled(step.config.payer, payload.amount, 0, landed.transaction, extra=extra)

        return await unless_unavailable(told())

    async def _covered(self, step: Step, coming: int) -> Verified | Refusal:
        """Rules 7, 9 and 10; `coming` is what a deposit brings."""
        state = await self._on_chain.state(
            step.escrow, step.channel_id, await self._on_chain.chains[step.escrow].head()
        )
        ceiling, claimed, most = step.voucher.max_claimable_amount, state.total_claimed, state.balance + coming
        if not most:
            return refuse(Why.CHANNEL_UNKNOWN)._replace(code=Code.CHANNEL_NOT_FOUND)
        if ceiling > most:
            return refuse(Why.FUNDS_TOO_LOW, ceiling, f"at most {most}", field="payload.voucher.maxClaimableAmount")
        least = claimed if step.is_refund else claimed + max(1, step.accepted)
        if ceiling < least:
            return refuse(Why.VOUCHER_CLAIMED, ceiling, f"at least {least}")
        return Verified(step.config.payer, extra=state.extra())

    def _is_signed(self, step: Step) -> Refusal | None:
        try:
            check_voucher(self._on_chain.chains[step.escrow].escrow.domain, step.voucher, step.config.payer_authorizer)
        except InvalidSignatureError:
            return refuse(Why.VOUCHER_SIGNATURE)
        return None

    def _funding(self, step: Step, payload: DepositPayload) -> Funding | Refusal:
        funding = funding_of(self._on_chain.chains[step.escrow], payload)
        if isinstance(funding, Refusal):
            return of_deposit(funding, by_permit2=True, is_proven=True)
        return funding


def _coded(refusal: Refusal, funding: Funding) -> Refusal:
    by_permit2 = isinstance(funding, Permit2Funding)
    return of_deposit(refusal, by_permit2=by_permit2, is_proven=funding.why_unproven() is None)
