"""The outbox's stored form, its restart and the twin's failures; `conformance` has what every outbox promises."""

from pathlib import Path

import pytest
from conformance import ALICE, NETWORK, outbound
from driven import opened
from failing_disk import CrashedError, Fault, MemoryDisk
from hypothesis import given
from hypothesis import strategies as st
from test_stored_events import AMOUNT, BYTES20, BYTES32, TIME

from tallystick_aggregator.store.memory import MemoryOutbox
from tallystick_aggregator.store.port import (
    Attempt,
    OutboundTransaction,
    Payout,
    StoreDamagedError,
    StoreUnavailableError,
    TransactionKind,
    TransactionStatus,
)
from tallystick_aggregator.store.transactions import decode_outgoing, encode_outgoing


async def test_the_outbox_is_there_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as store:
        added = [await store.outbox.add(outbound(nonce, ALICE)) for nonce in range(3)]
    async with opened(tmp_path / "store.db") as store:
        assert await store.outbox.open(NETWORK) == added
        assert await store.outbox.claims([ALICE], 0, 9) == added[::-1]
    disk = MemoryDisk()
    added = [await MemoryOutbox(disk).add(outbound(nonce)) for nonce in range(3)]
    assert await MemoryOutbox(disk).open(NETWORK) == added


async def test_a_refused_write_to_the_twin_leaves_nothing_and_a_crash_leaves_what_was_written() -> None:
    faults = iter([Fault.REFUSED, Fault.CRASH_BEFORE, Fault.CRASH_AFTER])
    disk = MemoryDisk(plan=lambda _: next(faults, Fault.NONE))
    with pytest.raises(StoreUnavailableError):
        await MemoryOutbox(disk).add(outbound(0))
    with pytest.raises(CrashedError):
        await MemoryOutbox(disk).add(outbound(1))
    with pytest.raises(CrashedError):
        await MemoryOutbox(disk).add(outbound(2))
    assert [transaction.nonce for transaction in await MemoryOutbox(disk).open(NETWORK)] == [2]


TEXT = st.text(max_size=30)
BLOB = st.binary(max_size=64)
ATTEMPT = st.builds(Attempt, BLOB, BLOB, AMOUNT, AMOUNT, TIME)
OUTGOING = st.builds(
    OutboundTransaction,
    id=st.just(3),
    network=TEXT,
    kind=st.sampled_from(TransactionKind),
    reference=BLOB,
    sender=BYTES20,
    nonce=TIME,
    to=BYTES20,
    data=st.binary(max_size=500),
    gas_limit=TIME,
    attempts=st.lists(ATTEMPT, max_size=3).map(tuple),
    status=st.sampled_from(TransactionStatus),
    created_at=TIME,
    block_number=TIME,
    block_hash=st.just(b"") | BYTES32,
    transaction_hash=st.just(b"") | BYTES32,
    gas_used=TIME,
    effective_gas_price_wei=AMOUNT,
    rows=TIME,
    payouts=st.lists(st.builds(Payout, BYTES20, BYTES20, AMOUNT), max_size=3).map(tuple),
    memo=BLOB,
)


@given(OUTGOING)
def test_a_transaction_comes_back_as_it_went(transaction: OutboundTransaction) -> None:
    assert decode_outgoing(3, encode_outgoing(transaction)) == transaction


@given(OUTGOING, st.data())
def test_a_cut_transaction_is_never_believed(transaction: OutboundTransaction, data: st.DataObject) -> None:
    body = encode_outgoing(transaction)
    with pytest.raises(StoreDamagedError):
        decode_outgoing(3, body[: data.draw(st.integers(0, len(body) - 1))])
    with pytest.raises(StoreDamagedError):
        decode_outgoing(3, body + b"\0")
    with pytest.raises(StoreDamagedError):
        decode_outgoing(3, b"\xff" + body[1:])
    with pytest.raises(StoreDamagedError):
        decode_outgoing(3, body[:1] + b"\xff" + body[2:])
