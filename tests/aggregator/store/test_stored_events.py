import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.channels import WITHDRAW_DELAY_S_MAX, WITHDRAW_DELAY_S_MIN, ChannelConfig
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.binary import UnstorableError
from tallystick_aggregator.store.events import decode_entry, encode_entry
from tallystick_aggregator.store.port import StoreDamagedError

BYTES16 = st.binary(min_size=16, max_size=16)
BYTES20 = st.binary(min_size=20, max_size=20)
BYTES32 = st.binary(min_size=32, max_size=32)
BYTES64 = st.binary(min_size=64, max_size=64)
SIGNATURE = st.binary(min_size=65, max_size=65)
AMOUNT = st.integers(0, 2**128 - 1)
TIME = st.integers(0, 2**48 - 1)
ADDRESS = BYTES20.filter(any)
CONFIG = st.builds(
    ChannelConfig,
    ADDRESS,
    ADDRESS,
    BYTES20,
    ADDRESS,
    ADDRESS,
    st.integers(WITHDRAW_DELAY_S_MIN, WITHDRAW_DELAY_S_MAX),
    BYTES32,
)
ESCROW = st.builds(
    EscrowRef, st.text(min_size=1, max_size=40).filter(lambda text: ":0x" not in text), BYTES20 | st.just(b"")
)
"""Without an address as it was stored before."""
NO_KEY = st.just(b"")
BY_VOUCHER = {"used_ceiling": AMOUNT, "key_id": NO_KEY}
BY_KEY = {"used_ceiling": st.just(0), "key_id": BYTES32}

STRATEGIES: dict[Any, st.SearchStrategy[Any]] = {
    ev.AccountOpened: st.builds(ev.AccountOpened, BYTES32, ESCROW, CONFIG),
    ev.AccountMirrored: st.builds(ev.AccountMirrored, BYTES32, AMOUNT, AMOUNT, TIME),
    ev.ChannelOpened: st.builds(ev.ChannelOpened, BYTES32, BYTES32, BYTES20, AMOUNT),
    ev.ChannelClaimed: st.builds(ev.ChannelClaimed, BYTES32, AMOUNT),
    ev.CeilingRaised: st.builds(ev.CeilingRaised, BYTES32, AMOUNT, SIGNATURE),
    ev.Charged: st.one_of(
        st.builds(ev.Charged, BYTES32, BYTES16, AMOUNT, BYTES32, **proof) for proof in (BY_VOUCHER, BY_KEY)
    ),
    ev.Reserved: st.one_of(
        st.builds(ev.Reserved, BYTES32, BYTES16, AMOUNT, BYTES32, handle=BYTES64, expires_at=TIME, **proof)
        for proof in (BY_VOUCHER, BY_KEY)
    ),
    ev.Captured: st.builds(ev.Captured, BYTES64, BYTES32, BYTES16, NO_KEY | BYTES32, AMOUNT),
    ev.CapturedInStep: st.builds(ev.CapturedInStep, BYTES64, BYTES32, BYTES16, NO_KEY | BYTES32, AMOUNT),
    ev.ChargesAttested: st.builds(ev.ChargesAttested, BYTES32, AMOUNT, AMOUNT, AMOUNT),
    ev.Released: st.builds(ev.Released, BYTES64),
    ev.Expired: st.builds(ev.Expired, BYTES64),
    ev.SpendKeyRegistered: st.builds(ev.SpendKeyRegistered, BYTES32, BYTES32, BYTES32, AMOUNT, TIME),
    ev.SpendKeyRevoked: st.builds(ev.SpendKeyRevoked, BYTES32, BYTES32),
    ev.SpendKeyForgotten: st.builds(ev.SpendKeyForgotten, BYTES32, BYTES32),
    ev.RefundStarted: st.builds(ev.RefundStarted, BYTES32, BYTES32, st.integers(0, 2**256 - 1), AMOUNT),
    ev.RefundEnded: st.builds(ev.RefundEnded, BYTES32, BYTES32),
    ev.TotalsApproved: st.builds(
        ev.TotalsApproved, BYTES32, st.lists(st.tuples(BYTES20, AMOUNT), max_size=4).map(tuple), SIGNATURE
    ),
    ev.ChainAdvanced: st.builds(ev.ChainAdvanced, ESCROW, TIME, BYTES32),
    ev.PaymentsForgotten: st.builds(ev.PaymentsForgotten, TIME),
}
ENTRY = st.lists(st.one_of(*STRATEGIES.values()), max_size=12)


