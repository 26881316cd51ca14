"""Batches of charges straight from the wire, and their results straight onto it.

Streams carry tens of thousands of charges a second, and making a protobuf object of each costs half of deciding it. So
the one encoding that every serializer makes of a well-formed charge (fields in the order of their numbers, each
once, minimal lengths) is read by offsets; and a batch whose charges all have the same lengths, as most do, in one step.
**Whatever differs in any way is left to protobuf and `codec`**: they alone say what is malformed, and what is accepted
here is what they accept (tests/aggregator/edges/test_wire.py).

    StreamChargesRequest   08 seq?   (12 length charge)*
    Charge                 0a 20 channel_id   12 10 payment_id   (1a n amount)?   22 20 request_hash
                           (2a n ceiling   32 41 signature)?   (3a n spend proof)?
    SpendProof             0a 20 key_id   (12 n max_amount)?   1a 20 mac
    StreamChargesResponse  08 seq?   (12 length result)*
    ChargeResult           08 01 (accepted)   (10 01 (replayed))?   (1a n charged)?   or   22 n refusal
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct
from struct import error as struct_error
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from tallystick.errors import Described, MalformedError
from tallystick.v1 import charge_pb2
from tallystick_aggregator.edges.grpc.answers import write_charge_result
from tallystick_aggregator.edges.grpc.codec import read_charges
from tallystick_aggregator.intake import UncheckedPayment, UncheckedSpendProof
from tallystick_aggregator.ledger.answers import Accepted, Refusal

AMOUNT_BYTES_MAX: Final = 16
_SEQ_BYTES_MAX: Final = 10

_IDS: Final = Struct("2s32s2s16s")
"""Tags, channel id and payment id: how every charge begins."""
_HASH: Final = Struct("2s32s")
"""Tag and a field of 32 bytes."""
_SIGNATURE: Final = Struct("2s65s")
_TAG_CHANNEL: Final = b"\x0a\x20"
_TAG_PAYMENT: Final = b"\x12\x10"
_TAG_HASH: Final = b"\x22\x20"
_TAG_SIGNATURE: Final = b"\x32\x41"
_TAG_KEY: Final = b"\x0a\x20"
_TAG_MAC: Final = b"\x1a\x20"

_TAG_CEILING: Final = 0x2A
_TAG_SPEND_PROOF: Final = 0x3A
_SPEND_PROOF_BYTES: Final = 70
"""Of a spend proof, beside its amount."""
_AMOUNT_LENGTH_AT: Final = 56
"""Where a batch's first charge, of 128 bytes or more, has its amount's length, if the amount is not zero."""
_PROOF_TAG_AT: Final = 91
"""Where it has the tag of its first proof, if the amount has no bytes."""

_ACCEPTED: Final = tuple(
    tuple(
        b"\x12" + bytes((len(head) + (2 + n if n else 0),)) + head + (b"\x1a" + bytes((n,)) if n else b"")
        for n in range(AMOUNT_BYTES_MAX + 1)
    )
    for head in (b"\x08\x01", b"\x08\x01\x10\x01")
)
"""What goes before `charged`, by whether it is replayed and by how many bytes it has."""


class Incoming(NamedTuple):
    """A batch as it came."""

    seq: int
    payments: Sequence[UncheckedPayment]


class _NotPlain(Exception):
    """Not the encoding that is read here."""


def read_batch(data: bytes, count_max: int) -> Incoming:
    """Read a StreamChargesRequest; raises MalformedError, which names the field."""
    for read in (_read_uniform, _read_plain):
        try:
            incoming = read(data, count_max)
            break
        except (_NotPlain, IndexError, struct_error):
            continue
    else:
        incoming = _read_any(data, count_max)
    if not incoming.payments:
        raise MalformedError("charges", Described("none"), "at least one charge")
    return incoming


def write_batch(seq: int, answers: Sequence[Accepted | Refusal]) -> bytes:
    """Write a StreamChargesResponse."""
    parts = [charge_pb2.StreamChargesResponse(seq=seq).SerializeToString()]
    first, again = _ACCEPTED
    for answer in answers:
        if isinstance(answer, Accepted):
            charged = answer.charged
            n = (charged.bit_length() + 7) >> 3
            parts.append((again if answer.replayed else first)[n])
            parts.append(charged.to_bytes(n, "big"))
        else:
            result = charge_pb2.StreamChargesResponse(results=[write_charge_result(answer)])
            parts.append(result.SerializeToString())
    return b"".join(parts)


def _read_any(data: bytes, count_max: int) -> Incoming:
    try:
        request = charge_pb2.StreamChargesRequest.FromString(data)
    except DecodeError:
        raise MalformedError("request", Described(f"{len(data)} bytes"), "a StreamChargesRequest") from None
    return Incoming(request.seq, read_charges(request.charges, count_max))


# Batches whose charges all have the same lengths.


class _Shape(NamedTuple):
    """How a charge of known lengths is read in one step, and the numbers that must stand between its fields."""

    struct: Struct
    between: tuple[int, ...]


@lru_cache(maxsize=1_024)
def _shape(amount_bytes: int, proof_tag: int, proof_bytes: int) -> _Shape:
    """The shape of charges with an amount of so many bytes, and a voucher alone (by its ceiling's) or a spend proof
    alone (by its own).
    """
    if not 0 < amount_bytes <= AMOUNT_BYTES_MAX:
        raise _NotPlain
    head = f"H32sH16sH{amount_bytes}sH32s"
    between: tuple[int, ...] = (0x0A20, 0x1210, 0x1A00 | amount_bytes, 0x2220)
    if proof_tag == _TAG_CEILING:
        if not 0 < proof_bytes <= AMOUNT_BYTES_MAX:
            raise _NotPlain
        fields, between = f"{head}H{proof_bytes}sH65s", (*between, _TAG_CEILING << 8 | proof_bytes, 0x3241)
    elif proof_tag == _TAG_SPEND_PROOF:
        n = proof_bytes - _SPEND_PROOF_BYTES
        if not 0 < n <= AMOUNT_BYTES_MAX:
            raise _NotPlain
        fields = f"{head}HH32sH{n}sH32s"
        between = (*between, _TAG_SPEND_PROOF << 8 | proof_bytes, 0x0A20, 0x1200 | n, 0x1A20)
    else:
        raise _NotPlain
    # Before the charge: its tag, and its length in two bytes, as it has from 128 to 16,383.
    length = Struct(f">{fields}").size
    return _Shape(Struct(f">BH{fields}"), (0x12, (length & 0x7F | 0x80) << 8 | length >> 7, *between))


def _read_uniform(data: bytes, count_max: int) -> Incoming:
    """Read a batch whose charges are all of the first one's shape."""
    seq, position = _read_seq(data) if data[0] == 0x08 else (0, 0)
    amount_bytes = data[position + _AMOUNT_LENGTH_AT]
    proof_at = position + _PROOF_TAG_AT + amount_bytes
    by_voucher = data[proof_at] == _TAG_CEILING
    struct, between = _shape(amount_bytes, data[proof_at], data[proof_at + 1])
    count, rest = divmod(len(data) - position, struct.size)
    if rest or count > count_max:
        raise _NotPlain
    rows = struct.iter_unpack(data[position:])
    return Incoming(seq, (_with_vouchers if by_voucher else _with_spend_proofs)(rows, between))


def _with_vouchers(rows: Iterable[tuple[Any, ...]], between: tuple[int, ...]) -> list[UncheckedPayment]:
    number = int.from_bytes
    payments: list[UncheckedPayment] = []
    for a, b, c, channel_id, d, payment_id, e, amount, f, request_hash, g, ceiling, h, signature in rows:
        # An amount's first byte says something, and an id is a UUIDv7.
        if (
            (a, b, c, d, e, f, g, h) != between
            or amount[0] == 0
            or ceiling[0] == 0
            or payment_id[6] >> 4 != 7
            or payment_id[8] >> 6 != 2
        ):
            raise _NotPlain
        payments.append(
            UncheckedPayment(
                channel_id,
                payment_id,
                number(payment_id[:6], "big"),
                number(amount, "big"),
                request_hash,
                number(ceiling, "big"),
                signature,
                None,
            )
        )
    return payments


def _with_spend_proofs(rows: Iterable[tuple[Any, ...]], between: tuple[int, ...]) -> list[UncheckedPayment]:
    number = int.from_bytes
    payments: list[UncheckedPayment] = []
    for a, b, c, channel_id, d, payment_id, e, amount, f, request_hash, g, h, key_id, i, most, j, mac in rows:
        if (
            (a, b, c, d, e, f, g, h, i, j) != between
            or amount[0] == 0
            or most[0] == 0
            or payment_id[6] >> 4 != 7
            or payment_id[8] >> 6 != 2
        ):
            raise _NotPlain
        payments.append(
            UncheckedPayment(
                channel_id,
                payment_id,
                number(payment_id[:6], "big"),
                number(amount, "big"),
                request_hash,
                0,
                b"",
                UncheckedSpendProof(key_id, number(most, "big"), mac),
            )
        )
    return payments


# Any others.


def _read_plain(data: bytes, count_max: int) -> Incoming:
    seq, position = _read_seq(data) if data[0] == 0x08 else (0, 0)
    end = len(data)
    payments: list[UncheckedPayment] = []
    while position < end:
        if data[position] != 0x12 or len(payments) == count_max:
            raise _NotPlain
        length = data[position + 1]
        position += 2
        if length >= 0x80:
            high = data[position]
            # One more byte at most; and not one that says nothing.
            if not 0 < high < 0x80:
                raise _NotPlain
            length = length & 0x7F | high << 7
            position += 1
        stop = position + length
        if stop > end:
            raise _NotPlain
        payments.append(_read_charge(data, position, stop))
        position = stop
    return Incoming(seq, payments)


def _read_seq(data: bytes) -> tuple[int, int]:
    """Read the number at the beginning; return it and where it ends."""
    seq = shift = 0
    for position in range(1, 1 + _SEQ_BYTES_MAX):
        byte = data[position]
        seq |= (byte & 0x7F) << shift
        if byte < 0x80:
            # Zero is not sent, a number has no byte that says nothing, and no more than 64 bits.
            if byte == 0 or seq >> 64:
                raise _NotPlain
            return seq, position + 1
        shift += 7
    raise _NotPlain


def _read_charge(data: bytes, position: int, stop: int) -> UncheckedPayment:
    """Read the charge between two positions."""
    from_bytes = int.from_bytes
    tag, channel_id, next_tag, payment_id = _IDS.unpack_from(data, position)
    if tag != _TAG_CHANNEL or next_tag != _TAG_PAYMENT or payment_id[6] >> 4 != 7 or payment_id[8] >> 6 != 2:
        raise _NotPlain
    position += 52
    amount = 0
    if data[position] == 0x1A:
        length = data[position + 1]
        position += 2
        amount = _read_amount(data, position, length)
        position += length
    tag, request_hash = _HASH.unpack_from(data, position)
    if tag != _TAG_HASH:
        raise _NotPlain
    position += 34
    ceiling, signature = 0, b""
    if position < stop and data[position] == 0x2A:
        length = data[position + 1]
        position += 2
        ceiling = _read_amount(data, position, length)
        position += length
        tag, signature = _SIGNATURE.unpack_from(data, position)
        if tag != _TAG_SIGNATURE:
            raise _NotPlain
        position += 67
    spend = None
    if position < stop:
        if data[position] != 0x3A or data[position + 1] != stop - position - 2 or stop - position > 0x81:
            raise _NotPlain
        position += 2
        tag, key_id = _HASH.unpack_from(data, position)
        if tag != _TAG_KEY:
            raise _NotPlain
        position += 34
        max_amount = 0
        if data[position] == 0x12:
            length = data[position + 1]
            position += 2
            max_amount = _read_amount(data, position, length)
            position += length
        tag, mac = _HASH.unpack_from(data, position)
        if tag != _TAG_MAC:
            raise _NotPlain
        position += 34
        spend = UncheckedSpendProof(key_id, max_amount, mac)
    # Whatever was read beyond the charge's end was not of this charge.
    if position != stop:
        raise _NotPlain
    return UncheckedPayment(
        channel_id, payment_id, from_bytes(payment_id[:6], "big"), amount, request_hash, ceiling, signature, spend
    )


def _read_amount(data: bytes, position: int, length: int) -> int:
    """Read an amount that is not zero: zero is not sent, and the first byte says something."""
    if not 0 < length <= AMOUNT_BYTES_MAX or data[position] == 0:
        raise _NotPlain
    return int.from_bytes(data[position : position + length], "big")
