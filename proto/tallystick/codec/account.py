"""What payers sign and hand in (account.proto)."""

from collections.abc import Iterable, Sequence

from tallystick.amounts import decode_amount, encode_amount
from tallystick.codec.common import not_zero
from tallystick.errors import Described, MalformedError
from tallystick.tokens import Permit2Approval
from tallystick.v1 import account_pb2 as pb


def read_totals(messages: Sequence[pb.ReceiverTotal], count_max: int) -> tuple[tuple[bytes, int], ...]:
    """Read the (receiver, total) pairs of an approval, in their order."""
    if len(messages) > count_max:
        raise MalformedError("totals", Described(f"{len(messages)} totals"), f"at most {count_max}")
    return tuple(
        (not_zero(total.receiver, f"totals[{n}].receiver"), decode_amount(total.total, f"totals[{n}].total"))
        for n, total in enumerate(messages)
    )


def write_totals(totals: Iterable[tuple[bytes, int]]) -> list[pb.ReceiverTotal]:
    """Write the (receiver, total) pairs of an approval, in their order."""
    return [pb.ReceiverTotal(receiver=receiver, total=encode_amount(total)) for receiver, total in totals]


def read_permit2_approval(message: pb.Permit2Approval, field: str) -> Permit2Approval:
    """Read how far Permit2 may move a payer's token."""
    nonce = message.permit_nonce if message.sponsors_permits else None
    return Permit2Approval(decode_amount(message.allowance, f"{field}.allowance"), nonce)


def write_permit2_approval(approval: Permit2Approval) -> pb.Permit2Approval:
    """Write how far Permit2 may move a payer's token."""
    nonce = approval.permit_nonce
    return pb.Permit2Approval(
        allowance=encode_amount(approval.allowance), sponsors_permits=nonce is not None, permit_nonce=nonce or 0
    )
