"""The wallet that payers import: opened in this process, or served by another."""

from tallystick_client.payer.fleet.remote import RemoteWallet
from tallystick_client.payer.wallet.wallet import LocalWallet


class Wallet(LocalWallet):
    """A payer's wallet. `open` opens its book here; `connect` reaches one that another process serves
    (`tallystick wallet serve`), see `RemoteWallet.connect`.
    """

    connect = staticmethod(RemoteWallet.connect)
