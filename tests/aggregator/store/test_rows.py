"""Every object of the ledger comes back from its row as it went, and damage is never believed."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_stored_events import AMOUNT, BYTES16, BYTES20, BYTES32, BYTES64, CONFIG, ESCROW, SIGNATURE, TIME

from tallystick_aggregator.ledger.ceilings import NO_CEILING, UsedCeilings
from tallystick_aggregator.ledger.payments import (
    PACKED_PAYMENT_BYTES,
    PackedPayment,
    Payment,
    PaymentStatus,
    pack_charged,
    pack_payment,
)
from tallystick_aggregator.ledger.state import (
    Account,
    Approval,
    Attested,
    ChainHead,
    Channel,
    PendingRefund,
    Reservation,
    SpendKey,
)
from tallystick_aggregator.store.binary import UnstorableError
from tallystick_aggregator.store.port import StoreDamagedError
from tallystick_aggregator.store.rows import (
    PAYMENT_ROW_BYTES,
    decode_account,
    decode_channel,
    decode_head,
    decode_payment,
    decode_reservation,
    decode_spend_key,
    encode_account,
    encode_channel,
    encode_head,
    encode_payment,
    encode_reservation,
    encode_spend_key,
    seal,
)

USED = st.builds(
    lambda floor, ceilings: UsedCeilings(floor).plus(*ceilings),
    st.just(NO_CEILING) | AMOUNT,
    st.lists(st.integers(0, 2**32 - 1), max_size=40)
    | st.lists(st.integers(0, 2**64 - 1), max_size=40)
    | st.lists(AMOUNT, max_size=40),
)
COUNT = st.just(0) | st.integers(0, 2**64 - 1)
ATTESTING = st.just(()) | st.lists(st.builds(Attested, AMOUNT, COUNT), max_size=3).map(tuple)
CHANNEL = st.builds(
    Channel,
    BYTES32,
    BYTES32,
    BYTES20,
    AMOUNT,
    st.just(b"") | SIGNATURE,
    AMOUNT,
    AMOUNT,
    AMOUNT,
    USED,
    COUNT,
    ATTESTING,
)
REFUND = st.none() | st.builds(PendingRefund, BYTES32, st.integers(0, 2**200), AMOUNT)
APPROVAL = st.none() | st.builds(
    Approval, st.lists(st.tuples(BYTES20, AMOUNT), max_size=4).map(tuple), st.just(b"") | SIGNATURE
)
ACCOUNT = st.builds(
    Account,
    BYTES32,
    ESCROW,
    CONFIG,
    *[AMOUNT] * 7,
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.booleans(),
    REFUND,
    APPROVAL,
)
SPEND_KEY = st.builds(SpendKey, BYTES32, BYTES32, BYTES32, AMOUNT, TIME, AMOUNT, st.booleans())


@st.composite
def payments(draw: st.DrawFn) -> tuple[bytes, PackedPayment]:
    """Draw a key and a payment, of a reservation or not."""
    key = draw(BYTES16) + draw(BYTES32)
    handle = draw(st.just(b"") | BYTES16.map(lambda secret: key + secret))
    status = draw(st.sampled_from(PaymentStatus))
    return key, pack_payment(key, Payment(draw(AMOUNT), draw(BYTES32), status, draw(AMOUNT), draw(AMOUNT), handle))


@st.composite
def reservations(draw: st.DrawFn) -> tuple[Reservation, PackedPayment]:
    """Draw a reservation and its payment."""
    handle = draw(BYTES64)
    key_id = draw(st.just(b"") | BYTES32)
    held = Reservation(handle, handle[16:48], handle[:16], draw(AMOUNT), key_id, draw(TIME))
    status = draw(st.sampled_from(PaymentStatus))
    return held, pack_payment(handle[:48], Payment(held.amount, draw(BYTES32), status, 0, draw(AMOUNT), handle))


@given(CHANNEL)
def test_a_channel_comes_back(channel: Channel) -> None:
    assert decode_channel(channel.id, encode_channel(channel)) == channel


SIGNED = (b"s" * 65).hex()


@pytest.mark.parametrize(
    ("floor", "used", "stored"),
    [
        (NO_CEILING, (), "41 04 0000" + SIGNED + "cb1c72f3"),
        (NO_CEILING, (7, 2**32 - 1), "41 04 0002" + SIGNED + "00000007 ffffffff fc952eec"),
        (NO_CEILING, (7, 2**32), "41 08 0002" + SIGNED + "0000000000000007 0000000100000000 4019655d"),
        (NO_CEILING, (7, 2**64), "41 10 0002" + SIGNED + f"{7:032x} {2**64:032x} 613f3707"),
        (5, (2**32,), "41 88 0001" + SIGNED + f"{5:032x} 0000000100000000 1a02721a"),
        (0, (), "41 84 0000" + SIGNED + f"{0:032x} 5d648656"),
    ],
)
def test_used_ceilings_are_stored_as_they_always_were(floor: int, used: tuple[int, ...], stored: str) -> None:
    """The end of the row, after what has the same length in all: whoever has stores made before can open them."""
    channel = Channel(b"c" * 32, b"a" * 32, b"r" * 20, 2**65, b"s" * 65, 3, 2, 1, UsedCeilings(floor).plus(*used))
    row = encode_channel(channel)
    assert row[116:] == bytes.fromhex(stored)
    assert decode_channel(channel.id, row) == channel


@given(ACCOUNT)
def test_an_account_comes_back(account: Account) -> None:
    assert decode_account(account.id, encode_account(account)) == account


@given(SPEND_KEY)
def test_a_spend_key_comes_back(key: SpendKey) -> None:
    name = key.account_id + key.key_id
    assert decode_spend_key(name, encode_spend_key(name, key)) == key


@given(payments())
def test_a_payment_comes_back(drawn: tuple[bytes, PackedPayment]) -> None:
    key, payment = drawn
    row = encode_payment(key, payment)
    assert len(row) == PAYMENT_ROW_BYTES
    assert decode_payment(key, row) == payment


@given(reservations())
def test_a_reservation_comes_back_with_its_payment(drawn: tuple[Reservation, PackedPayment]) -> None:
    held, payment = drawn
    assert decode_reservation(held.handle, encode_reservation(held, payment)) == (held, payment)


@given(ESCROW.map(str).map(str.encode), TIME, BYTES32)
def test_a_head_comes_back(escrow: bytes, number: int, block_hash: bytes) -> None:
    head = ChainHead(number, block_hash)
    assert decode_head(escrow, encode_head(escrow, head)) == head


ROWS: dict[str, tuple[bytes, bytes, Callable[[bytes, bytes], Any]]] = {
    "channel": (b"c" * 32, encode_channel(Channel(b"c" * 32, bytes(32), bytes(20))), decode_channel),  # type: ignore[arg-type]
    "payment": (
        b"k" * 48,
        encode_payment(b"k" * 48, pack_charged(1, bytes(32), 1)),
        decode_payment,
    ),
    "spend key": (
        b"n" * 64,
        encode_spend_key(b"n" * 64, SpendKey(b"n" * 32, b"n" * 32, bytes(32), 1, 1)),  # type: ignore[arg-type]
        decode_spend_key,
    ),
    "head": (
        b"eip155:1",
        encode_head(b"eip155:1", ChainHead(1, bytes(32))),
        decode_head,
    ),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_that_was_cut_flipped_or_moved_is_never_believed(kind: str) -> None:
    key, row, decode = ROWS[kind]
    for length in range(len(row)):
        with pytest.raises(StoreDamagedError):
            decode(key, row[:length])
    for bit in range(8 * len(row)):
        flipped = bytearray(row)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreDamagedError):
            decode(key, bytes(flipped))
    with pytest.raises(StoreDamagedError):
        decode(key[:-1] + b"?", row)


@pytest.mark.parametrize("width", [0, 1, 5, 17, 127])
def test_used_ceilings_of_another_width_are_damage(width: int) -> None:
    body = bytearray(encode_channel(Channel(b"k" * 32, b"a" * 32, b"r" * 20))[:-4])  # type: ignore[arg-type]
    body[-3] = width
    body[-1] = 1
    with pytest.raises(StoreDamagedError, match=f"used ceilings of {width} bytes"):
        decode_channel(b"k" * 32, seal(b"k" * 32, bytes(body) + bytes(width)))


@pytest.mark.parametrize("key", [b"k" * 47, b"k" * 49])
def test_a_payment_under_a_key_of_another_length_has_no_form(key: bytes) -> None:
    with pytest.raises(UnstorableError):
        encode_payment(key, pack_charged(1, bytes(32), 1))


def test_a_payment_of_no_known_status_is_damage() -> None:
    nothing = bytes(PACKED_PAYMENT_BYTES)
    with pytest.raises(StoreDamagedError, match="no status"):
        decode_payment(b"k" * 48, encode_payment(b"k" * 48, nothing))


def test_no_error_tells_a_secret() -> None:
    key, row, _ = ROWS["spend key"]
    with pytest.raises(StoreDamagedError) as raised:
        decode_spend_key(key, row[:-1] + b"?")
    assert row[:32].hex() not in str(raised.value)


def test_a_channel_without_charges_in_step_is_stored_as_it_was_before_they_were_counted() -> None:
    channel = Channel(bytes(32), bytes(32), bytes(20), charged=7)
    plain = encode_channel(channel)
    channel.charges, channel.attesting = 3, (Attested(5, 2),)
    counted = encode_channel(channel)
    assert len(counted) - len(plain) == len(b"\1\3\1\1\1\5\1\2")
    assert decode_channel(channel.id, plain).charge_count == 0
    assert decode_channel(channel.id, counted).charge_count == 5
