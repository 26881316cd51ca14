"""x402's verbs for `batch-settlement`: who manages the channel's vouchers, and what kind of payload it is.

A caller is the receiver, or its server: what a payload asks for is done for its own channels only (the token's
receivers), so nobody else empties a channel by a refund or settles for less.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tallystick.facilitator import Kind, Settled, Verified
from tallystick.x402 import PaymentTerms
from tallystick.x402.batch_settlement import BatchSettlementSupport, ClaimPayload, SettlePayload, VoucherPayload
from tallystick.x402.terms import SCHEME_BATCH_SETTLEMENT
from tallystick_aggregator.accounts.offers import Offers
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.batch_settlement.reason_codes import REASON_CODES
from tallystick_aggregator.schemes.batch_settlement.requests import (
    ChannelPayload,
    Request,
    accepted_is,
    is_the_servers,
    meets_terms,
    read_request,
    seller_terms,
)
from tallystick_aggregator.schemes.batch_settlement.vouchers import ManagedVouchers, Step
from tallystick_aggregator.schemes.port import NOBODY, PAYLOAD, Caller


class BatchSettlementPayments:
    """The scheme."""

    name = SCHEME_BATCH_SETTLEMENT
    is_settled_by_bearer = False
    reason_codes = REASON_CODES
    verify_forms: Mapping[str, Callable[[Any], Request]] = {PAYLOAD: read_request}
    settle_forms = verify_forms

    def __init__(self, offers: Offers, vouchers: ManagedVouchers) -> None:
        self._offers = offers
        self._vouchers = vouchers

    async def kinds(self) -> Sequence[Kind]:
        """Return every network on which the canonical contract is served."""
        return [
            Kind(
                self.name,
                offer.network,
                list(offer.tokens.values()),
                extra=BatchSettlementSupport(offer.operator, offer.withdraw_delay_s, delegated_refund=True).extra(),
            )
            for offer in self._offers.values()
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
            return refuse(Why.WRONG_PAYLOAD_TYPE, "claim or settle", "deposit, voucher or refund")
        step = is_the_servers(payload) or accepted_is(terms, request.accepted) or self._step(terms, payload, request)
        if isinstance(step, Refusal):
            return step
        if isinstance(payload, VoucherPayload):
            return await self._vouchers.hold(step)
        raise NotImplementedError

    async def settle(self, terms: PaymentTerms, request: Request, caller: Caller = NOBODY) -> Settled | Refusal:
        """Charge what is held, or give it free; land deposits, claims and refunds."""
        del caller
        payload = request.payload
        if isinstance(payload, VoucherPayload):
            step = self._step(terms, payload, request)
            if isinstance(step, Refusal):
                return step
            pending_id = payload.reservation.pending_id or ""
            if payload.reservation.cancel:
                return await self._vouchers.cancel(step, pending_id)
            return await self._vouchers.charge(step, pending_id, terms.amount)
        raise NotImplementedError

    async def release(self, terms: PaymentTerms, request: Request, caller: Caller = NOBODY) -> Settled | Refusal:
        """Give a held channel free, as a payload with `cancel` does."""
        del caller
        payload = request.payload
        if isinstance(payload, ClaimPayload | SettlePayload):
            return refuse(Why.WRONG_PAYLOAD_TYPE, "claim or settle", "deposit, voucher or refund")
        step = self._step(terms, payload, request)
        if isinstance(step, Refusal):
            return step
        return await self._vouchers.cancel(step, payload.reservation.pending_id or "")

    def _step(self, terms: PaymentTerms, payload: ChannelPayload, request: Request) -> Step | Refusal:
        refusal = meets_terms(terms, seller_terms(terms), payload.config)
        return refusal or self._vouchers.step_of(terms, payload, request.accepted)
