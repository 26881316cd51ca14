"""`deferred`: payments from the wallet's deposit, out of the grants that it holds.

Where the seller offers it, the hash of the request is blinded (`tallystick.requests`): the seller's aggregator then
cannot find out which page was bought. The blind follows from the payment id and a secret of this process. So a second
payment under the same id is bound to the same hash, and both together are charged once; to everybody else it is random.
"""

import hmac
import os
from dataclasses import dataclass

from tallystick import payment_ids
from tallystick.hexadecimal import checksum, to_hex
from tallystick.reasons import Reason
from tallystick.requests import BLIND_BYTES, blinded_hash
from tallystick.tokens import Token
from tallystick.x402 import SCHEME_DEFERRED, PaymentRequirements, deferred_payload, read_deferred_terms
from tallystick.x402.terms import VOUCHER_MANAGER, VOUCHER_MANAGER_FACILITATOR
from tallystick_client.payer.policy.answers import Answer, is_unfinished, told_charge
from tallystick_client.payer.policy.offers import Means, Offer, first_difference
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.wallet.grants import Payment
from tallystick_client.payer.wallet.recovery import REGISTER_AGAIN
from tallystick_client.payer.wallet.schemes.port import KEPT_S, Order, Outcome, OutgoingPayment, Payer, payment_header


class DeferredScheme:
    """See the module. The escrow and its terms are the allow-list's, to the letter."""

    name = SCHEME_DEFERRED
    is_paid_ahead = True
    charges_once = True
    takes_deposits = True
    advantage = "one deposit pays every seller of the operator, and requests need not wait for each other"

    def __init__(self, secret: bytes | None = None) -> None:
        """`secret`: 32 bytes that blinds are made from; new for each process unless it is given."""
        self._secret = secret or os.urandom(32)

    def problem(self, requirements: PaymentRequirements, field: str, operator: Operator, token: Token) -> str:
        """Why this is not the escrow, operator or delay of the allow-list."""
        del token
        added, domain = read_deferred_terms(requirements.extra, f"{field}.extra"), operator.domain
        return first_difference(
            ("escrow", checksum(added.escrow), checksum(operator.escrow)),
            ("receiverAuthorizer", checksum(added.receiver_authorizer), checksum(operator.operator)),
            ("withdrawDelay", added.withdraw_delay_s, operator.withdraw_delay_s),
            ("name", added.name, domain.name),
            ("version", added.version, domain.version),
            (VOUCHER_MANAGER, added.voucher_manager, VOUCHER_MANAGER_FACILITATOR),
        )

    def lack(self, means: Means, offer: Offer) -> str:
        """A deposit."""
        has_deposit = means.can_defer(offer.operator, offer.token)
        return "" if has_deposit else "there is no deposit to pay from, and no policy to make one"

    async def pay(self, payer: Payer, offer: Offer, order: Order) -> OutgoingPayment:
        """A payment out of a grant."""
        id_, request_hash, blind = order.payment_id or payment_ids.new(), order.request_hash, b""
        if offer.accepted.extra.get("blinding") is True:
            blind = hmac.digest(self._secret, id_, "sha256")[:BLIND_BYTES]
            request_hash = blinded_hash(request_hash, blind)
        payment = await payer.grants.pay(offer, order.host, request_hash, id_)
        payload = deferred_payload(payment.proof)
        if blind:
            payload["blind"] = to_hex(blind)
        header = payment_header(offer, payload, id_)
        return _FromDeposit(offer, header, payment.amount, id_, order.clock() + KEPT_S, payment)


@dataclass(slots=True, eq=False)
class _FromDeposit(OutgoingPayment):
    payment: Payment

    def not_taken(self, *, was_sent: bool) -> bool:
        if not self.payment.ended:
            if was_sent:
                self.payment.deny()
            else:
                self.payment.release()
        return False

    def lost(self) -> None:
        if not self.payment.ended:
            self.payment.lose()

    def answered(self, answer: Answer) -> Outcome:
        charged = told_charge(answer, self.amount)
        if self.payment.ended:
            if charged is not None:
                self.payment.found_charged(charged)
        elif charged is None:
            self.payment.lose()
        else:
            self.payment.settle(charged)
        return Outcome(charged, is_unfinished(answer))

    async def recover(self, payer: Payer, reason: Reason, host: str) -> bool:
        spend = self.payment.proof.spend
        return await payer.recover_from(self.offer, reason, host, spend.key_id if spend is not None else b"")

    def recovers_again(self, reason: Reason) -> bool:
        # A served wallet revokes keys while its workers pay under them.
        return reason in REGISTER_AGAIN
