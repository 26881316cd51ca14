"""What this aggregator accepts: escrows of networks, tokens, delays. Everything else is refused by name (threat 15)."""

from collections.abc import Mapping
from dataclasses import dataclass

from tallystick.hexadecimal import checksum
from tallystick.tokens import Token
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
