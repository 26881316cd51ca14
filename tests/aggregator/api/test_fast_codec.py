"""Batches read in one step are what protobuf reads, to the last bit; and what it refuses is refused the same way."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from tallystick.codec.charge import read_charges
from tallystick.errors import Described, MalformedError
from tallystick.payment_ids import new_payment_id
from tallystick.reasons import Reason
from tallystick.v1 import charge_pb2
from tallystick_aggregator.api.grpc import fast_codec
from tallystick_aggregator.api.grpc.codec import write_charge_result
from tallystick_aggregator.api.grpc.fast_codec import Incoming, read_batch, write_batch
from tallystick_aggregator.ledger.answers import Accepted, Refusal

COUNT_MAX = 8


def by_protobuf(data: bytes) -> Incoming:
    """What `read_batch` must agree with."""
    try:
        request = charge_pb2.StreamChargesRequest.FromString(data)
    except DecodeError:
        raise MalformedError("request", Described(f"{len(data)} bytes"), "a StreamChargesRequest") from None
    payments = read_charges(request.charges, COUNT_MAX)
    if not payments:
        raise MalformedError("charges", Described("none"), "at least one charge")
    return Incoming(request.seq, payments)


def outcome(read: Callable[[], Incoming]) -> Incoming | str:
    """What was read, or why not."""
    try:
        return read()
    except MalformedError as error:
        return str(error)


def same(data: bytes) -> Incoming | str:
    """Both ways must have the same outcome, which is returned."""
    expected = outcome(lambda: by_protobuf(data))
    assert outcome(lambda: read_batch(data, COUNT_MAX)) == expected
    return expected


amounts = st.integers(min_value=0, max_value=2**128 - 1).map(lambda n: n.to_bytes((n.bit_length() + 7) // 8, "big"))
ceilings = st.integers(min_value=1, max_value=2**128 - 1).map(lambda n: n.to_bytes((n.bit_length() + 7) // 8, "big"))
payment_ids = st.builds(new_payment_id, st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))


def fixed(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


@st.composite
def charges(draw: st.DrawFn) -> charge_pb2.Charge:
    """Well-formed ones."""
    message = charge_pb2.Charge(
        channel_id=draw(fixed(32)), payment_id=draw(payment_ids), amount=draw(amounts), request_hash=draw(fixed(32))
    )
    if draw(st.booleans()):
        message.ceiling, message.signature = draw(ceilings), draw(fixed(65))
    if draw(st.booleans()):
        proof = charge_pb2.SpendProof(key_id=draw(fixed(32)), max_amount=draw(amounts), mac=draw(fixed(32)))
        message.spend_proof.CopyFrom(proof)
    return message


batches = st.builds(
    charge_pb2.StreamChargesRequest,
    seq=st.one_of(st.just(0), st.integers(0, 2**64 - 1), st.integers(0, 300)),
    charges=st.lists(charges(), min_size=1, max_size=COUNT_MAX),
)


@given(batches)
def test_a_well_formed_batch_is_read_as_protobuf_reads_it(batch: charge_pb2.StreamChargesRequest) -> None:
    assert isinstance(same(batch.SerializeToString()), Incoming)


@st.composite
def uniform_batches(draw: st.DrawFn) -> charge_pb2.StreamChargesRequest:
    """Charges with the same kind of proof and amounts of the same lengths."""
    n, m = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    by_voucher = draw(st.booleans())
    batch = charge_pb2.StreamChargesRequest(seq=draw(st.sampled_from([0, 1, 2**64 - 1])))
    for _ in range(draw(st.integers(1, COUNT_MAX))):
        charge = draw(charges())
        charge.ClearField("ceiling")
        charge.ClearField("signature")
        charge.ClearField("spend_proof")
        charge.amount = draw(amounts_of(n))
        if by_voucher:
            charge.ceiling, charge.signature = draw(amounts_of(m)), draw(fixed(65))
        else:
            proof = charge_pb2.SpendProof(key_id=draw(fixed(32)), max_amount=draw(amounts_of(m)), mac=draw(fixed(32)))
            charge.spend_proof.CopyFrom(proof)
        batch.charges.append(charge)
    return batch


def amounts_of(length: int) -> st.SearchStrategy[bytes]:
    """Amounts of so many bytes."""
    return st.integers(256 ** (length - 1), 256**length - 1).map(lambda n: n.to_bytes(length, "big"))


@given(uniform_batches())
def test_a_batch_of_charges_of_one_shape_is_read_in_one_step(batch: charge_pb2.StreamChargesRequest) -> None:
    data = batch.SerializeToString()

    assert fast_codec._read_uniform(data, COUNT_MAX) == same(data)


@given(st.one_of(batches, uniform_batches()), st.data())
def test_a_batch_with_any_bytes_changed_is_read_as_protobuf_reads_it(
    batch: charge_pb2.StreamChargesRequest, data: st.DataObject
) -> None:
    message = bytearray(batch.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(message) - 1))
        match data.draw(st.sampled_from(["change", "cut", "add", "drop"])):
            case "change":
                message[place] = data.draw(st.integers(0, 255))
            case "cut" if place:
                del message[place:]
            case "add":
                message[place:place] = data.draw(st.binary(max_size=6))
            case _ if len(message) > 1:
                del message[place]
    same(bytes(message))


@given(st.binary(max_size=400))
def test_any_bytes_are_read_as_protobuf_reads_them(data: bytes) -> None:
    same(data)


def charge(**changes: Any) -> charge_pb2.Charge:
    """A charge with a voucher and a proof, with changes."""
    message = charge_pb2.Charge(
        channel_id=bytes(32), payment_id=new_payment_id(5, bytes(10)), amount=b"\x07", request_hash=bytes(32),
        ceiling=b"\x09", signature=bytes(65),
        spend_proof=charge_pb2.SpendProof(key_id=bytes(32), max_amount=b"\x08", mac=bytes(32)),
    )  # fmt: skip
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def charge_without(left_out: tuple[str, ...]) -> charge_pb2.Charge:
    """The same without some of its fields."""
    message = charge()
    for field in left_out:
        message.ClearField(field)  # type: ignore[arg-type]
    return message


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"channel_id": bytes(31)}, "charges[1].channel_id"),
        ({"channel_id": b""}, "charges[1].channel_id"),
        ({"payment_id": bytes(16)}, "charges[1].payment_id"),
        ({"amount": b"\0\x07"}, "charges[1].amount"),
        ({"amount": bytes([1] * 17)}, "charges[1].amount"),
        ({"request_hash": bytes(33)}, "charges[1].request_hash"),
        ({"ceiling": b""}, "charges[1].ceiling"),
        ({"ceiling": b"\0"}, "charges[1].ceiling"),
        ({"signature": b""}, "charges[1].signature"),
        ({"signature": bytes(64)}, "charges[1].signature"),
    ],
)
def test_a_malformed_field_is_named(changes: dict[str, bytes], field: str) -> None:
    batch = charge_pb2.StreamChargesRequest(seq=1, charges=[charge(), charge(**changes)])

    told = same(batch.SerializeToString())

    assert isinstance(told, str)
    assert told.startswith(f"{field}: got ")


@pytest.mark.parametrize("left_out", [(), ("spend_proof",), ("ceiling", "signature")])
def test_a_charge_that_borrows_from_its_neighbour_is_malformed(left_out: tuple[str, ...]) -> None:
    """The first one's length says that it ends before its proof does; what follows would complete it."""
    data = bytearray(charge_pb2.StreamChargesRequest(charges=[charge_without(left_out)] * 2).SerializeToString())
    data[1] -= 1

    assert isinstance(same(bytes(data)), str)


