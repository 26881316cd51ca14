"""Answers as protobuf: the way out of the gRPC edge. Whether a refusal may be retried is its reason's own property."""

from collections.abc import Iterable
from typing import Final

import msgspec

from tallystick.amounts import encode_amount
from tallystick.channels import ChannelConfig
from tallystick.quantities import ChannelTotals
from tallystick.v1 import account_pb2, charge_pb2, common_pb2, facilitator_pb2, settlement_pb2
from tallystick_aggregator.accounts.offers import TokenOffer
from tallystick_aggregator.claims.claiming import LeftOut
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.approvals import Totals
from tallystick_aggregator.ledger.state import Account, SpendKey
from tallystick_aggregator.schemes.port import Kind, Settled, Verified
from tallystick_aggregator.store.port import OutboundTransaction, TransactionStatus

_STATUS: Final = {
    TransactionStatus.PENDING: settlement_pb2.SETTLEMENT_STATUS_PENDING,
    TransactionStatus.MINED: settlement_pb2.SETTLEMENT_STATUS_MINED,
    TransactionStatus.FINAL: settlement_pb2.SETTLEMENT_STATUS_FINAL,
    TransactionStatus.REVERTED: settlement_pb2.SETTLEMENT_STATUS_FAILED,
    TransactionStatus.SUPERSEDED: settlement_pb2.SETTLEMENT_STATUS_FAILED,
}


def write_refusal(refusal: Refusal) -> common_pb2.Refusal:
    """Why not, what came, what is allowed."""
    reason, message, field, got, allowed, totals, retry_after_s = refusal
    return common_pb2.Refusal(
        reason=int(reason),  # type: ignore[arg-type]  # the numbers are equal; a test proves it
        retry=reason.retry,
        message=message,
        field=field,
        got=got,
        allowed=allowed,
        totals=None if totals is None else write_channel_totals(totals),
        retry_after_s=retry_after_s,
    )


def write_charge_result(answer: Accepted | Refusal) -> charge_pb2.ChargeResult:
    """What became of one charge."""
    if isinstance(answer, Accepted):
        return charge_pb2.ChargeResult(accepted=True, replayed=answer.replayed, charged=encode_amount(answer.charged))
    return charge_pb2.ChargeResult(refusal=write_refusal(answer))


def write_verified(answer: Verified | Refusal, payer: bytes) -> facilitator_pb2.VerifyResponse:
    """Whether a payment will settle, and the reservation's handle."""
    if isinstance(answer, Refusal):
        return facilitator_pb2.VerifyResponse(refusal=write_refusal(answer), payer=payer)
    return facilitator_pb2.VerifyResponse(
        valid=True,
        payer=answer.payer,
        handle=answer.handle,
        reservation_expires_at=answer.expires_at,
        replayed=answer.replayed,
    )


def write_settled(answer: Settled | Refusal) -> facilitator_pb2.SettleResponse:
    """What was captured or transferred."""
    if isinstance(answer, Refusal):
        return facilitator_pb2.SettleResponse(refusal=write_refusal(answer))
    return facilitator_pb2.SettleResponse(
        success=True,
        payer=answer.payer,
        amount=encode_amount(answer.amount),
        transaction=answer.transaction,
        charged=encode_amount(answer.charged),
        replayed=answer.replayed,
    )


def write_kind(kind: Kind) -> facilitator_pb2.Kind:
    """A scheme on a network, and where its payers deposit, if they do."""
    message = facilitator_pb2.Kind(
        scheme=kind.scheme,
        network=kind.network,
        assets=[_write_asset(token, token.min_deposit if kind.deposit else 0) for token in kind.tokens],
        extra=msgspec.json.encode(kind.extra) if kind.extra else b"",
    )
    offer = kind.deposit
    if offer is not None:
        message.escrow, message.operator = offer.escrow, offer.operator
        message.escrow_name, message.escrow_version = offer.escrow_name, offer.escrow_version
        message.withdraw_delay_s_min = offer.withdraw_delay_s_min
        message.withdraw_delay_s_max = offer.withdraw_delay_s_max
        message.withdraw_delay_s = offer.withdraw_delay_s
    return message


