"""The wallet that payers import: opened in this process, or served by another."""

from typing import Any

from tallystick_client.payer.fleet.remote import RemoteWallet
from tallystick_client.payer.wallet.wallet import LocalWallet


class Wallet(LocalWallet):
    """A payer's wallet. `open` opens its book here; `connect` reaches one that another process serves."""

    @staticmethod
    async def connect(target: str, **settings: Any) -> RemoteWallet:
        """A wallet that another process serves (`tallystick wallet serve`); see RemoteWallet.connect."""
        return await RemoteWallet.connect(target, **settings)
