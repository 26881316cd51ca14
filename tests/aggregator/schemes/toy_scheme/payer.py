"""The payer's half: lines of a tab, each counted in the wallet's budgets before it leaves."""

from dataclasses import dataclass

from tallystick.hexadecimal import to_hex
from tallystick.payment_ids import new
from tallystick.tokens import Token
from tallystick.x402 import PaymentRequirements
from tallystick_client.payer.policy.offers import Means, Offer
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.wallet.schemes.port import KEPT_S, Order, OutgoingPayment, Payer, payment_header


@dataclass
class PayByTab:
    """Pays from a tab with a secret, up to what is left of it as far as the payer knows."""

    payer: bytes
    secret: str
    lines: int = 0
    name = "tab"
    is_paid_ahead = True
    charges_once = False
    takes_deposits = False
    advantage = ""

    def problem(self, requirements: PaymentRequirements, field: str, operator: Operator, token: Token) -> str:
        del field, operator, token
        return "" if "limit" in requirements.extra else "extra.limit: got nothing, allowed a limit"

    def lack(self, means: Means, offer: Offer) -> str:
        del means
        is_full = offer.terms.amount > int(offer.accepted.extra["limit"])
        return "the tab is too small" if is_full else ""

    async def pay(self, payer: Payer, offer: Offer, order: Order) -> OutgoingPayment:
        await payer.spend(offer, order.host)
        self.lines += 1
        id_, amount = new(), offer.terms.amount
        line = {"payer": to_hex(self.payer), "number": self.lines, "amount": amount, "secret": self.secret}
        return OutgoingPayment(offer, payment_header(offer, line, id_), amount, id_, order.clock() + KEPT_S)
