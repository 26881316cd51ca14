"""Batches of charges straight from the wire, and their results straight onto it.

Streams carry tens of thousands of charges a second. Nearly always all charges of a batch have the same lengths: one
kind of proof, amounts of the same size. Such a batch is read in one step if it is in the one encoding that every
serializer makes (fields in the order of their numbers, each once, minimal lengths). In batches of 64 that takes 0.5 µs
of processor time a charge by voucher and 0.6 by spend key, by protobuf and `read_charges` 1.5 and 2.0; writing a result
takes 0.2 µs, by protobuf 1.2.
**Whatever differs in any way is left to protobuf and `tallystick.codec`**: they alone say what is malformed, and what
is accepted here is what they accept (tests/aggregator/api/test_fast_codec.py).

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
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from tallystick.codec.charge import read_charges
from tallystick.errors import Described, MalformedError
from tallystick.v1 import charge_pb2
from tallystick_aggregator.api.grpc.codec import write_charge_result
from tallystick_aggregator.charging import UncheckedPayment, UncheckedSpendProof
from tallystick_aggregator.ledger.answers import Accepted, Refusal

AMOUNT_BYTES_MAX: Final = 16
_SEQ_BYTES_MAX: Final = 10

_TAG_CHANNEL: Final = b"\x0a\x20"
_TAG_PAYMENT: Final = b"\x12\x10"
_TAG_HASH: Final = b"\x22\x20"
_TAG_SIGNATURE: Final = b"\x32\x41"
_TAG_KEY: Final = b"\x0a\x20"
_TAG_MAC: Final = b"\x1a\x20"
_TAG_AMOUNT: Final = 0x1A
_TAG_CEILING: Final = 0x2A
_TAG_SPEND_PROOF: Final = 0x3A
_TAG_MAX_AMOUNT: Final = 0x12
_SPEND_PROOF_BYTES: Final = 70
"""Of a spend proof, beside its amount."""
_AMOUNT_LENGTH_AT: Final = 56
"""Where a batch's first charge, of 128 bytes or more, has its amount's length, if the amount is not zero."""
_PROOF_TAG_AT: Final = 91
"""Where it has the tag of its first proof, if the amount has no bytes."""
_ID_VERSION_AT: Final = 45
_ID_VARIANT_AT: Final = 47
"""Where it has the bytes that say that its id is a UUIDv7, and which bytes say so."""
_ID_VERSIONS: Final = bytes(range(0x70, 0x80))
_ID_VARIANTS: Final = bytes(range(0x80, 0xC0))

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


class _NotUniformError(Exception):
    """Not the encoding that is read here, or charges of several shapes."""


def read_batch(data: bytes, count_max: int) -> Incoming:
    """Read a StreamChargesRequest; raises MalformedError, which names the field."""
    try:
        incoming = _read_uniform(data, count_max)
    except (_NotUniformError, IndexError):
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


# Batches whose charges all have the same lengths are a table: what must be the same in each row is checked by columns,
# for all rows at once. What is left to do for each charge is done by a loop per kind of proof, without a call.


class _Shape(NamedTuple):
    """How the rows of a batch lie: its charges have the same lengths, and its first has this one's."""

    row: Struct
    """Takes the values out of a row."""
    constant: tuple[tuple[int, bytes], ...]
    """Tags and lengths: at which byte of a row, and which one."""
    numbers: tuple[int, ...]
    """Where numbers begin: the first byte of one says something."""


class _Field(NamedTuple):
    """What is always the same, a tag and a length, and then so many bytes."""

    tag: bytes
    size: int
    is_number: bool = False


