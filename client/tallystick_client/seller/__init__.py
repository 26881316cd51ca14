"""For sellers: a typed client of the aggregator, an ASGI paywall over it, and the flow for other integrations."""

from tallystick.charges import Charge, Charged, DeferredCharge
from tallystick.facilitator import Attempt, Kind, Limits, Settled, Supported, Verified
from tallystick.settlements import LeftOut, Payout, Settlement, SettlementStatus
from tallystick.tokens import Token
from tallystick_client.seller.client.aggregator import Aggregator
from tallystick_client.seller.client.messages import SettledNow
from tallystick_client.seller.client.stream import ChargeStream
from tallystick_client.seller.paywall.asgi import Paywall
from tallystick_client.seller.paywall.offers import make_offers, read_payment
from tallystick_client.seller.paywall.outgoing import ResponseRefusedError
from tallystick_client.seller.paywall.paid import PaidRequest
from tallystick_client.seller.paywall.payment_flow import PaymentFlow, PaymentFlows
from tallystick_client.seller.paywall.rules import PriceFunction, RequestInfo, Rule
from tallystick_client.seller.paywall.state import Unserved
from tallystick_client.seller.paywall.steps import RequestHead

__all__ = [
    "Aggregator",
    "Attempt",
    "Charge",
    "ChargeStream",
    "Charged",
    "DeferredCharge",
    "Kind",
    "LeftOut",
    "Limits",
    "PaidRequest",
    "PaymentFlow",
    "PaymentFlows",
    "Payout",
    "Paywall",
    "PriceFunction",
    "RequestHead",
    "RequestInfo",
    "ResponseRefusedError",
    "Rule",
    "Settled",
    "SettledNow",
    "Settlement",
    "SettlementStatus",
    "Supported",
    "Token",
    "Unserved",
    "Verified",
    "make_offers",
    "read_payment",
]
