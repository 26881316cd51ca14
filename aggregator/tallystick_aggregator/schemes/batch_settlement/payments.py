"""x402's verbs for `batch-settlement`: who manages the channel's vouchers, and what kind of payload it is.

A caller is the receiver, or its server: what a payload asks for is done for its own channels only (the token's
receivers), so nobody else empties a channel by a refund or settles for less.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tallystick.facilitator import Kind, Settled, Verified
from tallystick.quantities import PaymentId
from tallystick.x402 import PaymentTerms
from tallystick.x402.batch_settlement import (
    BatchSettlementPayload,
    BatchSettlementSupport,
    ClaimPayload,
    DepositPayload,
    RefundPayload,
    SettlePayload,
)
from tallystick.x402.terms import SCHEME_BATCH_SETTLEMENT, VOUCHER_MANAGER_FACILITATOR, BatchSettlementTerms
from tallystick_aggregator.accounts.channels import Channels
from tallystick_aggregator.accounts.deposits import Deposits
from tallystick_aggregator.accounts.offers import Offers
from tallystick_aggregator.accounts.refunds import Refunds
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.charging.steps import Steps
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.schemes.batch_settlement.deposits import ManagedDeposits
from tallystick_aggregator.schemes.batch_settlement.locks import Locks
from tallystick_aggregator.schemes.batch_settlement.port import ChannelChain
from tallystick_aggregator.schemes.batch_settlement.reason_codes import REASON_CODES
from tallystick_aggregator.schemes.batch_settlement.refunds import ManagedRefunds
from tallystick_aggregator.schemes.batch_settlement.requests import (
    ChannelPayload,
    Request,
    accepted_is,
    is_the_servers,
    meets_terms,
    payload_type,
    read_request,
    seller_terms,
)
from tallystick_aggregator.schemes.batch_settlement.snapshots import Snapshots
from tallystick_aggregator.schemes.batch_settlement.steps import Step
from tallystick_aggregator.schemes.batch_settlement.vouchers import ManagedVouchers
from tallystick_aggregator.schemes.port import NOBODY, PAYLOAD, Caller


@dataclass(frozen=True, slots=True)
class Ports:
    """What the scheme stands on. Chains and offers, and what is made over them, are of canonical escrows alone.

    `new_id` makes payment ids by the clock that the ledger goes by; `clock_s` is that clock, in seconds since the
    epoch. A channel that only memory can hold is held for `hold_s`.
    """

    chains: Mapping[EscrowRef, ChannelChain]
    offers: Offers
    channels: Channels
    deposits: Deposits
    refunds: Refunds
    steps: Steps
    writer: Writer
    new_id: Callable[[], PaymentId]
    clock_s: Callable[[], int]
    hold_s: int


class BatchSettlementPayments:
    """The scheme."""

    name = SCHEME_BATCH_SETTLEMENT
    is_settled_by_bearer = False
    reason_codes = REASON_CODES
    verify_forms: Mapping[str, Callable[[Any], Request]] = {PAYLOAD: read_request}
    settle_forms = verify_forms

    def __init__(self, ports: Ports) -> None:
        self._chains = ports.chains
        self._offers = ports.offers
        writer, steps, new_id = ports.writer, ports.steps, ports.new_id
        snapshots = Snapshots(ports.chains, ports.offers, writer)
        locks = Locks(ports.clock_s, ports.hold_s)
        self._vouchers = ManagedVouchers(ports.channels, steps, writer, snapshots, locks, new_id)
        self._refunds = ManagedRefunds(ports.chains, ports.refunds, self._vouchers, steps, writer, snapshots, new_id)
        self._deposits = ManagedDeposits(
            ports.chains, ports.deposits, self._vouchers, steps, locks, writer, snapshots, new_id
        )

    async def kinds(self) -> Sequence[Kind]:
        """Return every network on which the canonical contract is served."""
        return [
            Kind(
                self.name,
                offer.network,
                list(offer.tokens.values()),
                escrow=offer.escrow,
                escrow_name=offer.escrow_name,
                escrow_version=offer.escrow_version,
                operator=offer.operator,
                withdraw_delay_s=offer.withdraw_delay_s,
                withdraw_delay_s_min=offer.withdraw_delay_s_min,
                withdraw_delay_s_max=offer.withdraw_delay_s_max,
                extra=BatchSettlementSupport(
                    offer.operator,
                    offer.withdraw_delay_s,
                    delegated_refund=True,
                    managers=(VOUCHER_MANAGER_FACILITATOR,),
                ).extra(),
                signers=(self._chains[escrow].sender,),
            )
            for escrow, offer in self._offers.items()
        ]

    def payer_of(self, request: Request) -> bytes:
        """Return the channel's payer; of what a server asks for its own sake there is none."""
        payload = request.payload
        return b"" if isinstance(payload, ClaimPayload | SettlePayload) else payload.config.payer

    async def verify(self, terms: PaymentTerms, request: Request, caller: Caller = NOBODY) -> Verified | Refusal:
        """Check a payload of a payer's, and hold its channel where the facilitator manages it."""
        del caller
        payload, asked = request.payload, seller_terms(terms)
        if isinstance(payload, ClaimPayload | SettlePayload) or not asked.is_managed:
            return _not_here(payload)
        refusal = is_the_servers(payload) or accepted_is(terms, request.accepted)
        step = refusal or self._step(terms, asked, payload, request.accepted)
        if isinstance(step, Refusal):
            return step
        if isinstance(payload, DepositPayload):
            return await self._deposits.hold(step, payload)
        if isinstance(payload, RefundPayload):
            return await self._refunds.hold(step, payload)
        return await self._vouchers.hold(step)

    async def settle(self, terms: PaymentTerms, request: Request, caller: Caller = NOBODY) -> Settled | Refusal:
        """Charge what is held, or give it free; land deposits, claims and refunds."""
        payload, asked = request.payload, seller_terms(terms)
        if isinstance(payload, ClaimPayload | SettlePayload) or not asked.is_managed:
            return _not_here(payload)
        if payload.reservation.cancel:
            return await self.release(terms, request, caller)
        step = self._step(terms, asked, payload, request.accepted)
        if isinstance(step, Refusal):
            return step
        if isinstance(payload, DepositPayload):
            return await self._deposits.settle(step, payload, terms.amount, terms.max_timeout_s or None)
        if isinstance(payload, RefundPayload):
            return await self._refunds.settle(step, payload, asked.refund_authorizer)
        return await self._vouchers.charge(step, payload.reservation.pending_id, terms.amount)

    async def release(self, terms: PaymentTerms, request: Request, caller: Caller = NOBODY) -> Settled | Refusal:
        """Give a held channel free, as a payload with `cancel` does."""
        del caller
        payload, asked = request.payload, seller_terms(terms)
        if isinstance(payload, ClaimPayload | SettlePayload) or not asked.is_managed:
            return _not_here(payload)
        step = self._step(terms, asked, payload, request.accepted)
        if isinstance(step, Refusal):
            return step
        managed = self._deposits if isinstance(payload, DepositPayload) else self._vouchers
        return await managed.cancel(step, payload.reservation.pending_id)

    def _step(
        self, terms: PaymentTerms, asked: BatchSettlementTerms, payload: ChannelPayload, accepted: int
    ) -> Step | Refusal:
        refusal = meets_terms(terms, asked, payload.config)
        charged = 0 if isinstance(payload, RefundPayload) else accepted
        return refusal or self._vouchers.step_of(terms, payload, charged)


def _not_here(payload: BatchSettlementPayload) -> Refusal:
    """Refuse a payload that belongs to another call, or to another manager of vouchers."""
    return refuse(
        Why.WRONG_PAYLOAD_TYPE,
        payload_type(payload),
        "deposit, voucher or refund, where the facilitator manages vouchers",
    )
