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
    VoucherPayload,
)
from tallystick.x402.terms import SCHEME_BATCH_SETTLEMENT, BatchSettlementTerms
from tallystick_aggregator.accounts.channels import Channels
from tallystick_aggregator.accounts.deposits import Deposits
from tallystick_aggregator.accounts.offers import Offers, find_offer
from tallystick_aggregator.accounts.refunds import Refunds
from tallystick_aggregator.auth.limits import GasBudget
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
    is_managed,
    is_the_servers,
    meets_terms,
    payload_type,
    read_request,
    seller_terms,
    wait_s,
)
from tallystick_aggregator.schemes.batch_settlement.server_payments import OnChain, ServerPayments
from tallystick_aggregator.schemes.batch_settlement.server_transactions import ServerTransactions
from tallystick_aggregator.schemes.batch_settlement.snapshots import Snapshots
from tallystick_aggregator.schemes.batch_settlement.steps import Step
from tallystick_aggregator.schemes.batch_settlement.under_way import UnderWay
from tallystick_aggregator.schemes.batch_settlement.vouchers import ManagedVouchers
from tallystick_aggregator.schemes.port import NOBODY, PAYLOAD, Caller
from tallystick_aggregator.store.port import Outbox


@dataclass(frozen=True, slots=True)
class Ports:
    """What the scheme stands on. Chains and offers, and what is made over them, are of canonical escrows alone.

    `new_id` makes payment ids by the clock that the ledger goes by; `clock_s` is that clock, in seconds since the
    epoch. A channel that only memory can hold is held for `hold_s`. `server_deposits` are of channels whose vouchers
    the server manages: the ledger credits none of them.
    """

    chains: Mapping[EscrowRef, ChannelChain]
    offers: Offers
    channels: Channels
    deposits: Deposits
    server_deposits: Deposits
    refunds: Refunds
    steps: Steps
    outbox: Outbox
    budget: GasBudget
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
        on_chain = OnChain(ports.chains, ports.offers)
        under_way = UnderWay(ports.chains, ports.outbox, writer)
        self._server_payments = ServerPayments(on_chain, ports.server_deposits)
        self._server_transactions = ServerTransactions(on_chain, locks, under_way, writer, ports.outbox, ports.budget)
        self._vouchers = ManagedVouchers(ports.channels, steps, writer, snapshots, locks, under_way, new_id)
        self._refunds = ManagedRefunds(ports.chains, ports.refunds, self._vouchers, steps, writer, snapshots, new_id)
        self._deposits = ManagedDeposits(
            ports.chains, ports.deposits, self._vouchers, steps, locks, under_way, writer, snapshots, new_id
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
        payload = request.payload
        if isinstance(payload, ClaimPayload | SettlePayload):
            return _not_here(payload)
        asked = seller_terms(terms)
        if not asked.is_managed:
            step = is_the_servers(payload) or self._step(terms, asked, payload, terms.amount)
            return step if isinstance(step, Refusal) else await self._server_payments.verify(step, payload)
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
        payload = request.payload
        if isinstance(payload, ClaimPayload | SettlePayload) or not is_managed(terms):
            return await self._settle_for_server(terms, payload)
        asked = seller_terms(terms)
        if payload.reservation.cancel:
            return await self.release(terms, request, caller)
        step = self._step(terms, asked, payload, request.accepted)
        if isinstance(step, Refusal):
            return step
        if isinstance(payload, DepositPayload):
            return await self._deposits.settle(step, payload, terms.amount, wait_s(terms))
        if isinstance(payload, RefundPayload):
            return await self._refunds.settle(step, payload, asked.refund_authorizer)
        return await self._vouchers.charge(step, payload.reservation.pending_id, terms.amount)

    async def release(self, terms: PaymentTerms, request: Request, caller: Caller = NOBODY) -> Settled | Refusal:
        """Give a held channel free, as a payload with `cancel` does."""
        del caller
        payload = request.payload
        if isinstance(payload, ClaimPayload | SettlePayload) or not is_managed(terms):
            return _not_here(payload)
        asked = seller_terms(terms)
        step = self._step(terms, asked, payload, request.accepted)
        if isinstance(step, Refusal):
            return step
        managed = self._deposits if isinstance(payload, DepositPayload) else self._vouchers
        return await managed.cancel(step, payload.reservation.pending_id)

    async def _settle_for_server(self, terms: PaymentTerms, payload: BatchSettlementPayload) -> Settled | Refusal:
        """What a server that manages its vouchers has sent: deposits, claims, settles and refunds."""
        if isinstance(payload, ClaimPayload | SettlePayload):
            offer = find_offer(self._offers, str(terms.network))
            if isinstance(offer, Refusal):
                return offer
            if isinstance(payload, ClaimPayload):
                return await self._server_transactions.claim(offer.ref, terms, payload)
            return await self._server_transactions.settle(offer.ref, terms, payload)
        if isinstance(payload, VoucherPayload):
            return _not_here(payload)
        refusal = is_the_servers(payload)
        # A refund that a server starts by itself says nothing of its terms.
        asked = seller_terms(terms) if terms.extra or isinstance(payload, DepositPayload) else None
        step = refusal or self._step(terms, asked, payload, terms.amount)
        if isinstance(step, Refusal):
            return step
        if isinstance(payload, DepositPayload):
            return await self._server_payments.deposit(step, payload, wait_s(terms))
        return await self._server_transactions.refund(step.escrow, terms, payload)

    def _step(
        self, terms: PaymentTerms, asked: BatchSettlementTerms | None, payload: ChannelPayload, accepted: int
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
