"""x402's verbs for `deferred`: verify reserves, settle captures or releases.

What may be charged is the ledger's to say; here the terms, the channel and the payment are brought together.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tallystick.charges import DeferredCharge
from tallystick.codec.facilitator import read_deferred, read_handle
from tallystick.facilitator import Kind, Settled, Verified
from tallystick.x402 import SCHEME_DEFERRED, PaymentTerms
from tallystick_aggregator.accounts.channels import Channels
from tallystick_aggregator.accounts.offers import (
    Offers,
    amount_is,
    config_meets_terms,
    find_offer,
    receiver_is,
    token_is,
)
from tallystick_aggregator.charging.batcher import PaymentBatcher
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger.answers import Held, Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.state import payment_of_handle
from tallystick_aggregator.schemes.port import NOBODY, Caller


class DeferredPayments:
    """The scheme. A reservation's handle is unguessable: who holds it may settle it."""

    name = SCHEME_DEFERRED
    is_settled_by_bearer = True
    verify_forms: Mapping[str, Callable[[Any], DeferredCharge]] = {"deferred": read_deferred}
    settle_forms: Mapping[str, Callable[[Any], bytes]] = {"handle": read_handle}

    def __init__(self, offers: Offers, channels: Channels, batcher: PaymentBatcher, writer: Writer) -> None:
        self._offers = offers
        self._channels = channels
        self._batcher = batcher
        self._writer = writer

    async def kinds(self) -> Sequence[Kind]:
        """Return every escrow."""
        return [
            Kind(
                self.name,
                offer.network,
                list(offer.tokens.values()),
                escrow=offer.escrow,
                escrow_name=offer.escrow_name,
                escrow_version=offer.escrow_version,
                operator=offer.operator,
                withdraw_delay_s=offer.withdraw_delay_s,
                withdraw_delay_s_min=offer.withdraw_delay_s_min,
                withdraw_delay_s_max=offer.withdraw_delay_s_max,
            )
            for offer in self._offers.values()
        ]

    def payer_of(self, payment: DeferredCharge) -> bytes:
        """Return the channel's payer."""
        return payment.config.payer

    async def verify(
        self, terms: PaymentTerms, channel_payment: DeferredCharge, caller: Caller = NOBODY
    ) -> Verified | Refusal:
        """Hold the payment's amount until it is settled; the channel is opened if it is not known yet.

        It is opened only once the payment is proven: an account's configuration is public, so anybody can name it.
        """
        del caller  # the payment id tells whose it is
        config, payment = channel_payment
        network = str(terms.network)
        offer = find_offer(self._offers, network)
        if isinstance(offer, Refusal):
            return offer
        refusal = config_meets_terms(terms, config) or amount_is(terms, payment.amount)
        if refusal is not None:
            return refusal
        escrow = self._channels.escrow_of(network, config, payment.channel_id)
        if isinstance(escrow, Refusal):
            return escrow
        if self._writer.ledger.channel(payment.channel_id) is None:
            account = self._channels.account_of(escrow, config)
            if isinstance(account, Refusal):
                return account
            refusal = await self._batcher.prove(account, payment) or await self._channels.open(escrow, config)
            if refusal is not None:
                return refusal
        answer = await self._batcher.reserve(payment)
        if isinstance(answer, Refusal):
            return answer
        if isinstance(answer, Held):
            return Verified(config.payer, answer.handle, answer.expires_at, answer.replayed)
        return Verified(config.payer, replayed=True)

    async def settle(self, terms: PaymentTerms, handle: bytes, caller: Caller = NOBODY) -> Settled | Refusal:
        """Capture `terms.amount` of a reservation, which may be less than was reserved."""
        del caller
        payer = self._payer_of_handle(terms, handle)
        if isinstance(payer, Refusal):
            return payer
        captured = await self._batcher.capture(handle, terms.amount)
        if isinstance(captured, Refusal):
            return captured
        return Settled(payer, captured.amount, captured.charged, replayed=captured.replayed)

    async def release(self, terms: PaymentTerms, handle: bytes, caller: Caller = NOBODY) -> Settled | Refusal:
        """Give all of a reservation back."""
        del caller
        payer = self._payer_of_handle(terms, handle)
        if isinstance(payer, Refusal):
            return payer
        released = await self._batcher.release(handle)
        return released if isinstance(released, Refusal) else Settled(payer, 0, replayed=released.replayed)

    def _payer_of_handle(self, terms: PaymentTerms, handle: bytes) -> bytes | Refusal:
        """Whose reservation it is; refuses one that is not on these terms."""
        channel = self._writer.ledger.channel(payment_of_handle(handle)[0])
        if channel is None:
            return refuse(Why.RESERVATION_UNKNOWN)
        account = self._writer.ledger.known_account(channel.account_id)
        refusal = (
            _network_is(terms, account.network)
            or receiver_is(terms, channel.receiver)
            or token_is(terms, account.config.token)
        )
        return refusal or account.config.payer


def _network_is(terms: PaymentTerms, network: str) -> Refusal | None:
    if str(terms.network) == network:
        return None
    return refuse(Why.NETWORK_OF_ANOTHER_RESERVATION, terms.network, network)