def test_every_kind_of_event_is_tried_below() -> None:
    assert set(STRATEGIES) == set(typing.get_args(ev.Event))


@pytest.mark.parametrize("kind", STRATEGIES, ids=lambda kind: kind.__name__)
def test_an_event_comes_back_as_it_went(kind: type) -> None:
    @given(STRATEGIES[kind])
    def check(event: ev.Event) -> None:
        (back,) = decode_entry(encode_entry([event]))
        assert back == event
        assert type(back) is kind

    check()


@given(ENTRY)
def test_an_entry_keeps_its_events_in_order(events: list[ev.Event]) -> None:
    back = decode_entry(encode_entry(events))
    assert back == events
    assert [type(event) for event in back] == [type(event) for event in events]


@given(ENTRY.filter(bool), st.data())
def test_a_cut_or_flipped_entry_is_never_believed(events: list[ev.Event], data: st.DataObject) -> None:
    entry = encode_entry(events)
    cut = data.draw(st.integers(0, len(entry) - 1))
    with pytest.raises(StoreDamagedError):
        decode_entry(entry[:cut])
    bit = data.draw(st.integers(0, 8 * len(entry) - 1))
    flipped = bytearray(entry)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StoreDamagedError):
        decode_entry(bytes(flipped))


@given(st.binary(max_size=300))
def test_garbage_under_a_right_checksum_is_damage_and_nothing_else(body: bytes) -> None:
    import zlib  # noqa: PLC0415 - only here

    entry = b"\x01" + zlib.crc32(body).to_bytes(4, "big") + body
    try:
        events = decode_entry(entry)
    except StoreDamagedError:
        return
    assert encode_entry(events) == entry, "what is read is what would be written"


def test_damage_is_told_in_one_sentence() -> None:
    with pytest.raises(StoreDamagedError, match="log entry 7 has layout version 9; 1 is known"):
        decode_entry(b"\x09\0\0\0\0", "log entry 7")
    with pytest.raises(StoreDamagedError, match="log entry 7 does not match its checksum"):
        decode_entry(b"\x01\0\0\0\1", "log entry 7")


@pytest.mark.parametrize(
    "event",
    [
        ev.Charged(bytes(31), bytes(16), 1, bytes(32), 0, b""),
        ev.Charged(bytes(32), bytes(17), 1, bytes(32), 0, b""),
        ev.Charged(bytes(32), bytes(16), 1, bytes(33), 0, b""),
        ev.Charged(bytes(32), bytes(16), 1, bytes(32), 0, bytes(31)),
        ev.Charged(bytes(32), bytes(16), 1, bytes(32), 5, bytes(32)),
        ev.Charged(bytes(32), bytes(16), -1, bytes(32), 0, b""),
        ev.Charged(bytes(32), bytes(16), 2**128, bytes(32), 0, b""),
        ev.CeilingRaised(bytes(32), 1, bytes(64)),
        ev.ChannelClaimed(bytes(32), -1),
        ev.ChannelClaimed(bytes(32), 2**256),
        ev.Released(bytes(63)),
    ],
    ids=repr,
)
def test_what_no_field_can_hold_is_refused_instead_of_bent(event: ev.Event) -> None:
    with pytest.raises(UnstorableError):
        encode_entry([event])
