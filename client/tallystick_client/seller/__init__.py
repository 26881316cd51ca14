"""For sellers: a typed client of the aggregator, an ASGI paywall over it, and the flow for other integrations."""

from tallystick_client.seller.client.aggregator import Aggregator
from tallystick_client.seller.client.messages import (
    Asset,
    Attempt,
    Charge,
    Charged,
    DeferredCharge,
    Kind,
    LeftOut,
    Limits,
    Payout,
    Settled,
    SettledNow,
    Settlement,
    SettlementStatus,
    Supported,
    Verified,
)
from tallystick_client.seller.client.stream import ChargeStream
from tallystick_client.seller.paywall.asgi import Paywall, ResponseRefusedError
from tallystick_client.seller.paywall.offers import make_offers, read_payment
from tallystick_client.seller.paywall.paid import PaidRequest
from tallystick_client.seller.paywall.payment_flow import PaymentFlow, PaymentFlows
from tallystick_client.seller.paywall.rules import PriceFunction, RequestInfo, Rule
from tallystick_client.seller.paywall.state import Unserved
from tallystick_client.seller.paywall.steps import RequestHead

__all__ = [
    "Aggregator",
    "Asset",
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
    "Unserved",
    "Verified",
    "make_offers",
    "read_payment",
]
