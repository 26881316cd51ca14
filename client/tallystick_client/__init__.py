"""Tallystick's client: a wallet and transports for payers, a paywall and a typed client for sellers.

Every name of `__all__` is imported when it is first used (PEP 562), so that a program loads gRPC, an HTTP library or a
database only for what it takes from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tallystick.errors import (
        InvalidSignatureError,
        KeyReferenceError,
        MalformedError,
        RefusedError,
        TallystickError,
    )
    from tallystick.signatures import Signer
    from tallystick_client.payer.errors import (
        ApprovalRefusedError,
        BalanceTooLowError,
        BodyNotReplayableError,
        BookUnavailableError,
        BudgetExceededError,
        ChainError,
        ChannelDisputedError,
        DepositNotAllowedError,
        InsecureOriginError,
        NoHeadroomError,
        OfferNotAllowedError,
        Permit2ApprovalError,
        WalletError,
    )
    from tallystick_client.payer.fleet.remote import RemoteWallet
    from tallystick_client.payer.fleet.wallet import Wallet
    from tallystick_client.payer.http.background import WalletThread
    from tallystick_client.payer.http.purchase import Purchase, Purchases
    from tallystick_client.payer.http.receipts import Receipt, payment_of
    from tallystick_client.payer.http.transport import PayingTransport, SyncPayingTransport
    from tallystick_client.payer.policy.budgets import Budgets, DepositPolicy
    from tallystick_client.payer.policy.operators import Operator
    from tallystick_client.rpc import AggregatorError, AggregatorUnavailableError, CallRejectedError
    from tallystick_client.seller.client.aggregator import Aggregator
    from tallystick_client.seller.paywall.asgi import Paywall
    from tallystick_client.seller.paywall.outgoing import ResponseRefusedError
    from tallystick_client.seller.paywall.paid import PaidRequest
    from tallystick_client.seller.paywall.payment_flow import PaymentFlow, PaymentFlows
    from tallystick_client.seller.paywall.rules import RequestInfo, Rule

__all__ = [
    "Aggregator",
    "AggregatorError",
    "AggregatorUnavailableError",
    "ApprovalRefusedError",
    "BalanceTooLowError",
    "BodyNotReplayableError",
    "BookUnavailableError",
    "BudgetExceededError",
    "Budgets",
    "CallRejectedError",
    "ChainError",
    "ChannelDisputedError",
    "DepositNotAllowedError",
    "DepositPolicy",
    "InsecureOriginError",
    "InvalidSignatureError",
    "KeyReferenceError",
    "MalformedError",
    "NoHeadroomError",
    "OfferNotAllowedError",
    "Operator",
    "PaidRequest",
    "PayingTransport",
    "PaymentFlow",
    "PaymentFlows",
    "Paywall",
    "Permit2ApprovalError",
    "Purchase",
    "Purchases",
    "Receipt",
    "RefusedError",
    "RemoteWallet",
    "RequestInfo",
    "ResponseRefusedError",
    "Rule",
    "Signer",
    "SyncPayingTransport",
    "TallystickError",
    "Wallet",
    "WalletError",
    "WalletThread",
    "payment_of",
]

_ROOMS: Final = {
    "tallystick.errors": (
        "InvalidSignatureError",
        "KeyReferenceError",
        "MalformedError",
        "RefusedError",
        "TallystickError",
    ),
    "tallystick.signatures": ("Signer",),
    "tallystick_client.payer.fleet.remote": ("RemoteWallet",),
    "tallystick_client.payer.fleet.wallet": ("Wallet",),
    "tallystick_client.payer.http.background": ("WalletThread",),
    "tallystick_client.payer.http.purchase": ("Purchase", "Purchases"),
    "tallystick_client.payer.http.receipts": ("Receipt", "payment_of"),
    "tallystick_client.payer.http.transport": ("PayingTransport", "SyncPayingTransport"),
    "tallystick_client.payer.policy.budgets": ("Budgets", "DepositPolicy"),
    "tallystick_client.payer.policy.operators": ("Operator",),
    "tallystick_client.rpc": ("AggregatorError", "AggregatorUnavailableError", "CallRejectedError"),
    "tallystick_client.seller.client.aggregator": ("Aggregator",),
    "tallystick_client.seller.paywall.paid": ("PaidRequest",),
    "tallystick_client.seller.paywall.payment_flow": ("PaymentFlow", "PaymentFlows"),
    "tallystick_client.seller.paywall.asgi": ("Paywall",),
    "tallystick_client.seller.paywall.outgoing": ("ResponseRefusedError",),
    "tallystick_client.seller.paywall.rules": ("RequestInfo", "Rule"),
}
_MODULES: Final = {name: module for module, names in _ROOMS.items() for name in names}
"""The module of each name; the payer's errors, the rest of `__all__`, share one."""


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES.get(name, "tallystick_client.payer.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
