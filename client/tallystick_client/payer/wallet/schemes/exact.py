"""`exact`: payments without a deposit, a transfer of its own each.

Never paid ahead: a payment that was not needed would be a transfer. Whoever holds one that was refused can have it
landed until it expires; so the next try of the request sends that one, and no second.
"""

import os
from dataclasses import dataclass
from typing import Final

from tallystick.eip712 import EXACT_PERMIT2_PROXY_ADDRESS
from tallystick.payment_ids import new_payment_id
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick.x402 import SCHEME_EXACT, ExactAuthorization, PaymentRequirements, exact_payload, read_exact_terms
from tallystick.x402.terms import ASSET_TRANSFER_EIP3009, ASSET_TRANSFER_PERMIT2
from tallystick_client.payer.policy.answers import Answer, is_refused, is_unfinished, read_receipt, told_charge
from tallystick_client.payer.policy.offers import Means, Offer, first_difference
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.wallet.schemes.permit2 import pay_by_permit2
from tallystick_client.payer.wallet.schemes.port import Order, Outcome, OutgoingPayment, Payer, payment_header

LATE_S: Final = 600.0
"""How long after its end a transfer may still show up as landed, and its page be had."""
PATIENCE_S_MIN: Final = 1.0


class ExactScheme:
    """See the module. The token and its EIP-712 domain are the allow-list's, to the letter."""

    name = SCHEME_EXACT
    is_paid_ahead = False
    charges_once = False
    takes_deposits = False
    advantage = ""

    def __init__(self, permit2: Signer | None = None) -> None:
        """`permit2`: the wallet's own key, to pay offers by Permit2 too; without it they are not taken."""
        self._permit2 = permit2

    def problem(self, requirements: PaymentRequirements, field: str, operator: Operator, token: Token) -> str:
        """Why this is not the token of the allow-list, or another way to move it."""
        del operator
        added = read_exact_terms(requirements.extra, f"{field}.extra")
        return first_difference(
            ("name", added.name, token.name),
            ("version", added.version, token.version),
            ("assetTransferMethod", added.asset_transfer_method, self._method(added.asset_transfer_method)),
        )

    def lack(self, means: Means, offer: Offer) -> str:
        """Leave to pay so."""
        del offer
        return "" if means.allows_exact else "this wallet does not pay by exact"

    async def pay(self, payer: Payer, offer: Offer, order: Order) -> OutgoingPayment:
        """A signed transfer. Its payment id is always its own."""
        method = read_exact_terms(offer.accepted.extra).asset_transfer_method
        if self._permit2 is not None and method == ASSET_TRANSFER_PERMIT2:
            proxy = EXACT_PERMIT2_PROXY_ADDRESS
            return await pay_by_permit2(payer, self._permit2, offer, order, spender=proxy, facilitator=None)
        signed = await payer.pay_exact(offer, order.host)
        # Not of the process's counter: who knows it gets the page, and the transfer itself is public.
        id_ = new_payment_id(int(order.clock() * 1_000), os.urandom(10))
        header = payment_header(offer, exact_payload(signed), id_)
        return _Transfer(offer, header, signed.value, id_, signed.valid_before + LATE_S, payer, signed)

    def _method(self, offered: str) -> str:
        takes_offered = self._permit2 is not None and offered == ASSET_TRANSFER_PERMIT2
        return ASSET_TRANSFER_PERMIT2 if takes_offered else ASSET_TRANSFER_EIP3009


@dataclass(slots=True, eq=False)
class _Transfer(OutgoingPayment):
    payer: Payer
    signed: ExactAuthorization

    def patience_s(self, now_s: float) -> float:
        left_s = self.signed.valid_before - now_s
        return max(PATIENCE_S_MIN, min(left_s, self.offer.accepted.max_timeout_seconds))

    def answered(self, answer: Answer) -> Outcome:
        receipt = read_receipt(answer)
        if receipt is None or not receipt.success:
            transaction = receipt.transaction if receipt is not None else ""
            return Outcome(None, is_unfinished(answer) or is_refused(answer), transaction)
        if not receipt.transaction:
            return Outcome(told_charge(answer, self.amount), is_refused(answer))
        self.payer.note_exact(self.signed.nonce)
        return Outcome(self.amount, is_open=False, transaction=receipt.transaction)

    def is_void(self, answer: Answer, now_s: float) -> bool:
        return is_refused(answer) and now_s >= self.signed.valid_before
