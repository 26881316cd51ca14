"""What this aggregator accepts: escrows of networks, tokens, delays. Everything else is refused by name (threat 15)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tallystick.channels import WITHDRAW_DELAY_S_MAX, WITHDRAW_DELAY_S_MIN, ChannelConfig
from tallystick.hexadecimal import checksum, to_hex
from tallystick.tokens import Token
from tallystick.x402 import PaymentTerms
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.values import EscrowRef


@dataclass(frozen=True, slots=True)
class EscrowOffer:
    """One escrow: its network, its domain, the operator, the tokens by address, and the withdraw delays in seconds.

    `withdraw_delay_s` is what is proposed to payers that name none of their own.
    """

    network: str
    escrow: bytes
    escrow_name: str
    escrow_version: str
    operator: bytes
    tokens: Mapping[bytes, Token]
    withdraw_delay_s_min: int
    withdraw_delay_s_max: int
    withdraw_delay_s: int

    @property
    def ref(self) -> EscrowRef:
        """The escrow as the ledger names it."""
        return EscrowRef(self.network, self.escrow)


Offers = Mapping[EscrowRef, EscrowOffer]
"""By escrow; the first one of a network is meant where a caller names the network alone."""


def find_offer(offers: Offers, network: str, escrow: bytes = b"") -> EscrowOffer | Refusal:
    """Return the offer of an escrow, of the network's first one if `escrow` is empty, or the refusal of it."""
    of_network = [offer for ref, offer in offers.items() if ref.network == network]
    if not of_network:
        served = " or ".join(dict.fromkeys(ref.network for ref in offers))
        return refuse(Why.NETWORK_UNSUPPORTED, repr(network[:64]), served)
    for offer in of_network:
        if escrow in {b"", offer.escrow}:
            return offer
    served = " or ".join(checksum(offer.escrow) for offer in of_network)
    return refuse(Why.ESCROW_UNSUPPORTED, checksum(escrow), served, network=network)


def find_token(offer: EscrowOffer, token: bytes) -> Token | Refusal:
    known = offer.tokens.get(token)
    if known is None:
        return refuse(
            Why.TOKEN_UNSUPPORTED,
            checksum(token),
            " or ".join(checksum(address) for address in offer.tokens),
            network=offer.network,
        )
    return known


def config_is_served(offer: EscrowOffer, config: ChannelConfig) -> Refusal | None:
    """Check that a channel's or account's operator is ours, its token on the allow-list, its delay within limits."""
    if config.receiver_authorizer != offer.operator:
        return refuse(Why.OPERATOR_MISMATCH, checksum(config.receiver_authorizer), checksum(offer.operator))
    token = find_token(offer, config.token)
    if isinstance(token, Refusal):
        return token
    shortest, longest = offer.withdraw_delay_s_min, offer.withdraw_delay_s_max
    if not shortest <= config.withdraw_delay_s <= longest:
        return refuse(Why.WITHDRAW_DELAY, config.withdraw_delay_s, f"from {shortest} to {longest} seconds")
    return None


def for_any_server(offer: EscrowOffer, config: ChannelConfig) -> EscrowOffer:
    """The offer where a channel's own server answers for its receiverAuthorizer and delay, within the contract's."""
    return replace(
        offer,
        operator=config.receiver_authorizer,
        withdraw_delay_s_min=WITHDRAW_DELAY_S_MIN,
        withdraw_delay_s_max=WITHDRAW_DELAY_S_MAX,
    )


def config_meets_terms(terms: PaymentTerms, config: ChannelConfig) -> Refusal | None:
    """Check that the channel pays who the terms name, in the token that they name."""
    return receiver_is(terms, config.receiver) or token_is(terms, config.token)


def receiver_is(terms: PaymentTerms, receiver: bytes) -> Refusal | None:
    """Check that the payment goes to the terms' receiver."""
    if receiver == terms.pay_to:
        return None
    return refuse(Why.RECEIVER_MISMATCH, checksum(receiver), checksum(terms.pay_to))


def token_is(terms: PaymentTerms, token: bytes) -> Refusal | None:
    """Check that the payment is in the terms' token."""
    if token == terms.asset:
        return None
    return refuse(Why.TOKEN_MISMATCH, checksum(token), checksum(terms.asset))


def amount_is(terms: PaymentTerms, amount: int) -> Refusal | None:
    """Check that the payment is over the terms' amount."""
    if amount == terms.amount:
        return None
    return refuse(Why.AMOUNT_MISMATCH, amount, terms.amount)


def channel_id_mismatch(claimed: bytes, computed: bytes) -> Refusal:
    """Refuse a channel id that is not the hash of the config under the domain of an escrow of ours."""
    return refuse(Why.CHANNEL_ID_MISMATCH, to_hex(claimed), to_hex(computed))
