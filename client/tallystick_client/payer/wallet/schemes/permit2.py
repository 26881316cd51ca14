"""Payments by Permit2, which `exact` and `upto` share: signed with the payer's own key, and what their answers mean.

The payer has approved Permit2 for the token, once (`tallystick wallet approve`), or signs an EIP-2612 permit for each
payment where the seller has it landed (eip2612_gas_sponsoring.md). A wallet has no chain: its aggregator tells what
Permit2 may move, and the nonce of the next permit. Where it does not tell, the seller's refusal does,
`permit2_allowance_required`. What is signed counts as spent for good: whoever holds it can have it landed until its
deadline.
"""

import os
from dataclasses import dataclass, replace
from typing import Final

from tallystick import eip712
from tallystick.eip712 import PERMIT2_ADDRESS
from tallystick.hexadecimal import checksum
from tallystick.payment_ids import new_payment_id
from tallystick.signatures import Signer
from tallystick.tokens import Permit2Approval
from tallystick.x402 import (
    EIP2612_GAS_SPONSORING,
    Permit2Authorization,
    TokenPermit,
    permit2_payload,
    permit_extension,
)
from tallystick_client.payer.errors import Permit2ApprovalError
from tallystick_client.payer.policy.answers import Answer, is_refused, is_unfinished, read_receipt, told_charge
from tallystick_client.payer.policy.offers import Offer
from tallystick_client.payer.texts import show
from tallystick_client.payer.wallet.permit_turns import PermitTurn
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

    Raises BudgetExceededError, BalanceTooLowError, Permit2ApprovalError, and the wallet's other errors where it cannot
    be made.
    """
    turn, nonce = await _permit_turn(payer, signer, offer, order)
    try:
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
            deadline=now_s + _valid_s(offer),
            nonce=os.urandom(32),
            signature=b"",
            facilitator=facilitator,
        )
        digest = eip712.digest(eip712.permit2_domain(terms.network.chain_id), unsigned.struct_hash())
        signed = replace(unsigned, signature=signer.sign(digest))
        added = None if nonce is None else permit_extension(_permit(signer, offer, nonce, signed.deadline))
    except BaseException:
        if turn is not None:
            turn.end()
        raise
    # Not of the process's counter: who knows it gets the page, and the transfer itself is public.
    id_ = new_payment_id(int(order.clock() * 1_000), os.urandom(10))
    header = payment_header(offer, permit2_payload(signed), id_, added)
    return _Proxied(offer, header, terms.amount, id_, signed.deadline + LATE_S, signed, turn)


async def _permit_turn(
    payer: Payer, signer: Signer, offer: Offer, order: Order
) -> tuple[PermitTurn, int] | tuple[None, None]:
    """The turn and nonce of the permit that the payment needs; None twice where it needs none, or nobody tells."""
    approval = await payer.permit2_approval(offer, order.host)
    if approval is None or approval.allowance >= offer.terms.amount:
        return None, None
    _nonce(approval, signer, offer)
    turn = await payer.permit_turns.take(offer.seller(order.host).asset, _valid_s(offer))
    try:
        approval = await payer.permit2_approval(offer, order.host)  # again: the turn before used up a nonce
        if approval is not None and approval.allowance < offer.terms.amount:
            return turn, _nonce(approval, signer, offer)
    except BaseException:
        turn.end()
        raise
    turn.end()
    return None, None


def _nonce(approval: Permit2Approval, signer: Signer, offer: Offer) -> int:
    """The nonce to sign a permit with. Raises Permit2ApprovalError where none would be landed."""
    token, amount = offer.token, offer.terms.amount
    if EIP2612_GAS_SPONSORING not in (offer.echo.extensions or {}):
        why = f"its seller does not offer to have a permit landed ({EIP2612_GAS_SPONSORING})"
    elif approval.permit_nonce is None:
        why = f"the aggregator lands no permits of {token.symbol}, and so tells no nonce to sign one with"
    else:
        return approval.permit_nonce
    may_move = show(approval.allowance, token.decimals, token.symbol)
    raise Permit2ApprovalError(
        f"payment by Permit2: got {show(amount, token.decimals, token.symbol)}, allowed at most {may_move}, which "
        f"{checksum(signer.address)} lets Permit2 move on {offer.operator.network}; nothing was signed: {why}. Approve "
        f"Permit2 once: tallystick wallet approve --rpc URL --token {token.symbol}"
    )


def _permit(signer: Signer, offer: Offer, nonce: int, deadline: int) -> TokenPermit:
    """A signed permit to Permit2 over the payment's amount: the proxy takes neither more nor less."""
    permit = TokenPermit(
        owner=signer.address,
        token=offer.terms.asset,
        spender=PERMIT2_ADDRESS,
        value=offer.terms.amount,
        nonce=nonce,
        deadline=deadline,
        signature=b"",
    )
    digest = eip712.digest(offer.token.domain(offer.terms.network.chain_id), permit.struct_hash())
    return replace(permit, signature=signer.sign(digest))


def _valid_s(offer: Offer) -> int:
    return min(max(offer.accepted.max_timeout_seconds, VALID_S_MIN), VALID_S_MAX)


@dataclass(slots=True, eq=False)
class _Proxied(OutgoingPayment):
    signed: Permit2Authorization
    turn: PermitTurn | None
    """Of the permit that came along. It stays taken while nobody knows whether that permit will be landed."""

    def patience_s(self, now_s: float) -> float:
        left_s = self.signed.deadline - now_s
        return max(PATIENCE_S_MIN, min(left_s, self.offer.accepted.max_timeout_seconds))

    def not_taken(self, *, was_sent: bool) -> bool:
        if not was_sent:
            self._end_turn()
        return True

    def answered(self, answer: Answer) -> Outcome:
        if not is_unfinished(answer):
            self._end_turn()
        receipt = read_receipt(answer)
        if receipt is None or not receipt.success:
            return Outcome(None, is_unfinished(answer) or is_refused(answer), receipt.transaction if receipt else "")
        return Outcome(told_charge(answer, self.amount), is_open=False, transaction=receipt.transaction)

    def is_void(self, answer: Answer, now_s: float) -> bool:
        return is_refused(answer) and now_s >= self.signed.deadline

    def _end_turn(self) -> None:
        if self.turn is not None:
            self.turn.end()
