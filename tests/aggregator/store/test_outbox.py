"""The outbox, in the store's file and in memory: both keep the same promises."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from driven import opened
from hypothesis import given
from hypothesis import strategies as st
from test_codec import AMOUNT, BYTES20, BYTES32, TIME

from tallystick_aggregator.store.memory import Crashed, Fault, MemoryDisk, MemoryOutbox
from tallystick_aggregator.store.port import (
    Attempt,
    OutboundTransaction,
    Outbox,
    Payout,
    StoreDamaged,
    StoreUnavailable,
    TransactionKind,
    TransactionStatus,
)
from tallystick_aggregator.store.transactions import decode_outgoing, encode_outgoing

NETWORK = "eip155:1"
ALICE, BOB, CAROL = b"a" * 20, b"b" * 20, b"c" * 20
TOKEN = b"t" * 20


def outbound(nonce: int, *receivers: bytes, kind: TransactionKind = TransactionKind.CLAIM) -> OutboundTransaction:
    return OutboundTransaction(
        id=0,
        network=NETWORK,
        kind=kind,
        reference=b"reference %d" % nonce,
        sender=b"s" * 20,
        nonce=nonce,
        to=b"e" * 20,
        data=b"data",
        gas_limit=100_000,
        attempts=(Attempt(b"h" * 32, b"raw", 10, 1, 1_800_000_000),),
        status=TransactionStatus.PENDING,
        created_at=1_800_000_000,
        rows=len(receivers),
        payouts=tuple(Payout(receiver, TOKEN, 5) for receiver in receivers),
        memo=b"memo",
    )


@pytest.fixture(params=["sqlite", "memory"])
async def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Outbox]:
    if request.param == "memory":
        yield MemoryOutbox()
        return
    async with opened(tmp_path / "store.db") as store:
        yield store.outbox


async def test_what_is_added_gets_an_id_and_is_found(outbox: Outbox) -> None:
    first = await outbox.add(outbound(0))
    second = await outbox.add(outbound(1))
    assert 0 < first.id < second.id
    assert first == replace(outbound(0), id=first.id)
    assert await outbox.by_reference(TransactionKind.CLAIM, b"reference 1") == second
    assert await outbox.by_reference(TransactionKind.REFUND, b"reference 1") is None
    assert await outbox.by_reference(TransactionKind.CLAIM, b"reference 2") is None


async def test_the_same_reference_is_added_once_and_stays_as_it_was(outbox: Outbox) -> None:
    first = await outbox.add(outbound(0))
    assert await outbox.add(replace(outbound(7), reference=first.reference)) == first
    assert await outbox.open(NETWORK) == [first]
    other_kind = await outbox.add(replace(outbound(1), reference=first.reference, kind=TransactionKind.REFUND))
    assert other_kind.id != first.id


async def test_an_update_replaces_everything(outbox: Outbox) -> None:
    added = await outbox.add(outbound(0, ALICE))
    mined = replace(
        added,
        status=TransactionStatus.MINED,
        attempts=(*added.attempts, Attempt(b"i" * 32, b"raw again", 2**90, 2**80, 1_800_000_001)),
        block_number=7,
        block_hash=b"b" * 32,
        transaction_hash=b"i" * 32,
        gas_used=99,
        effective_gas_price_wei=2**70,
        payouts=(Payout(BOB, TOKEN, 2**127),),
        memo=b"",
    )
    await outbox.update(mined)
    assert await outbox.by_reference(added.kind, added.reference) == mined
    assert await outbox.claims([ALICE], 0, 10) == []
    assert await outbox.claims([BOB], 0, 10) == [mined]


async def test_an_update_of_nothing_is_an_error(outbox: Outbox) -> None:
    with pytest.raises(ValueError, match="has no transaction 41"):
        await outbox.update(replace(outbound(0), id=41))


async def test_open_ones_come_by_nonce_and_final_ones_do_not(outbox: Outbox) -> None:
    added = [await outbox.add(outbound(nonce)) for nonce in (4, 2, 9, 1, 3)]
    for transaction, status in zip(added, TransactionStatus, strict=True):
        await outbox.update(replace(transaction, status=status))
    assert [transaction.nonce for transaction in await outbox.open(NETWORK)] == [2, 4]
    assert await outbox.open("eip155:2") == []


async def test_claims_are_found_by_receiver_newest_first(outbox: Outbox) -> None:
    one = await outbox.add(outbound(0, ALICE, BOB))
    two = await outbox.add(outbound(1, BOB, BOB, CAROL))
    three = await outbox.add(outbound(2, ALICE))
    await outbox.add(replace(outbound(3, ALICE), kind=TransactionKind.REFUND))
    assert await outbox.claims([ALICE], 0, 10) == [three, one]
    assert await outbox.claims([BOB], 0, 10) == [two, one]
    assert await outbox.claims([ALICE, CAROL, BOB], 0, 10) == [three, two, one]
    assert await outbox.claims([ALICE, BOB], 0, 2) == [three, two]
    assert await outbox.claims([ALICE, BOB], two.id, 2) == [one]
    assert await outbox.claims([b"z" * 20], 0, 10) == []
    assert await outbox.claims([], 0, 10) == []


async def test_a_claim_that_pays_a_thousand_receivers_is_found_by_each(outbox: Outbox) -> None:
    receivers = [number.to_bytes(20, "big") for number in range(1, 1_001)]
    claim = await outbox.add(outbound(0, *receivers))
    for receiver in (receivers[0], receivers[499], receivers[-1]):
        assert await outbox.claims([receiver], 0, 1) == [claim]


async def test_the_next_nonce_is_one_above_the_highest(outbox: Outbox) -> None:
    sender = b"s" * 20
    assert await outbox.next_nonce(NETWORK, sender) == 0
    await outbox.add(outbound(0))
    await outbox.add(outbound(5))
    assert await outbox.next_nonce(NETWORK, sender) == 6
    assert await outbox.next_nonce("eip155:2", sender) == 0
    assert await outbox.next_nonce(NETWORK, b"x" * 20) == 0


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
    with pytest.raises(StoreUnavailable):
        await MemoryOutbox(disk).add(outbound(0))
    with pytest.raises(Crashed):
        await MemoryOutbox(disk).add(outbound(1))
    with pytest.raises(Crashed):
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
    with pytest.raises(StoreDamaged):
        decode_outgoing(3, body[: data.draw(st.integers(0, len(body) - 1))])
    with pytest.raises(StoreDamaged):
        decode_outgoing(3, body + b"\0")
    with pytest.raises(StoreDamaged):
        decode_outgoing(3, b"\xff" + body[1:])
    with pytest.raises(StoreDamaged):
        decode_outgoing(3, body[:1] + b"\xff" + body[2:])
