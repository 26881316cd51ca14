"""What payers sign and hand in (account.proto)."""

from collections.abc import Iterable, Sequence

from tallystick.amounts import decode_amount, encode_amount
from tallystick.codec.common import not_zero
from tallystick.errors import Described, MalformedError
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
