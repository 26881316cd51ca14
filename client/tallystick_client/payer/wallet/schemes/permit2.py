"""Payments by Permit2, which `exact` and `upto` share: signed with the payer's own key, and what their answers mean.

The payer has approved Permit2 for the token, once (`tallystick wallet approve`). It has no chain, so whether it has
is learned from the seller's refusal, `permit2_allowance_required`. What is signed counts as spent for good: whoever
holds it can have it landed until its deadline.
"""

import os
from dataclasses import dataclass, replace
from typing import Final

from tallystick import eip712
from tallystick.payment_ids import new_payment_id
from tallystick.signatures import Signer
from tallystick.x402 import Permit2Authorization, permit2_payload
from tallystick_client.payer.policy.answers import Answer, is_refused, is_unfinished, read_receipt, told_charge
from tallystick_client.payer.policy.offers import Offer
from tallystick_client.payer.wallet.schemes.port import Order, Outcome, OutgoingPayment, Payer, payment_header

VALID_S_MIN: Final = 30
VALID_S_MAX: Final = 600
"""A payment is valid for as long as the seller asks for, within these."""
BACKDATED_S: Final = 600
"""How far the chain's clock may be behind ours."""
LATE_S: Final = 600.0
"""How long after its end a transfer may still show up as landed, and its page be had."""
PATIENCE_S_MIN: Final = 1.0


async def pay_by_permit2(
    payer: Payer, signer: Signer, offer: Offer, order: Order, *, spender: bytes, facilitator: bytes | None
) -> OutgoingPayment:
    """A signed payment of the offer's amount, or up to it, counted in all budgets before it is signed.

    Raises BudgetExceededError, and the wallet's other errors where it cannot be made.
    """
    await payer.spend(offer, order.host)
    now_s, terms = int(order.clock()), offer.terms
    unsigned = Permit2Authorization(
        from_=signer.address,
        to=terms.pay_to,
        token=terms.asset,
        permitted=terms.amount,
        value=terms.amount,
        spender=spender,
        valid_after=max(0, now_s - BACKDATED_S),
        deadline=now_s + min(max(offer.accepted.max_timeout_seconds, VALID_S_MIN), VALID_S_MAX),
        nonce=os.urandom(32),
        signature=b"",
        facilitator=facilitator,
    )
    digest = eip712.digest(eip712.permit2_domain(terms.network.chain_id), unsigned.struct_hash())
    signed = replace(unsigned, signature=signer.sign(digest))
    # Not of the process's counter: who knows it gets the page, and the transfer itself is public.
    id_ = new_payment_id(int(order.clock() * 1_000), os.urandom(10))
    header = payment_header(offer, permit2_payload(signed), id_)
    return _Proxied(offer, header, terms.amount, id_, signed.deadline + LATE_S, signed)


@dataclass(slots=True, eq=False)
class _Proxied(OutgoingPayment):
    signed: Permit2Authorization

    def patience_s(self, now_s: float) -> float:
        left_s = self.signed.deadline - now_s
        return max(PATIENCE_S_MIN, min(left_s, self.offer.accepted.max_timeout_seconds))

    def not_taken(self, *, was_sent: bool) -> bool:
        del was_sent
        return True

    def answered(self, answer: Answer) -> Outcome:
        receipt = read_receipt(answer)
        if receipt is None or not receipt.success:
            return Outcome(None, is_unfinished(answer) or is_refused(answer), receipt.transaction if receipt else "")
        return Outcome(told_charge(answer, self.amount), is_open=False, transaction=receipt.transaction)

    def is_void(self, answer: Answer, now_s: float) -> bool:
        return is_refused(answer) and now_s >= self.signed.deadline
