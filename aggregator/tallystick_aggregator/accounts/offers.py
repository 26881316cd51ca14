"""What this aggregator accepts: networks, escrows, tokens, delays. Everything else is refused by name (threat 15)."""

from collections.abc import Mapping
from dataclasses import dataclass

from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick.tokens import Token
from tallystick_aggregator.ledger.answers import Refusal


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
    tokens: Mapping[bytes, Token]
    withdraw_delay_s_min: int
    withdraw_delay_s_max: int
    withdraw_delay_s: int


Offers = Mapping[str, NetworkOffer]
"""By the network's CAIP-2 name."""


def find_network(offers: Offers, network: str) -> NetworkOffer | Refusal:
    """Return the offer for a network, or the refusal of it."""
    offer = offers.get(network)
    if offer is None:
        return Refusal(
            Reason.NETWORK_UNSUPPORTED,
            "The aggregator does not serve this network.",
            "network",
            repr(network[:64]),
            " or ".join(offers),
        )
    return offer


def find_token(offer: NetworkOffer, token: bytes) -> Token | Refusal:
    """Return the offer for a token, or the refusal of it."""
    known = offer.tokens.get(token)
    if known is None:
        return Refusal(
            Reason.TOKEN_UNSUPPORTED,
            f"The aggregator does not take this token on {offer.network}.",
            "token",
            checksum(token),
            " or ".join(checksum(address) for address in offer.tokens),
        )
    return known
