"""Protobuf at the seller's edge: to and from the bytes and integers of `messages`.

The aggregator is the seller's own, but what it says is still parsed once and strictly: an amount that is none raises
MalformedError here, not somewhere later.
"""

from typing import Any

from tallystick.amounts import decode_amount, encode_amount
from tallystick.channels import ChannelConfig
from tallystick.errors import RefusedError
from tallystick.v1 import charge_pb2, common_pb2, facilitator_pb2, settlement_pb2
from tallystick.x402 import HEADER_BYTES_MAX, ExactAuthorization, PaymentTerms, decode_json
from tallystick_client.rpc import raise_refusal, refused
from tallystick_client.seller.client.messages import (
    Asset,
    Attempt,
    Charge,
    Charged,
    Kind,
    LeftOut,
    Limits,
    OtherPayment,
    Payout,
    Settled,
    Settlement,
    SettlementStatus,
    Supported,
    Verified,
)


def write_terms(terms: PaymentTerms) -> facilitator_pb2.PaymentTerms:
    """The seller's terms."""
    return facilitator_pb2.PaymentTerms(
        scheme=terms.scheme,
        network=str(terms.network),
        amount=encode_amount(terms.amount),
        asset=terms.asset,
        pay_to=terms.pay_to,
    )


def write_charge(charge: Charge) -> charge_pb2.Charge:
    """One charge with its proof."""
    message = charge_pb2.Charge(
        channel_id=charge.channel_id,
        payment_id=charge.payment_id,
        amount=encode_amount(charge.amount),
        request_hash=charge.request_hash,
        ceiling=encode_amount(charge.ceiling),
        signature=charge.signature,
    )
    spend = charge.spend
    if spend is not None:
        message.spend_proof.key_id = spend.key_id
        message.spend_proof.max_amount = encode_amount(spend.max_amount)
        message.spend_proof.mac = spend.mac
    return message


def write_deferred(config: ChannelConfig, charge: Charge) -> facilitator_pb2.DeferredPayment:
    """A `deferred` payment with what names its channel."""
    return facilitator_pb2.DeferredPayment(
        config=common_pb2.ChannelConfig(
            payer=config.payer,
            payer_authorizer=config.payer_authorizer,
            receiver=config.receiver,
            receiver_authorizer=config.receiver_authorizer,
            token=config.token,
            withdraw_delay_s=config.withdraw_delay_s,
            salt=config.salt,
        ),
        charge=write_charge(charge),
    )


def write_exact(authorization: ExactAuthorization) -> facilitator_pb2.ExactPayment:
    """An ERC-3009 authorization."""
    message = facilitator_pb2.ExactPayment(
        to=authorization.to,
        value=encode_amount(authorization.value),
        valid_after=authorization.valid_after,
        valid_before=authorization.valid_before,
        nonce=authorization.nonce,
        signature=authorization.signature,
    )
    setattr(message, "from", authorization.from_)  # a keyword of Python
    return message


def put_payment(
    request: facilitator_pb2.VerifyRequest | facilitator_pb2.SettleRequest,
    payment: ExactAuthorization | OtherPayment,
    attempt: Attempt | None,
) -> None:
    """Put a payment into a request, and the attempt that it is for."""
    if isinstance(payment, OtherPayment):
        request.payload = payment.payload
    else:
        request.exact.CopyFrom(write_exact(payment))
    if attempt is not None:
        request.attempt.CopyFrom(facilitator_pb2.Attempt(id=attempt.id, request_hash=attempt.request_hash))


def read_supported(message: facilitator_pb2.SupportedResponse) -> Supported:
    """What the aggregator can verify and settle, and what the caller's token is good for."""
    limits = message.limits
    return Supported(
        kinds=tuple(_read_kind(kind) for kind in message.kinds),
        limits=Limits(
            charges_per_batch_max=limits.charges_per_batch_max,
            unanswered_batches_max=limits.unanswered_batches_max,
            reservation_s=limits.reservation_s,
            payment_id_retention_s=limits.payment_id_retention_s,
        ),
        receivers=frozenset(message.receivers),
        scopes=frozenset(message.scopes),
    )


def read_verified(message: facilitator_pb2.VerifyResponse) -> Verified:
    """A payment that is valid; raises RefusedError for one that is not."""
    if not message.valid:
        raise_refusal(message.refusal)
    return Verified(
        payer=message.payer,
        handle=message.handle,
        reservation_expires_at=message.reservation_expires_at,
        replayed=message.replayed,
    )


def read_settled(message: facilitator_pb2.SettleResponse) -> Settled:
    """A payment that was settled; raises RefusedError for one that was not."""
    if not message.success:
        raise_refusal(message.refusal)
    return Settled(
        payer=message.payer,
        amount=decode_amount(message.amount, "SettleResponse.amount"),
        transaction=message.transaction,
        charged=decode_amount(message.charged, "SettleResponse.charged"),
        replayed=message.replayed,
    )


def read_charged(message: charge_pb2.ChargeResult) -> Charged | RefusedError:
    """What became of one charge; a refusal is returned, because it may stand in the midst of a batch."""
    if not message.accepted:
        return refused(message.refusal)
    return Charged(decode_amount(message.charged, "ChargeResult.charged"), message.replayed)


def read_settlement(message: settlement_pb2.Settlement) -> Settlement:
    """One claim transaction."""
    statuses = {status.value for status in SettlementStatus}
    return Settlement(
        id=message.id,
        network=message.network,
        transaction=message.transaction,
        status=SettlementStatus(message.status if message.status in statuses else 0),
        created_at=message.created_at,
        block_number=message.block_number,
        gas_used=message.gas_used,
        rows=message.rows,
        payouts=tuple(
            Payout(payout.receiver, payout.token, decode_amount(payout.amount, "Payout.amount"))
            for payout in message.payouts
        ),
    )


def read_left_out(message: settlement_pb2.LeftOut) -> LeftOut:
    """What a settlement did not claim, and why."""
    return LeftOut(
        network=message.network,
        channel_id=message.channel_id,
        receiver=message.receiver,
        token=message.token,
        amount=decode_amount(message.amount, "LeftOut.amount"),
        reason=message.reason,
    )


def _read_kind(message: facilitator_pb2.Kind) -> Kind:
    return Kind(
        scheme=message.scheme,
        network=message.network,
        assets=tuple(
            Asset(
                token=asset.token,
                symbol=asset.symbol,
                decimals=asset.decimals,
                name=asset.name,
                version=asset.version,
                min_deposit=decode_amount(asset.min_deposit, "Asset.min_deposit"),
            )
            for asset in message.assets
        ),
        escrow=message.escrow,
        escrow_name=message.escrow_name,
        escrow_version=message.escrow_version,
        operator=message.operator,
        withdraw_delay_s=message.withdraw_delay_s,
        extra=decode_json(message.extra, dict[str, Any], "Kind.extra", HEADER_BYTES_MAX) if message.extra else {},
    )
