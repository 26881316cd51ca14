"""What a caller asks for, and whether it fits what the seller asks for. Nothing of the chain or the ledger is read."""

from typing import Final, NamedTuple

from tallystick.channels import ChannelConfig
from tallystick.hexadecimal import checksum
from tallystick.x402 import PaymentPayload, PaymentTerms, read_terms
from tallystick.x402.batch_settlement import (
    BatchSettlementPayload,
    ClaimPayload,
    DepositPayload,
    RefundPayload,
    SettlePayload,
    VoucherPayload,
    packed_refund_authorizer,
    read_batch_settlement,
)
from tallystick.x402.terms import (
    VOUCHER_MANAGER,
    VOUCHER_MANAGER_FACILITATOR,
    BatchSettlementTerms,
    read_batch_settlement_terms,
)
from tallystick_aggregator.accounts.offers import amount_is, config_meets_terms
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.batch_settlement.steps import REFUND

ChannelPayload = DepositPayload | VoucherPayload | RefundPayload
"""What payers write: it names a channel, and has a voucher of it."""


WAIT_S_MAX: Final = 600
"""For how long settle stays open at most, whatever the seller's `maxTimeoutSeconds` says."""

_TYPES: Final = {
    DepositPayload: "deposit",
    VoucherPayload: "voucher",
    RefundPayload: REFUND,
    ClaimPayload: "claim",
    SettlePayload: "settle",
}


def payload_type(payload: BatchSettlementPayload) -> str:
    """The payload's `type`, as it stands on the wire."""
    return _TYPES[type(payload)]


class Request(NamedTuple):
    """A payload and the amount that its payer accepted, in atomic units."""

    payload: BatchSettlementPayload
    accepted: int


def read_request(message: PaymentPayload) -> Request:
    """Read what is posted; raises MalformedError."""
    return Request(read_batch_settlement(message), read_terms(message.accepted).amount)


def seller_terms(terms: PaymentTerms) -> BatchSettlementTerms:
    """What the seller's own `extra` says: never the payer's, who could name another manager. Raises MalformedError."""
    return read_batch_settlement_terms(dict(terms.extra), "paymentRequirements.extra")


def is_managed(terms: PaymentTerms) -> bool:
    """Whether the seller has the facilitator manage its vouchers. What servers send for their own sake has no extra."""
    return terms.extra.get(VOUCHER_MANAGER) == VOUCHER_MANAGER_FACILITATOR


def is_the_servers(payload: ChannelPayload) -> Refusal | None:
    """Refuse in /verify what a server alone writes into a payload."""
    if payload.reservation.pending_id is not None:
        return refuse(Why.UNEXPECTED_PENDING_ID, payload.reservation.pending_id, "none")
    if payload.reservation.cancel:
        return refuse(Why.UNEXPECTED_CANCEL, "true", "none")
    return None


def meets_terms(terms: PaymentTerms, asked: BatchSettlementTerms | None, config: ChannelConfig) -> Refusal | None:
    """Rules 2 to 5 ("Verification Rules"), and that the salt holds the server's key for refunds where it has one.

    `asked` None: the seller has not said more than `terms`.
    """
    refusal = config_meets_terms(terms, config)
    if refusal is not None or asked is None:
        return refusal
    if config.receiver_authorizer != asked.receiver_authorizer:
        named, allowed = checksum(config.receiver_authorizer), checksum(asked.receiver_authorizer)
        return refuse(Why.OPERATOR_MISMATCH, named, allowed)
    if config.withdraw_delay_s != asked.withdraw_delay_s:
        return refuse(Why.WITHDRAW_DELAY_MISMATCH, config.withdraw_delay_s, asked.withdraw_delay_s)
    if asked.is_managed and asked.refund_authorizer not in {None, packed_refund_authorizer(config.salt)}:
        packed = checksum(packed_refund_authorizer(config.salt))
        return refuse(Why.REFUND_AUTHORIZER_MISMATCH, packed, checksum(asked.refund_authorizer or b""))
    return None


def accepted_is(terms: PaymentTerms, accepted: int) -> Refusal | None:
    """Check that the payer accepted what the seller asks for now."""
    return amount_is(terms, accepted)


def wait_s(terms: PaymentTerms) -> float | None:
    """How long the caller of settle waits, which edges need not bound; None where the terms name no time."""
    return min(terms.max_timeout_s, WAIT_S_MAX) if terms.max_timeout_s else None
