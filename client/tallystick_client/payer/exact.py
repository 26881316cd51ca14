"""Payments without a deposit: one ERC-3009 transfer each, signed by the payer, sent by the seller's facilitator.

Whoever holds the authorization can use it until it expires, whatever the seller answered; so it counts as spent from
before it is signed.
"""

import os
import time
from typing import Final

from tallystick import eip712
from tallystick.signatures import Signer
from tallystick.x402 import ExactAuthorization
from tallystick_client.payer.grants import Clock
from tallystick_client.payer.rows import ExactPayment
from tallystick_client.payer.store import Store
from tallystick_client.payer.teller import Seller, Teller

VALID_S_MIN: Final = 30
VALID_S_MAX: Final = 600
"""An authorization is valid for as long as the seller asks for, within these."""
BACKDATED_S: Final = 600
"""How far the chain's clock may be behind ours; official clients date theirs back as far."""


class ExactPayer:
    """Signs transfers, within the budgets."""

    def __init__(self, store: Store, signer: Signer, teller: Teller, clock: Clock = time.time) -> None:
        self._store = store
        self._signer = signer
        self._teller = teller
        self._clock = clock

    async def pay(self, seller: Seller, amount: int, max_timeout_s: int) -> ExactAuthorization:
        """A signed transfer of `amount` atomic units, counted and on disk. Raises BudgetExceeded, BookUnavailable."""
        self._teller.check_request(seller, amount)
        self._teller.check_budgets(seller, amount)
        now_s = int(self._clock())
        valid_before = now_s + min(max(max_timeout_s, VALID_S_MIN), VALID_S_MAX)
        valid_after = now_s - BACKDATED_S
        nonce = os.urandom(32)
        payment = ExactPayment(nonce, seller.asset, seller.host, amount, valid_before)
        self._store.book.spend_exact(payment, self._teller.today())
        await self._store.commit()
        payer, pay_to = self._signer.address, seller.receiver
        struct_hash = eip712.hash_transfer_with_authorization(payer, pay_to, amount, valid_after, valid_before, nonce)
        signature = self._signer.sign(eip712.digest(seller.operator.token_domain(seller.token), struct_hash))
        return ExactAuthorization(payer, pay_to, amount, valid_after, valid_before, nonce, signature)