def _write_asset(token: TokenOffer, min_deposit: int) -> facilitator_pb2.Asset:
    return facilitator_pb2.Asset(
        token=token.address,
        symbol=token.symbol,
        decimals=token.decimals,
        name=token.name,
        version=token.version,
        min_deposit=encode_amount(min_deposit),
    )


def write_account_totals(account: Account) -> common_pb2.AccountTotals:
    """The account's totals, as the ledger mirrors them from the chain."""
    return common_pb2.AccountTotals(
        account_id=account.id,
        funds=encode_amount(account.funds),
        withdrawing=encode_amount(account.withdrawing),
        refunding=encode_amount(account.refunding),
        committed=encode_amount(account.committed),
        available=encode_amount(account.available),
        withdraw_finalizes_at=account.withdraw_finalizes_at,
    )


def write_channel_totals(totals: ChannelTotals) -> common_pb2.ChannelTotals:
    """The channel's cumulative totals."""
    return common_pb2.ChannelTotals(
        channel_id=totals.channel_id,
        receiver=totals.receiver,
        ceiling=encode_amount(totals.ceiling),
        charged=encode_amount(totals.charged),
        reserved=encode_amount(totals.reserved),
        claimed=encode_amount(totals.claimed),
    )


def write_config(config: ChannelConfig) -> common_pb2.ChannelConfig:
    """What names an account or channel."""
    return common_pb2.ChannelConfig(
        payer=config.payer,
        payer_authorizer=config.payer_authorizer,
        receiver=config.receiver,
        receiver_authorizer=config.receiver_authorizer,
        token=config.token,
        withdraw_delay_s=config.withdraw_delay_s,
        salt=config.salt,
    )


def write_spend_key(key: SpendKey) -> account_pb2.SpendKeyState:
    """A spend key without its secret."""
    return account_pb2.SpendKeyState(
        key_id=key.key_id,
        cap=encode_amount(key.cap),
        spent=encode_amount(max(0, key.spent)),
        expires_at=key.expires_at,
        revoked=key.revoked,
    )


def write_totals(totals: Totals) -> list[account_pb2.ReceiverTotal]:
    """Totals to approve, in their order."""
    return [account_pb2.ReceiverTotal(receiver=receiver, total=encode_amount(total)) for receiver, total in totals]


def write_settlements(
    claims: Iterable[OutboundTransaction], receivers: frozenset[bytes]
) -> list[settlement_pb2.Settlement]:
    """Claim transactions, of each the part that pays these receivers."""
    return [_write_settlement(claim, receivers) for claim in claims]


def write_left_out(left_out: Iterable[LeftOut], receivers: frozenset[bytes]) -> list[settlement_pb2.LeftOut]:
    """What a settlement did not claim for these receivers, and why."""
    return [
        settlement_pb2.LeftOut(
            network=one.network,
            channel_id=one.channel_id,
            receiver=one.receiver,
            token=one.token,
            amount=encode_amount(one.amount),
            reason=one.reason,
        )
        for one in left_out
        if one.receiver in receivers
    ]


def _write_settlement(claim: OutboundTransaction, receivers: frozenset[bytes]) -> settlement_pb2.Settlement:
    # Until one of its forms is mined, the newest is the one to look for.
    newest = claim.attempts[-1].transaction_hash if claim.attempts else b""
    return settlement_pb2.Settlement(
        id=claim.id,
        network=claim.network,
        transaction=claim.transaction_hash or newest,
        status=_STATUS[claim.status],
        created_at=claim.created_at,
        block_number=claim.block_number,
        gas_used=claim.gas_used,
        rows=claim.rows,
        payouts=[
            settlement_pb2.Payout(receiver=payout.receiver, token=payout.token, amount=encode_amount(payout.amount))
            for payout in claim.payouts
            if payout.receiver in receivers
        ],
    )
