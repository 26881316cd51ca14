"""`upto`: verified for the maximum that the payer signed, settled for that or less (scheme_upto_evm.md).

Everything else is as with exact's payments by Permit2: preconditions, whose a payment is, outbox and gas budget. What
was settled stands in the calldata of its transaction; settling again, for whatever amount, moves nothing more and is
answered with that.

Nothing used is settled without a transaction. The signature stays good on chain until its deadline, so the payment is
remembered as used up, in memory, and so is its identifier: a restart forgets both, and then its seller could settle it
as it could have before.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from tallystick.facilitator import Kind, Settled, Verified
from tallystick.hexadecimal import checksum
from tallystick.x402 import SCHEME_UPTO, PaymentTerms, Permit2Authorization, read_upto
from tallystick_aggregator.accounts.outcomes import unless_unavailable
from tallystick_aggregator.chain.port import Chain
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.exact.authorizations import is_signed_by_key
from tallystick_aggregator.schemes.exact.claims import Claim
from tallystick_aggregator.schemes.exact.payments import Case, TransferPayments
from tallystick_aggregator.schemes.exact.permit2 import permit2_kinds
from tallystick_aggregator.schemes.port import NOBODY, PAYLOAD, Caller
from tallystick_aggregator.schemes.upto.reason_codes import REASON_CODES
from tallystick_aggregator.store.port import OutboundTransaction

UNUSED_MAX: Final = 65_536
"""Payments that are remembered as settled for nothing; the oldest is forgotten first."""


class UptoPayments(TransferPayments[Permit2Authorization]):
    """The scheme. Give it the `claims` of `exact`: both move tokens by the same nonces of Permit2."""

    name = SCHEME_UPTO
    reason_codes = REASON_CODES
    verify_forms: Mapping[str, Callable[[Any], Permit2Authorization]] = {PAYLOAD: read_upto}
    _unused: dict[bytes, Claim]
    """By what Permit2 takes once: for whom it was settled for nothing."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """See TransferPayments."""
        super().__init__(*arguments, **settings)
        self._unused = {}

    async def verify(
        self, terms: PaymentTerms, payment: Permit2Authorization, caller: Caller = NOBODY
    ) -> Verified | Refusal:
        """Check that the maximum would settle now, and hold the payment for the caller's attempt, if it names one."""
        case = self._case(terms, payment, caller)
        if isinstance(case, Refusal):
            return case
        if case.slot in self._unused:
            return refuse(Why.PAYMENT_USED)
        return await super().verify(terms, payment, caller)

    async def settle(
        self, terms: PaymentTerms, payment: Permit2Authorization, caller: Caller = NOBODY
    ) -> Settled | Refusal:
        """Move `terms.amount`, at most what was signed; nothing is sent where it is 0."""
        if terms.amount > payment.permitted:
            return refuse(Why.UPTO_EXCEEDED, terms.amount, f"at most {payment.permitted}")
        payment = replace(payment, value=terms.amount)
        case = self._case(terms, payment, caller)
        if isinstance(case, Refusal):
            return case
        if case.slot in self._unused and (terms.amount or self._unused[case.slot] != case.mine):
            return refuse(Why.PAYMENT_USED)
        if terms.amount == 0:
            return await unless_unavailable(self._settle_nothing(case, payment, self._timeout_s(terms)))
        return await super().settle(terms, payment, caller)

    def _kinds_on(self, chain: Chain) -> list[Kind]:
        if not chain.permit2_tokens:
            return []
        (facilitator,) = {token.facilitator for token in chain.permit2_tokens.values()}
        extra = {"facilitatorAddress": checksum(facilitator)}
        return permit2_kinds(self.name, chain, self._offers[chain.escrow.ref].tokens, extra)

    def _moved(self, case: Case, sent: OutboundTransaction) -> int:
        return case.chain.permit2_tokens[case.token.address].moved(sent.data)

    async def _settle_nothing(self, case: Case, payment: Permit2Authorization, timeout_s: float) -> Settled | Refusal:
        is_running = case.slot in self._sending
        sent = await self._sent(case)
        if sent is not None or is_running or case.slot in self._sending:
            return await self._settle(case, timeout_s)  # more than nothing was settled before: that is the answer
        refusal = await self._named_otherwise(case)
        refusal = refusal or self._claims.conflict(case.slot, case.mine, None, None)
        if refusal is None and not is_signed_by_key(case.token, case.payment):
            whole = replace(case, payment=replace(payment, value=payment.permitted))
            found = await self._preconditions.would_settle(whole)
            refusal = found if isinstance(found, Refusal) else None
        if refusal is not None:
            return refusal
        replayed = not case.mine.attempt and case.slot in self._unused
        self._unused[case.slot] = case.mine
        if len(self._unused) > UNUSED_MAX:
            del self._unused[next(iter(self._unused))]
        self._claims.drop(case.slot, case.mine)
        self._claims.name(case.payment_id, case.slot)
        return Settled(case.payment.from_, 0, replayed=replayed)
