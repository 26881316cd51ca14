"""x402's verbs for `deferred`: verify reserves, settle captures or releases.

What may be charged is the ledger's to say; here the terms, the channel and the payment are brought together.

A payment comes typed, and is settled by the handle that verify returned; or as x402's JSON, sent to both (`payloads`).
The second kind is verified once: its seller does not see a repetition, and would serve a second page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tallystick.channels import ChannelConfig
from tallystick.charges import Charge, DeferredCharge
from tallystick.codec.facilitator import read_deferred, read_handle
from tallystick.facilitator import Kind, Settled, Verified
from tallystick.x402 import PAYMENT_IDENTIFIER, SCHEME_DEFERRED, DeferredTerms, PaymentTerms
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
from tallystick_aggregator.ledger.answers import Accepted, Held, Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.state import payment_of_handle
from tallystick_aggregator.schemes.deferred.payloads import (
    ForwardedPayment,
    read_payload,
    settle_extra,
    verify_extra,
)
from tallystick_aggregator.schemes.port import NOBODY, PAYLOAD, Caller


class DeferredPayments:
    """The scheme. A reservation's handle is unguessable: who holds it may settle it."""

    name = SCHEME_DEFERRED
    is_settled_by_bearer = True
    verify_forms: Mapping[str, Callable[[Any], DeferredCharge | ForwardedPayment]] = {
        "deferred": read_deferred,
        PAYLOAD: read_payload,
    }
    settle_forms: Mapping[str, Callable[[Any], bytes | ForwardedPayment]] = {
        "handle": read_handle,
        PAYLOAD: read_payload,
    }

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
                extra=DeferredTerms(
                    offer.escrow, offer.operator, offer.withdraw_delay_s, offer.escrow_name, offer.escrow_version
                ).extra(),
                extensions=(PAYMENT_IDENTIFIER,),
            )
            for offer in self._offers.values()
        ]

    def payer_of(self, payment: DeferredCharge | ForwardedPayment) -> bytes:
        """Return the channel's payer."""
        return payment.config.payer

    async def verify(
        self, terms: PaymentTerms, channel_payment: DeferredCharge | ForwardedPayment, caller: Caller = NOBODY
    ) -> Verified | Refusal:
        """Hold the payment's amount until it is settled; the channel is opened if it is not known yet.

        It is opened only once the payment is proven: an account's configuration is public, so anybody can name it.
        """
        del caller  # the payment id tells whose it is
        config, payment = channel_payment
        held = await self._hold(terms, config, payment)
        if isinstance(held, Refusal):
            return held
        if isinstance(channel_payment, ForwardedPayment):
            if isinstance(held, Accepted):
                return refuse(Why.PAYMENT_USED)
            if held.replayed:
                return refuse(Why.PAYMENT_VERIFIED_BEFORE)
            channel = self._writer.ledger.channel(payment.channel_id)
            assert channel is not None, "a reservation has a channel"
            return Verified(config.payer, held.handle, held.expires_at, extra=verify_extra(channel))
        if isinstance(held, Held):
            return Verified(config.payer, held.handle, held.expires_at, held.replayed)
        return Verified(config.payer, replayed=True)

    async def _hold(self, terms: PaymentTerms, config: ChannelConfig, payment: Charge) -> Held | Accepted | Refusal:
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
        return await self._batcher.reserve(payment)

    async def settle(
        self, terms: PaymentTerms, handle: bytes | ForwardedPayment, caller: Caller = NOBODY
    ) -> Settled | Refusal:
        """Capture `terms.amount` of a reservation, which may be less than was reserved.

        A payment that was not verified before is now, then captured.
        """
        del caller
        if isinstance(handle, ForwardedPayment):
            return await self._settle_payment(terms, handle)
        payer = self._payer_of_handle(terms, handle)
        if isinstance(payer, Refusal):
            return payer
        captured = await self._batcher.capture(handle, terms.amount)
        if isinstance(captured, Refusal):
            return captured
        return Settled(payer, captured.amount, captured.charged, replayed=captured.replayed)

    async def _settle_payment(self, terms: PaymentTerms, forwarded: ForwardedPayment) -> Settled | Refusal:
        config, payment = forwarded
        refusal = self._payment_meets_terms(terms, forwarded)
        if refusal is not None:
            return refusal
        captured = await self._batcher.capture_payment(payment, terms.amount)
        if captured is None:
            held = await self._hold(replace(terms, amount=payment.amount), config, payment)
            if isinstance(held, Refusal):
                return held
            captured = await self._batcher.capture_payment(payment, terms.amount)
            assert captured is not None, "what is held is known"
        if isinstance(captured, Refusal):
            return captured
        amount, charged = captured.amount, captured.charged
        extra = settle_extra(payment.channel_id, amount, charged)
        return Settled(config.payer, amount, charged, replayed=captured.replayed, extra=extra)

    async def release(
        self, terms: PaymentTerms, handle: bytes | ForwardedPayment, caller: Caller = NOBODY
    ) -> Settled | Refusal:
        """Give all of a reservation back."""
        del caller
        if isinstance(handle, ForwardedPayment):
            return await self._release_payment(terms, handle)
        payer = self._payer_of_handle(terms, handle)
        if isinstance(payer, Refusal):
            return payer
        released = await self._batcher.release(handle)
        return released if isinstance(released, Refusal) else Settled(payer, 0, replayed=released.replayed)

    async def _release_payment(self, terms: PaymentTerms, forwarded: ForwardedPayment) -> Settled | Refusal:
        config, payment = forwarded
        refusal = self._payment_meets_terms(terms, forwarded)
        if refusal is not None:
            return refusal
        released = await self._batcher.release_payment(payment)
        if released is None:
            return refuse(Why.RESERVATION_UNKNOWN)
        if isinstance(released, Refusal):
            return released
        return Settled(config.payer, 0, replayed=released.replayed, extra={"chargedAmount": "0"})

    def _payment_meets_terms(self, terms: PaymentTerms, forwarded: ForwardedPayment) -> Refusal | None:
        """Check receiver, token and channel, as verify does, and that no more is taken than the payer accepted."""
        config, payment = forwarded
        refusal = config_meets_terms(terms, config)
        if refusal is not None:
            return refusal
        escrow = self._channels.escrow_of(str(terms.network), config, payment.channel_id)
        if isinstance(escrow, Refusal):
            return escrow
        if terms.amount > payment.amount:
            return refuse(Why.CAPTURE_ABOVE_RESERVED, terms.amount, f"at most {payment.amount}")
        return None

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
