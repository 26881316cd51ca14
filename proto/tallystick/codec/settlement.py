"""Claim transactions, and what they left out (settlement.proto)."""

from typing import Final

from tallystick.amounts import decode_amount, encode_amount
from tallystick.codec.common import fixed
from tallystick.settlements import LeftOut, Payout, Settlement, SettlementStatus
from tallystick.v1 import settlement_pb2 as pb

_STATUSES: Final = frozenset(status.value for status in SettlementStatus)


def read_settlement(message: pb.Settlement) -> Settlement:
    """Read one claim transaction; a status that a newer peer knows and we do not is UNSPECIFIED."""
    return Settlement(
        id=message.id,
        network=message.network,
        transaction=message.transaction,
        status=SettlementStatus(message.status if message.status in _STATUSES else 0),
        created_at=message.created_at,
        block_number=message.block_number,
        gas_used=message.gas_used,
        rows=message.rows,
        payouts=tuple(
            Payout(
                fixed(payout.receiver, 20, "Payout.receiver"),
                fixed(payout.token, 20, "Payout.token"),
                decode_amount(payout.amount, "Payout.amount"),
            )
            for payout in message.payouts
        ),
    )


def write_settlement(settlement: Settlement) -> pb.Settlement:
    """Write one claim transaction."""
    return pb.Settlement(
        id=settlement.id,
        network=settlement.network,
        transaction=settlement.transaction,
        status=settlement.status.value,  # type: ignore[arg-type]  # the numbers are equal; a test proves it
        created_at=settlement.created_at,
        block_number=settlement.block_number,
        gas_used=settlement.gas_used,
        rows=settlement.rows,
        payouts=[
            pb.Payout(receiver=payout.receiver, token=payout.token, amount=encode_amount(payout.amount))
            for payout in settlement.payouts
        ],
    )


def read_left_out(message: pb.LeftOut) -> LeftOut:
    """Read what a settlement did not claim, and why."""
    return LeftOut(
        network=message.network,
        channel_id=fixed(message.channel_id, 32, "LeftOut.channel_id"),
        receiver=fixed(message.receiver, 20, "LeftOut.receiver"),
        token=fixed(message.token, 20, "LeftOut.token"),
        amount=decode_amount(message.amount, "LeftOut.amount"),
        reason=message.reason,
    )


def write_left_out(left_out: LeftOut) -> pb.LeftOut:
    """Write what a settlement did not claim, and why."""
    return pb.LeftOut(
        network=left_out.network,
        channel_id=left_out.channel_id,
        receiver=left_out.receiver,
        token=left_out.token,
        amount=encode_amount(left_out.amount),
        reason=left_out.reason,
    )
