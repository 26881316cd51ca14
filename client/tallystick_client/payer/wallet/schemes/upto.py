"""`upto`: payments without a deposit for what a request turns out to cost, up to the offer's amount.

All of the amount counts as spent, whatever the seller says that it took: until the deadline it may take the rest.
"""

from tallystick.eip712 import UPTO_PERMIT2_PROXY_ADDRESS
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick.x402 import SCHEME_UPTO, PaymentRequirements, read_upto_terms
from tallystick_client.payer.policy.offers import Means, Offer, first_difference
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.wallet.schemes.permit2 import pay_by_permit2
from tallystick_client.payer.wallet.schemes.port import Order, OutgoingPayment, Payer


class UptoScheme:
    """See the module. The token is the allow-list's; who settles may be anybody: it can only pay the receiver."""

    name = SCHEME_UPTO
    is_paid_ahead = False
    charges_once = False
    takes_deposits = False
    advantage = ""

    def __init__(self, signer: Signer) -> None:
        """`signer` is the wallet's own, which holds the tokens."""
        self._signer = signer

    def problem(self, requirements: PaymentRequirements, field: str, operator: Operator, token: Token) -> str:
        """Why this is not the token of the allow-list."""
        del operator
        added = read_upto_terms(requirements.extra, f"{field}.extra")
        return first_difference(("name", added.name, token.name), ("version", added.version, token.version))

    def lack(self, means: Means, offer: Offer) -> str:
        """Leave to pay without a deposit."""
        del offer
        return "" if means.allows_exact else "this wallet pays from its deposit only"

    async def pay(self, payer: Payer, offer: Offer, order: Order) -> OutgoingPayment:
        """A signed maximum. Its payment id is always its own."""
        facilitator = read_upto_terms(offer.accepted.extra).facilitator
        proxy = UPTO_PERMIT2_PROXY_ADDRESS
        return await pay_by_permit2(payer, self._signer, offer, order, spender=proxy, facilitator=facilitator)
