"""Payments without a deposit: one ERC-3009 transfer each, signed by the payer, sent by the seller's facilitator.

Whoever holds the authorization can use it until it expires, whatever the seller answered; so it counts as spent from
before it is signed. It is free again once it cannot land any more: a final block of the chain is past its end, and its
nonce is unused. The aggregator tells that; of a payment whose seller told of a transfer it is not asked.

No transfer is signed that the payer's balance does not cover, as far as an aggregator tells it: the seller would refuse
it, and somebody might land it later.
"""

import os
import time
from collections.abc import Mapping
from typing import Final

from tallystick import eip712
from tallystick.signatures import Signer
from tallystick.tokens import Permit2Approval, Token
from tallystick.x402 import ExactAuthorization
from tallystick_client.payer.policy.offers import Seller
from tallystick_client.payer.policy.operators import Asset, Operator
from tallystick_client.payer.wallet.accounts import NONCES_MAX, AccountClient
from tallystick_client.payer.wallet.allocator import Allocator
from tallystick_client.payer.wallet.balances import Balances
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.rows import ExactPayment
from tallystick_client.payer.wallet.store import Store

VALID_S_MIN: Final = 30
VALID_S_MAX: Final = 600
"""An authorization is valid for as long as the seller asks for, within these."""
BACKDATED_S: Final = 600
"""How far the chain's clock may be behind ours; official clients date theirs back as far."""


class ExactPayer:
    """Signs transfers, within the budgets."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        clients: Mapping[Operator, AccountClient],
        allocator: Allocator,
        balances: Balances,
        clock: Clock = time.time,
    ) -> None:
        self._balances = balances
        self._store = store
        self._signer = signer
        self._clients = clients
        self._allocator = allocator
        self._clock = clock

    async def pay(self, seller: Seller, amount: int, max_timeout_s: int) -> ExactAuthorization:
        """A signed transfer of `amount` atomic units, counted and on disk.

        Raises BudgetExceededError, BalanceTooLowError, BookUnavailableError.
        """
        self._allocator.check_request(seller, amount)
        self._allocator.check_budgets(seller, amount)
        await self._balances.check(seller, amount, "transfer")
        # Others may have spent meanwhile; nothing is awaited between this look at the budgets and the entry.
        self._allocator.check_budgets(seller, amount)
        now_s = int(self._clock())
        valid_before = now_s + min(max(max_timeout_s, VALID_S_MIN), VALID_S_MAX)
        valid_after = now_s - BACKDATED_S
        nonce = os.urandom(32)
        payment = ExactPayment(nonce, seller.asset, seller.host, amount, valid_before, self._allocator.today())
        self._store.book.spend_exact(payment)
        await self._store.commit()
        payer, pay_to = self._signer.address, seller.receiver
        struct_hash = eip712.hash_transfer_with_authorization(payer, pay_to, amount, valid_after, valid_before, nonce)
        signature = self._signer.sign(eip712.digest(seller.token.domain(seller.operator.network.chain_id), struct_hash))
        return ExactAuthorization(payer, pay_to, amount, valid_after, valid_before, nonce, signature)

    async def free_unlanded(self) -> int:
        """Give the budgets back what can no longer land; returns it in atomic units, of all tokens together.

        Raises AggregatorUnavailableError, and RefusedError where the aggregator cannot tell now.
        """
        freed = 0
        for operator, client in self._clients.items():
            for token in operator.tokens:
                freed += await self._free_unlanded(operator, client, token)
        await self._store.commit()
        return freed

    async def _free_unlanded(self, operator: Operator, client: AccountClient, token: Token) -> int:
        book, asset = self._store.book, Asset(str(operator.network), token.address)
        now_s = self._clock()
        due = [p for p in book.exact_payments.values() if p.asset == asset and p.valid_before <= now_s]
        freed = 0
        for first in range(0, len(due), NONCES_MAX):
            part = due[first : first + NONCES_MAX]
            told = await client.balance(self._balances.account(operator, token), [payment.nonce for payment in part])
            if told is None or told.unused is None:
                break  # of a version that does not tell: they stay spent
            for payment in part:
                if payment.nonce not in book.exact_payments:
                    continue
                if payment.nonce not in told.unused:
                    book.exact_is_spent(payment.nonce)
                elif told.at >= payment.valid_before:
                    book.free_exact(payment.nonce)
                    freed += payment.amount
        return freed

    async def permit2_approval(self, seller: Seller, amount: int) -> Permit2Approval | None:
        """How far Permit2 may move the seller's token for this payer; None where the aggregator does not tell.

        Raises BalanceTooLowError where the payer holds less than `amount` atomic units.
        """
        balance = await self._balances.check(seller, amount, "transfer", permit2=True)
        return None if balance is None else balance.permit2
