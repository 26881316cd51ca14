"""What payment ids stand for: hundreds of thousands in memory, each packed into 97 bytes.

Packed for the ledger's own sake, whatever the store does with it: an object for each, with its numbers and hashes, is
made, walked through and freed an hour later, each time from memory that no cache holds any more. By spend key that was
a tenth of what a charge costs. A store may keep the bytes as they are, or unpack them.

    offset  bytes
    0       16     amount
    16      32     request hash
    48      1      status, and 128 if it was a reservation
    49      16     captured
    65      16     charged
    81      16     end of the reservation's handle, or zeros
"""

import struct
from enum import IntEnum
from typing import Final

from tallystick.values import Value

PaymentKey = bytes
"""The payment id and the channel id (`state.payment_key`)."""
PAYMENT_KEY_BYTES: Final = 48
PackedPayment = bytes
"""What the table above says; its fields are of no concern to anybody else."""

_PACKED: Final = struct.Struct(">16s32sB16s16s16s")
PACKED_PAYMENT_BYTES: Final = _PACKED.size
_pack_charged: Final = struct.Struct(">8xQ32sB8xQ8xQ16x").pack
"""The same where all numbers have at most eight bytes, and there is no handle: in half the time."""
_STATUS_AT: Final = 48
_WAS_RESERVED: Final = 128
_NO_SECRET: Final = bytes(16)


class PaymentStatus(IntEnum):
    """What became of a payment id."""

    CHARGED = 1
    RESERVED = 2
    RELEASED = 3
    EXPIRED = 4


_CHARGED: Final = int(PaymentStatus.CHARGED)
_OPEN: Final = tuple(
    status | reserved for status in (PaymentStatus.RESERVED, PaymentStatus.EXPIRED) for reserved in (_WAS_RESERVED, 0)
)
_STATUSES: Final = {int(status): status for status in PaymentStatus}


class Payment(Value, frozen=True, gc=False):
    """What a (channel, payment id) stands for, and the answer its first use got.

    `amount` is what was asked (the reserved maximum for a reservation), `captured` what was charged in the end and
    `charged` the channel's charged total right after. A reservation's `handle` is empty for a direct charge.
    """

    amount: int
    request_hash: bytes
    status: PaymentStatus
    captured: int
    charged: int
    handle: bytes


def pack_payment(key: PaymentKey, payment: Payment) -> PackedPayment:
    """The 97 bytes of a payment.

    Raises ValueError on a request hash of another length than 32 or a handle that does not begin with the key, and
    OverflowError outside 0 <= number < 2**128.
    """
    request_hash, handle = payment.request_hash, payment.handle
    if len(request_hash) != 32 or (
        handle and (handle[:PAYMENT_KEY_BYTES] != key or len(handle) != PAYMENT_KEY_BYTES + 16)
    ):
        raise ValueError(
            "a payment has a request hash of 32 bytes, and a handle of 64 that begins with its key, or none"
        )
    return _PACKED.pack(
        payment.amount.to_bytes(16, "big"),
        request_hash,
        payment.status | _WAS_RESERVED if handle else payment.status,
        payment.captured.to_bytes(16, "big"),
        payment.charged.to_bytes(16, "big"),
        handle[PAYMENT_KEY_BYTES:] or _NO_SECRET,
    )


def pack_charged(amount: int, request_hash: bytes, charged: int) -> PackedPayment:
    """The payment of a direct charge; raises as `pack_payment` does."""
    if len(request_hash) == 32:
        try:
            return _pack_charged(amount, request_hash, _CHARGED, amount, charged)
        except struct.error:  # more than eight bytes hold, or no amount at all
            pass
    return pack_payment(b"", Payment(amount, request_hash, PaymentStatus.CHARGED, amount, charged, b""))


def unpack_payment(key: PaymentKey, packed: PackedPayment) -> Payment:
    """The payment that was packed."""
    amount, request_hash, code, captured, charged, secret = _PACKED.unpack(packed)
    handle = key + secret if code & _WAS_RESERVED else b""
    number = int.from_bytes
    return Payment(
        number(amount, "big"),
        request_hash,
        _STATUSES[code & ~_WAS_RESERVED],
        number(captured, "big"),
        number(charged, "big"),
        handle,
    )


def is_open(packed: PackedPayment) -> bool:
    """Whether a capture may still change it."""
    return packed[_STATUS_AT] in _OPEN


def status_of(packed: PackedPayment) -> PaymentStatus | None:
    """The status alone; None where the byte says none."""
    return _STATUSES.get(packed[_STATUS_AT] & ~_WAS_RESERVED)
