"""Whether the payer's address holds what is about to be signed for, beyond what was signed before."""

import time
from collections.abc import Mapping
from typing import Final

from tallystick.channels import ChannelConfig
from tallystick.errors import TallystickError
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick_client.payer.errors import BalanceTooLowError
from tallystick_client.payer.policy.offers import Seller
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.texts import show
from tallystick_client.payer.wallet.accounts import AccountClient, Balance
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.store import Store

NO_SALT: Final = bytes(32)


class Balances:
    """What the payer's address holds, as far as an aggregator of the allow-list tells it."""

    def __init__(
        self, store: Store, signer: Signer, clients: Mapping[Operator, AccountClient], clock: Clock = time.time
    ) -> None:
        self._store = store
        self._signer = signer
        self._clients = clients
        self._clock = clock

    async def check(self, seller: Seller, amount: int, what: str, *, permit2: bool = False) -> Balance | None:
        """The balance, where the aggregator tells it; `what` has to be covered, `amount` atomic units.

        Where nobody tells it, nothing is refused: the seller's facilitator may be another one, which does answer.
        Raises BalanceTooLowError.
        """
        operator, token = seller.operator, seller.token
        try:
            balance = await self._clients[operator].balance(self.account(operator, token), permit2=permit2)
        except TallystickError:
            return None
        promised = self._store.book.promised(seller.asset, self._clock())
        if balance is None or balance.amount - promised >= amount:
            return balance
        there_is = show(max(0, balance.amount - promised), token.decimals, token.symbol)
        asked = show(amount, token.decimals, token.symbol)
        raise BalanceTooLowError(
            f"{what}: got {asked}, allowed at most {there_is}, which {checksum(self._signer.address)} holds on "
            f"{operator.network} beyond deposits and transfers under way; nothing was signed"
        )

    async def is_used(self, operator: Operator, token: Token, nonce: bytes, until: int) -> bool | None:
        """Whether an ERC-3009 authorization of the payer that was good `until` then has moved its tokens.

        None where the aggregator cannot tell. Raises what the call raises.
        """
        told = await self._clients[operator].balance(self.account(operator, token), [nonce])
        if told is None or told.unused is None:
            return None
        if nonce not in told.unused:
            return True
        return False if told.at >= until else None

    def account(self, operator: Operator, token: Token) -> ChannelConfig:
        """Whose balance is asked for: the payer's first account, which need not be there."""
        return operator.account(self._signer.address, token.address, NO_SALT)
