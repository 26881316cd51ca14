"""For sellers: a typed client of the aggregator, and an ASGI paywall over it."""

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
from tallystick_client.seller.paywall.asgi import Paywall
from tallystick_client.seller.paywall.paid import PaidRequest
from tallystick_client.seller.paywall.rules import PriceFunction, RequestInfo, Rule
from tallystick_client.seller.paywall.state import Unserved

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
    "Payout",
    "Paywall",
    "PriceFunction",
    "RequestInfo",
    "Rule",
    "Settled",
    "SettledNow",
    "Settlement",
    "SettlementStatus",
    "Supported",
    "Unserved",
    "Verified",
]
