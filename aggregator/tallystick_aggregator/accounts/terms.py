"""What must fit together before a `deferred` payment or deposit is looked at closer. Each rule refuses or is silent."""

from tallystick.channels import ChannelConfig
from tallystick.hexadecimal import checksum, to_hex
from tallystick.reasons import Reason
from tallystick.x402 import PaymentTerms
from tallystick_aggregator.accounts.offers import EscrowOffer, find_token
from tallystick_aggregator.ledger.answers import Refusal


def config_is_served(offer: EscrowOffer, config: ChannelConfig) -> Refusal | None:
    """Check that a channel's or account's operator is ours, its token on the allow-list, its delay within limits."""
    if config.receiver_authorizer != offer.operator:
        return Refusal(
            Reason.OPERATOR_MISMATCH,
            "The channel names another operator as its receiverAuthorizer.",
            "config.receiver_authorizer",
            checksum(config.receiver_authorizer),
            checksum(offer.operator),
        )
    token = find_token(offer, config.token)
    if isinstance(token, Refusal):
        return token
    shortest, longest = offer.withdraw_delay_s_min, offer.withdraw_delay_s_max
    if not shortest <= config.withdraw_delay_s <= longest:
        return Refusal(
            Reason.WITHDRAW_DELAY_OUT_OF_RANGE,
            "The withdraw delay does not leave time to settle, or is too long.",
            "config.withdraw_delay_s",
            str(config.withdraw_delay_s),
            f"from {shortest} to {longest} seconds",
        )
    return None


def config_meets_terms(terms: PaymentTerms, config: ChannelConfig) -> Refusal | None:
    """Check that the channel pays who the terms name, in the token that they name."""
    return receiver_is(terms, config.receiver) or token_is(terms, config.token)


def receiver_is(terms: PaymentTerms, receiver: bytes) -> Refusal | None:
    """Check that the payment goes to the terms' receiver."""
    if receiver == terms.pay_to:
        return None
    return Refusal(
        Reason.RECEIVER_MISMATCH,
        "The payment goes to another receiver than the terms name.",
        "receiver",
        checksum(receiver),
        checksum(terms.pay_to),
    )


def token_is(terms: PaymentTerms, token: bytes) -> Refusal | None:
    """Check that the payment is in the terms' token."""
    if token == terms.asset:
        return None
    return Refusal(
        Reason.TOKEN_MISMATCH,
        "The payment is in another token than the terms name.",
        "token",
        checksum(token),
        checksum(terms.asset),
    )


def amount_is(terms: PaymentTerms, amount: int) -> Refusal | None:
    """Check that the payment is over the terms' amount."""
    if amount == terms.amount:
        return None
    return Refusal(
        Reason.AMOUNT_MISMATCH,
        "The payment is over another amount than the terms name.",
        "amount",
        str(amount),
        str(terms.amount),
    )


def channel_id_mismatch(claimed: bytes, computed: bytes) -> Refusal:
    """Refuse a channel id that is not the hash of the config under the domain of an escrow of ours."""
    return Refusal(
        Reason.CHANNEL_ID_MISMATCH,
        "The channel id is not the hash of the ChannelConfig under this escrow's domain.",
        "channel_id",
        to_hex(claimed),
        to_hex(computed),
    )