@pytest.mark.parametrize("left_out", [(), ("spend_proof",), ("ceiling", "signature")])
@pytest.mark.parametrize("count", [0, COUNT_MAX + 1])
def test_empty_and_too_large_batches_are_refused(count: int, left_out: tuple[str, ...]) -> None:
    batch = charge_pb2.StreamChargesRequest(seq=3, charges=[charge_without(left_out)] * count)

    with pytest.raises(MalformedError, match="charges: got"):
        read_batch(batch.SerializeToString(), COUNT_MAX)


answers = st.one_of(
    st.builds(Accepted, st.just(1), st.integers(0, 2**128 - 1), st.booleans()),
    st.builds(
        Refusal,
        st.sampled_from(list(Reason)),
        st.text(max_size=200),
        totals=st.none(),
        extra=st.just({}) | st.just({"balance": "1"}),
        retry_after_s=st.integers(0, 2**32 - 1),
    ),
)


@given(st.integers(0, 2**64 - 1), st.lists(answers, max_size=20))
def test_results_are_written_as_protobuf_writes_them(seq: int, results: list[Accepted | Refusal]) -> None:
    response = charge_pb2.StreamChargesResponse(seq=seq, results=[write_charge_result(result) for result in results])

    assert write_batch(seq, results) == response.SerializeToString()
