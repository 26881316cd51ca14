"""What this aggregator accepts: networks, escrows, tokens, delays. Everything else is refused by name (threat 15)."""

from collections.abc import Mapping
from dataclasses import dataclass

from tallystick.hexadecimal import checksum
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse


@dataclass(frozen=True, slots=True)
class TokenOffer:
    """A token that is accepted; `name` and `version` are its EIP-712 domain's, `min_deposit` is in atomic units."""

    address: bytes
    symbol: str
    decimals: int
    name: str
    version: str
    min_deposit: int


@dataclass(frozen=True, slots=True)
class NetworkOffer:
    """One network: its escrow's domain, the operator, the tokens by address, and the withdraw delays in seconds.

    `withdraw_delay_s` is what is proposed to payers that name none of their own.
    """

    network: str
    escrow: bytes
    escrow_name: str
    escrow_version: str
    operator: bytes
    tokens: Mapping[bytes, TokenOffer]
    withdraw_delay_s_min: int
    withdraw_delay_s_max: int
    withdraw_delay_s: int


Offers = Mapping[str, NetworkOffer]
"""By the network's CAIP-2 name."""


def find_network(offers: Offers, network: str) -> NetworkOffer | Refusal:
    """Return the offer for a network, or the refusal of it."""
    offer = offers.get(network)
    if offer is None:
        return refuse(Why.NETWORK_UNSUPPORTED, repr(network[:64]), " or ".join(offers))
    return offer


def find_token(offer: NetworkOffer, token: bytes) -> TokenOffer | Refusal:
    """Return the offer for a token, or the refusal of it."""
    known = offer.tokens.get(token)
    if known is None:
        return refuse(
            Why.TOKEN_UNSUPPORTED,
            checksum(token),
            " or ".join(checksum(address) for address in offer.tokens),
            network=offer.network,
        )
    return known
