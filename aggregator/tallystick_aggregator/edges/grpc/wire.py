"""Batches of charges straight from the wire, and their results straight onto it.

Streams carry tens of thousands of charges a second. Nearly always all charges of a batch have the same lengths: one
kind of proof, amounts of the same size. Such a batch is read in one step, in half the time that protobuf takes, if it
is in the one encoding that every serializer makes (fields in the order of their numbers, each once, minimal lengths).
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


class _NotUniform(Exception):
    """Not the encoding that is read here, or charges of several shapes."""


def read_batch(data: bytes, count_max: int) -> Incoming:
    """Read a StreamChargesRequest; raises MalformedError, which names the field."""
    try:
        incoming = _read_uniform(data, count_max)
    except (_NotUniform, IndexError):
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


# Batches whose charges all have the same lengths. There is a loop for each proof instead of a call per charge: every
# charge of a stream goes through them.


class _Shape(NamedTuple):
    """How a charge of known lengths is read in one step, and which tags and lengths must stand between its fields."""

    struct: Struct
    between: tuple[bytes, ...]


@lru_cache(maxsize=1_024)
def _shape(amount_bytes: int, proof_tag: int, proof_bytes: int) -> _Shape:
    """The shape of charges with an amount of so many bytes, and a voucher alone (by its ceiling's) or a spend proof
    alone (by its own).
    """
    if not 0 < amount_bytes <= AMOUNT_BYTES_MAX:
        raise _NotUniform
    head = f"2s32s2s16s2s{amount_bytes}s2s32s"
    between = _TAG_CHANNEL, _TAG_PAYMENT, bytes((_TAG_AMOUNT, amount_bytes)), _TAG_HASH
    proof: tuple[bytes, ...]
    if proof_tag == _TAG_CEILING:
        if not 0 < proof_bytes <= AMOUNT_BYTES_MAX:
            raise _NotUniform
        fields = f"{head}2s{proof_bytes}s2s65s"
        proof = bytes((_TAG_CEILING, proof_bytes)), _TAG_SIGNATURE
    elif proof_tag == _TAG_SPEND_PROOF:
        n = proof_bytes - _SPEND_PROOF_BYTES
        if not 0 < n <= AMOUNT_BYTES_MAX:
            raise _NotUniform
        fields = f"{head}2s2s32s2s{n}s2s32s"
        proof = bytes((_TAG_SPEND_PROOF, proof_bytes)), _TAG_KEY, bytes((_TAG_MAX_AMOUNT, n)), _TAG_MAC
    else:
        raise _NotUniform
    length = Struct(fields).size
    # Before the charge: its tag, and its length in two bytes, as it has from 128 to 16,383.
    before = bytes((0x12, length & 0x7F | 0x80, length >> 7))
    return _Shape(Struct(f"3s{fields}"), (before, *between, *proof))


def _read_uniform(data: bytes, count_max: int) -> Incoming:
    """Read a batch whose charges are all of the first one's shape."""
    seq, position = _read_seq(data) if data[0] == 0x08 else (0, 0)
    amount_bytes = data[position + _AMOUNT_LENGTH_AT]
    proof_at = position + _PROOF_TAG_AT + amount_bytes
    by_voucher = data[proof_at] == _TAG_CEILING
    struct, between = _shape(amount_bytes, data[proof_at], data[proof_at + 1])
    count, rest = divmod(len(data) - position, struct.size)
    if rest or count > count_max:
        raise _NotUniform
    rows = struct.iter_unpack(data[position:])
    return Incoming(seq, (_with_vouchers if by_voucher else _with_spend_proofs)(rows, between))


def _with_vouchers(rows: Iterable[tuple[Any, ...]], between: tuple[bytes, ...]) -> list[UncheckedPayment]:
    number = int.from_bytes
    payments: list[UncheckedPayment] = []
    for a, b, channel_id, c, payment_id, d, amount, e, request_hash, f, ceiling, g, signature in rows:
        # An amount's first byte says something, and an id is a UUIDv7.
        if (
            (a, b, c, d, e, f, g) != between
            or amount[0] == 0
            or ceiling[0] == 0
            or payment_id[6] >> 4 != 7
            or payment_id[8] >> 6 != 2
        ):
            raise _NotUniform
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


def _with_spend_proofs(rows: Iterable[tuple[Any, ...]], between: tuple[bytes, ...]) -> list[UncheckedPayment]:
    number = int.from_bytes
    payments: list[UncheckedPayment] = []
    for a, b, channel_id, c, payment_id, d, amount, e, request_hash, f, g, key_id, h, most, i, mac in rows:
        if (
            (a, b, c, d, e, f, g, h, i) != between
            or amount[0] == 0
            or most[0] == 0
            or payment_id[6] >> 4 != 7
            or payment_id[8] >> 6 != 2
        ):
            raise _NotUniform
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


def _read_seq(data: bytes) -> tuple[int, int]:
    """Read the number at the beginning; return it and where it ends."""
    seq = shift = 0
    for position in range(1, 1 + _SEQ_BYTES_MAX):
        byte = data[position]
        seq |= (byte & 0x7F) << shift
        if byte < 0x80:
            # Zero is not sent, a number has no byte that says nothing, and no more than 64 bits.
            if byte == 0 or seq >> 64:
                raise _NotUniform
            return seq, position + 1
        shift += 7
    raise _NotUniform
