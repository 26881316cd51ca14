"""What the programs here that use the official Python SDK have in common: routes, the facilitator's address, a payer.

A seller's page is named after what it takes: /exact, /permit2, /upto, /deferred, /server-managed and
/facilitator-managed, for one offer each.
"""

from typing import Any, Final

import httpx
from eth_account import Account
from x402 import x402Client, x402ClientSync
from x402.http import AuthHeaders, FacilitatorConfig, PaymentOption, RouteConfig
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.client.refund import RefundOptions, _RefundResponse
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.mechanisms.evm.upto import UptoEvmScheme
from x402.schemas import AssetAmount

SCHEMES: Final = {
    "exact": "exact",
    "permit2": "exact",
    "upto": "upto",
    "deferred": "deferred",
    "facilitator-managed": "batch-settlement",
    "server-managed": "batch-settlement",
}
"""A page's name, and its scheme's."""


class Bearer:
    """A seller's token, for the facilitator that gave it."""

    def __init__(self, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}"}

    def get_auth_headers(self) -> AuthHeaders:
        """The same for every call."""
        return AuthHeaders(verify=self._headers, settle=self._headers, supported=self._headers)


def facilitator(settings: dict[str, Any]) -> FacilitatorConfig:
    """Tallystick, as the SDK's own client asks it."""
    return FacilitatorConfig(url=settings["facilitator"], auth_provider=Bearer(settings["token"]))


def routes(settings: dict[str, Any], *, managed: bool) -> dict[str, RouteConfig]:
    """A page for each scheme, and one offer for each page.

    `managed`: those whose vouchers the facilitator manages, or all others. A server of the SDK's has one scheme of a
    name, so these have a server of their own.
    """
    pages = [page for page in settings["pages"] if (page == "facilitator-managed") == managed]
    return {f"GET /{page}": RouteConfig(accepts=offer(settings, page)) for page in pages}


def offer(settings: dict[str, Any], page: str) -> PaymentOption:
    """The price in a token that the SDK does not know: its address, and its EIP-712 domain."""
    extra = {"name": settings["name"], "version": settings["version"]}
    if page == "permit2":
        extra["assetTransferMethod"] = "permit2"
    price = AssetAmount(amount=settings["amount"], asset=settings["asset"], extra=extra)
    return PaymentOption(SCHEMES[page], settings["pay_to"], price, settings["network"])


def enable(client: x402Client | x402ClientSync, settings: dict[str, Any]) -> Any:
    """Let a client pay by the one scheme of this page, in a token that the SDK does not know; returns the scheme."""
    account, page = Account.from_key(settings["key"]), settings["page"]
    client.set_spend_controls({"allowed_assets": True})
    schemes = {"exact": ExactEvmScheme, "upto": UptoEvmScheme, "batch-settlement": BatchSettlementEvmScheme}
    scheme = schemes[SCHEMES[page]](account)
    client.register(settings["network"], scheme)
    if SCHEMES[page] == "exact":  # of a seller's two offers by this scheme, the one that is meant
        client.register_policy(
            lambda _, offers: [offer for offer in offers if is_permit2(offer) == (page == "permit2")]
        )
    return scheme


def refund(scheme: BatchSettlementEvmScheme, url: str) -> dict[str, Any]:
    """Ask for what is left in the channel that pays this page; what came is told as of a page."""
    paid = scheme.refund(url, RefundOptions(fetch=_patient))
    return {"status": 200, "body": "", "receipt": paid.model_dump(by_alias=True, mode="json")}


def _patient(url: str, headers: dict[str, str]) -> Any:
    """The SDK's own way to ask waits 5 s, which is less than a block may take."""
    response = httpx.get(url, headers=headers, timeout=60)
    return _RefundResponse(status=response.status_code, headers=dict(response.headers))


def is_permit2(offer: Any) -> bool:
    """Whether an offer is to be paid through Permit2."""
    return (offer.extra or {}).get("assetTransferMethod") == "permit2"
