"""For sellers: a typed client of the aggregator, and an ASGI paywall over it."""

from tallystick.charges import Charge, Charged, DeferredCharge
from tallystick.facilitator import Attempt, Kind, Limits, Settled, Supported, Verified
from tallystick.settlements import LeftOut, Payout, Settlement, SettlementStatus
from tallystick.tokens import Token
from tallystick_client.seller.client.aggregator import Aggregator
from tallystick_client.seller.client.messages import SettledNow
from tallystick_client.seller.client.stream import ChargeStream
from tallystick_client.seller.paywall.paid import PaidRequest
from tallystick_client.seller.paywall.paywall import Paywall
from tallystick_client.seller.paywall.rules import PriceFunction, RequestInfo, Rule
from tallystick_client.seller.paywall.unserved import Unserved

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
    "Token",
    "Unserved",
    "Verified",
]