@lru_cache(maxsize=1_024)
def _shape(amount_bytes: int, proof_tag: int, proof_bytes: int) -> _Shape:
    """The shape of charges with an amount of so many bytes, and a voucher alone (by its ceiling's) or a spend proof
    alone (by its own).
    """
    proof: tuple[_Field, ...]
    if proof_tag == _TAG_CEILING:
        proof = _number(_TAG_CEILING, proof_bytes), _Field(_TAG_SIGNATURE, 65)
    elif proof_tag == _TAG_SPEND_PROOF:
        most = _number(_TAG_MAX_AMOUNT, proof_bytes - _SPEND_PROOF_BYTES)
        proof = _Field(bytes((_TAG_SPEND_PROOF, proof_bytes)), 0), _Field(_TAG_KEY, 32), most, _Field(_TAG_MAC, 32)
    else:
        raise _NotUniformError
    amount = _number(_TAG_AMOUNT, amount_bytes)
    charge = _Field(_TAG_CHANNEL, 32), _Field(_TAG_PAYMENT, 16), amount, _Field(_TAG_HASH, 32), *proof
    length = sum(len(field.tag) + field.size for field in charge)
    # Before the charge: its tag, and its length in two bytes, as it has from 128 to 16,383.
    fields = _Field(bytes((0x12, length & 0x7F | 0x80, length >> 7)), 0), *charge
    row, constant, numbers, at = "=", list[tuple[int, bytes]](), list[int](), 0
    for field in fields:
        constant += [(at + n, field.tag[n : n + 1]) for n in range(len(field.tag))]
        at += len(field.tag)
        row += f"{len(field.tag)}x{field.size}s" if field.size else f"{len(field.tag)}x"
        if field.is_number:
            numbers.append(at)
        at += field.size
    return _Shape(Struct(row), tuple(constant), tuple(numbers))


def _number(tag: int, size: int) -> _Field:
    if not 0 < size <= AMOUNT_BYTES_MAX:
        raise _NotUniformError
    return _Field(bytes((tag, size)), size, is_number=True)


def _read_uniform(data: bytes, count_max: int) -> Incoming:
    """Read a batch whose charges are all of the first one's shape."""
    seq, position = _read_seq(data) if data[0] == 0x08 else (0, 0)
    amount_bytes = data[position + _AMOUNT_LENGTH_AT]
    proof_at = position + _PROOF_TAG_AT + amount_bytes
    shape = _shape(amount_bytes, data[proof_at], data[proof_at + 1])
    table, size = data[position:], shape.row.size
    count, rest = divmod(len(table), size)
    if rest or count > count_max:
        raise _NotUniformError
    for at, byte in shape.constant:
        if table[at::size] != byte * count:
            raise _NotUniformError
    if (
        any(0 in table[at::size] for at in shape.numbers)
        or table[_ID_VERSION_AT::size].translate(None, _ID_VERSIONS)
        or table[_ID_VARIANT_AT::size].translate(None, _ID_VARIANTS)
    ):
        raise _NotUniformError
    rows = shape.row.iter_unpack(table)
    return Incoming(seq, (_with_vouchers if data[proof_at] == _TAG_CEILING else _with_spend_proofs)(rows))


# Charges of a channel come in runs: those of one run share the bytes that name it and its key. That is a few objects
# less for each charge, and whoever compares or looks up later is done sooner.


def _with_vouchers(rows: Iterable[tuple[bytes, ...]]) -> list[UncheckedPayment]:
    number = int.from_bytes
    payments: list[UncheckedPayment] = []
    channel_id = b""
    for channel, payment_id, amount, request_hash, ceiling, signature in rows:
        if channel != channel_id:
            channel_id = channel
        payments.append(
            UncheckedPayment(
                channel_id, payment_id, number(amount, "big"), request_hash, number(ceiling, "big"), signature, None
            )
        )
    return payments


def _with_spend_proofs(rows: Iterable[tuple[bytes, ...]]) -> list[UncheckedPayment]:
    number = int.from_bytes
    payments: list[UncheckedPayment] = []
    channel_id = key_id = b""
    for channel, payment_id, amount, request_hash, key, most, mac in rows:
        if channel != channel_id:
            channel_id = channel
        if key != key_id:
            key_id = key
        spend = UncheckedSpendProof(key_id, number(most, "big"), mac)
        payments.append(UncheckedPayment(channel_id, payment_id, number(amount, "big"), request_hash, 0, b"", spend))
    return payments


def _read_seq(data: bytes) -> tuple[int, int]:
    """Read the number at the beginning; return it and where it ends."""
    seq = shift = 0
    for position in range(1, 1 + _SEQ_BYTES_MAX):
        byte = data[position]
        seq |= (byte & 0x7F) << shift
        if byte < 0x80:
            # Zero is not sent, a number has no byte that says nothing, and no more than 64 bits.
            if byte == 0 or seq >> 64:
                raise _NotUniformError
            return seq, position + 1
        shift += 7
    raise _NotUniformError
