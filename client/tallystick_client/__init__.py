"""Tallystick's client: a wallet and a transport for payers, a paywall and a typed client for sellers."""

from tallystick_client.payer.fleet.wallet import Wallet
from tallystick_client.payer.http.transport import PayingTransport
from tallystick_client.payer.policy.budgets import Budgets, DepositPolicy
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.seller import Aggregator, PaidRequest, Paywall, RequestInfo, Rule

__all__ = [
    "Aggregator",
    "Budgets",
    "DepositPolicy",
    "Operator",
    "PaidRequest",
    "PayingTransport",
    "Paywall",
    "RequestInfo",
    "Rule",
    "Wallet",
]
