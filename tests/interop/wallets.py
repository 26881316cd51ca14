"""The wallet of a buyer that pays by deferred, or that is Tallystick's own."""

from collections.abc import Sequence
from typing import Any

from tallystick.keys import load_signer
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick.x402 import ASSET_TRANSFER_METHOD, ASSET_TRANSFER_PERMIT2, PaymentRequirements
from tallystick_client import Budgets, DepositPolicy, Operator, Wallet
from tallystick_client.payer.wallet.schemes.batch_settlement import BatchSettlementScheme
from tallystick_client.payer.wallet.schemes.exact import ExactScheme
from tallystick_client.payer.wallet.schemes.port import Scheme
from tallystick_client.payer.wallet.schemes.standard import STANDARD_SCHEMES
from tallystick_client.payer.wallet.schemes.upto import UptoScheme


class ExactByPermit2(ExactScheme):
    """Of a seller's two offers by exact it takes the one by Permit2."""

    def problem(self, requirements: PaymentRequirements, field: str, operator: Operator, token: Token) -> str:
        """As exact's, and for every other way to move the token."""
        if requirements.extra.get(ASSET_TRANSFER_METHOD) != ASSET_TRANSFER_PERMIT2:
            return f"extra.{ASSET_TRANSFER_METHOD}: allowed {ASSET_TRANSFER_PERMIT2}"
        return super().problem(requirements, field, operator, token)


def schemes(page: str, signer: Signer) -> Sequence[Scheme]:
    """What the wallet pays this page by."""
    if page == "permit2":
        return [ExactByPermit2(permit2=signer)]
    if page.endswith("-managed"):
        return [BatchSettlementScheme(any_authorizer=page == "server-managed")]
    return [UptoScheme(signer)] if page == "upto" else STANDARD_SCHEMES


async def open_wallet(settings: dict[str, Any]) -> Wallet:
    """A book of its own, and money for some pages; it deposits only to pay by deferred."""
    signer = load_signer(f"file:{settings['key_file']}", "key_file")
    return await Wallet.open(
        settings["book"],
        key=signer,
        operators=[Operator.load(settings["operator"])],
        budgets=Budgets(per_request="0.01", per_day="1"),
        deposit=DepositPolicy(low="0", high="0.5") if settings["page"] not in {"exact", "permit2", "upto"} else None,
        schemes=schemes(settings["page"], signer),
    )
