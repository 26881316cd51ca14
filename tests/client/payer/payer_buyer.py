"""Who pays the fake seller from a wallet."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from payer_fakes import PRICE, FakeSeller

from tallystick.x402 import PaymentRequired
from tallystick_client import RemoteWallet, Wallet
from tallystick_client.payer.policy.offers import Offer
from tallystick_client.payer.wallet.grants import Payment

REQUEST = bytes([0x52] * 32)
OpenWallet = Callable[..., Awaitable[Wallet]]


class Buyer:
    """Pays at hosts of the fake seller, and has the payments charged."""

    def __init__(self, wallet: Wallet | RemoteWallet, seller: FakeSeller) -> None:
        self.wallet = wallet
        self.seller = seller

    def offer(self, host: str = "a.example", amount: int = PRICE) -> Offer:
        return self.wallet.choose(PaymentRequired(accepts=[self.seller.offer("deferred", host, amount)]))

    async def pay(self, host: str = "a.example", amount: int = PRICE) -> Payment:
        return await self.wallet.grants.pay(self.offer(host, amount), host, REQUEST)

    def charge(self, payment: Payment) -> int:
        return self.seller.aggregator.charge(payment.proof, payment.amount, REQUEST)

    async def buy(self, host: str = "a.example", amount: int = PRICE) -> Payment:
        payment = await self.pay(host, amount)
        payment.settle(self.charge(payment))
        return payment


async def account_of(wallet: Wallet) -> Any:
    (account,) = (await wallet.status()).accounts
    return account


class CrashError(Exception):
    """The wallet's process is gone at this moment."""


async def die(wallet: Wallet) -> None:
    """Go without a word: what is not on disk is gone."""
    for task in wallet._tasks:
        task.cancel()
    await asyncio.gather(*wallet._tasks, return_exceptions=True)
    await wallet._allocator.finish()
    await wallet._store._connection.close()
    wallet._is_closed = True
    for client in wallet._clients.values():
        await client.close()
