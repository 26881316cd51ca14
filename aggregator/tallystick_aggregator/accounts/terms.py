"""What must fit together before a `deferred` payment or deposit is looked at closer. Each rule refuses or is silent."""

from tallystick.channels import ChannelConfig
from tallystick.hexadecimal import checksum, to_hex
from tallystick.x402 import PaymentTerms
from tallystick_aggregator.accounts.offers import EscrowOffer, find_token
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse


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
