"""The wallet of a buyer that pays by deferred, or that is Tallystick's own."""

from typing import Any

from tallystick_client import Budgets, DepositPolicy, Operator, Wallet


async def open_wallet(settings: dict[str, Any]) -> Wallet:
    """A book of its own, and money for some pages; it deposits only to pay by deferred."""
    return await Wallet.open(
        settings["book"],
        key=f"file:{settings['key_file']}",
        operators=[Operator.load(settings["operator"])],
        budgets=Budgets(per_request="0.01", per_day="1"),
        deposit=DepositPolicy(low="0", high="0.5") if settings["page"] == "deferred" else None,
    )
