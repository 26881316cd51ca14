"""For sellers: a typed client of the aggregator, and an ASGI paywall over it."""

from tallystick_client.seller.aggregator import Aggregator
from tallystick_client.seller.messages import (
    Asset,
    Attempt,
    Charge,
    Charged,
    DeferredCharge,
    Kind,
    Limits,
    Payout,
    Settled,
    Settlement,
    SettlementStatus,
    Supported,
    Verified,
)
from tallystick_client.seller.paid import PaidRequest
from tallystick_client.seller.paywall import Paywall
from tallystick_client.seller.rules import PriceFunction, RequestInfo, Rule
from tallystick_client.seller.stream import ChargeStream
from tallystick_client.seller.unserved import Unserved

__all__ = [
    "Aggregator",
    "Asset",
    "Attempt",
    "Charge",
    "ChargeStream",
    "Charged",
    "DeferredCharge",
    "Kind",
    "Limits",
    "PaidRequest",
    "Payout",
    "Paywall",
    "PriceFunction",
    "RequestInfo",
    "Rule",
    "Settled",
    "Settlement",
    "SettlementStatus",
    "Supported",
    "Unserved",
    "Verified",
]
