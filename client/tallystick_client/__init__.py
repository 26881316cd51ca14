"""Tallystick's client: a wallet and a transport for payers, a paywall and a typed client for sellers."""

from tallystick_client.seller import Aggregator, PaidRequest, Paywall, RequestInfo, Rule

__all__ = [
    "Aggregator",
    "PaidRequest",
    "Paywall",
    "RequestInfo",
    "Rule",
]
