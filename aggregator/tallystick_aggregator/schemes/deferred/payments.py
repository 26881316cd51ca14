"""x402's verbs for `deferred`: verify reserves, settle captures or releases.

What may be charged is the ledger's to say; here the terms, the channel and the payment are brought together.
"""

from dataclasses import dataclass

from tallystick.channels import ChannelConfig
from tallystick.reasons import Reason
from tallystick.x402 import PaymentTerms
from tallystick_aggregator.accounts.channels import Channels
from tallystick_aggregator.accounts.offers import Offers, find_network
from tallystick_aggregator.accounts.terms import (
    amount_is,
    channel_id_is,
    config_meets_terms,
    receiver_is,
    token_is,
)
from tallystick_aggregator.charging.batcher import PaymentBatcher
from tallystick_aggregator.charging.payments import UncheckedPayment
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger.answers import Held, Refusal
from tallystick_aggregator.ledger.state import payment_of_handle


@dataclass(frozen=True, slots=True)
class Verified:
    """A payment that will settle. `replayed`: it was seen before, and pays for what it paid for then only.

    A replayed one carries no handle; `handle` and `expires_at` name the reservation otherwise.
    """

    payer: bytes
    handle: bytes = b""
    expires_at: int = 0
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """A payment that was settled. `charged` is the channel's total (`deferred`), `transaction` a hash (`exact`)."""

    payer: bytes
    amount: int
    charged: int = 0
    transaction: bytes = b""
    replayed: bool = False


class DeferredPayments:
    """Verify and settle. The caller has checked that the principal may charge for `terms.pay_to`."""

    def __init__(self, offers: Offers, channels: Channels, batcher: PaymentBatcher, writer: Writer) -> None:
        self._offers = offers
        self._channels = channels
        self._batcher = batcher
        self._writer = writer

    async def verify(self, terms: PaymentTerms, config: ChannelConfig, payment: UncheckedPayment) -> Verified | Refusal:
        """Hold the payment's amount until it is settled; the channel is opened if it is not known yet.

        It is opened only once the payment is proven: an account's configuration is public, so anybody can name it.
        """
        network = str(terms.network)
        offer = find_network(self._offers, network)
        if isinstance(offer, Refusal):
            return offer
        refusal = (
            config_meets_terms(terms, config)
            or amount_is(terms, payment.amount)
            or channel_id_is(payment.channel_id, self._channels.id_of(network, config))
        )
        if refusal is None and self._writer.ledger.channel(payment.channel_id) is None:
            account = self._channels.account_of(network, config)
            if isinstance(account, Refusal):
                return account
            refusal = await self._batcher.prove(account, payment) or await self._channels.open(network, config)
        if refusal is not None:
            return refusal
        answer = await self._batcher.reserve(payment)
        if isinstance(answer, Refusal):
            return answer
        if isinstance(answer, Held):
            return Verified(config.payer, answer.handle, answer.expires_at, answer.replayed)
        return Verified(config.payer, replayed=True)

    async def settle(self, terms: PaymentTerms, handle: bytes, *, release: bool) -> Settled | Refusal:
        """Capture `terms.amount` of a reservation, or give all of it back."""
        channel = self._writer.ledger.channel(payment_of_handle(handle)[0])
        if channel is None:
            return Refusal(Reason.RESERVATION_UNKNOWN, "No reservation has this handle.", "handle")
        account = self._writer.ledger.known_account(channel.account_id)
        refusal = (
            _network_is(terms, account.network)
            or receiver_is(terms, channel.receiver)
            or token_is(terms, account.config.token)
        )
        if refusal is not None:
            return refusal
        payer = account.config.payer
        if release:
            released = await self._batcher.release(handle)
            return released if isinstance(released, Refusal) else Settled(payer, 0, replayed=released.replayed)
        captured = await self._batcher.capture(handle, terms.amount)
        if isinstance(captured, Refusal):
            return captured
        return Settled(payer, captured.amount, captured.charged, replayed=captured.replayed)


def _network_is(terms: PaymentTerms, network: str) -> Refusal | None:
    if str(terms.network) == network:
        return None
    return Refusal(
        Reason.NETWORK_UNSUPPORTED,
        "The reservation is on another network than the terms name.",
        "network",
        str(terms.network),
        network,
    )
