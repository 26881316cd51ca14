"""Tallystick's client: a wallet and a transport for payers, a paywall and a typed client for sellers."""

from tallystick_client.payer.budgets import Budgets, DepositPolicy
from tallystick_client.payer.operators import Operator
from tallystick_client.payer.transport import PayingTransport
from tallystick_client.payer.wallet import Wallet
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
