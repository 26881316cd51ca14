"""The compact encoding of claim batches: one encoding for every batch, strict about everything else."""

from dataclasses import replace

import pytest
from batch_strategies import batches
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick_contracts.claim_batch import (
    AMOUNT_MAX,
    AccountClaim,
    ClaimBatch,
    ClaimBatchError,
    ClaimRow,
    decode,
    encode,
    encoded_size,
)

VOUCHER = ClaimRow(b"\xaa" * 20, 5, 9, b"\x01" * 32 + b"\x02" * 32 + b"\x1c")
APPROVED = ClaimRow(b"\xaa" * 20, 5, 5, None)
ACCOUNT = AccountClaim(b"\x11" * 20, b"\x22" * 20, 86_400, b"\x33" * 32, (VOUCHER,))
BATCH = ClaimBatch(b"\x44" * 20, b"\x55" * 20, (ACCOUNT,))


def with_row(**changes: object) -> ClaimBatch:
    return replace(BATCH, accounts=(replace(ACCOUNT, rows=(replace(VOUCHER, **changes),)),))  # type: ignore[arg-type]


@settings(max_examples=300)
@given(batches())
def test_decode_returns_what_was_encoded(batch: ClaimBatch) -> None:
    data = encode(batch)
    assert decode(data) == batch
    assert encoded_size(batch) == len(data)


@settings(max_examples=300)
@given(st.binary(max_size=400) | batches().map(encode), st.integers(0, 400), st.integers(1, 255))
def test_damaged_bytes_are_refused_or_mean_another_batch(data: bytes, position: int, flip: int) -> None:
    damaged = bytearray(data)
    if damaged:
        damaged[position % len(damaged)] ^= flip
    try:
        batch = decode(bytes(damaged))
    except ClaimBatchError:
        return
    assert encode(batch) == bytes(damaged)


@given(batches(), st.data())
def test_a_batch_cut_short_names_the_missing_field(batch: ClaimBatch, data: st.DataObject) -> None:
    encoded = encode(batch)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(ClaimBatchError, match=r"^[a-z_ ]+: \d+ bytes expected at \d+, but the batch ends at \d+$"):
        decode(encoded[:cut])


def test_bytes_after_the_batch_are_refused() -> None:
    with pytest.raises(ClaimBatchError, match="nothing may follow"):
        decode(encode(BATCH) + b"\x00")


def test_the_encoding_is_the_documented_one() -> None:
    row = b"\x00\x00" + (5).to_bytes(16, "big") + (9).to_bytes(16, "big") + b"\x01" * 32 + b"\x82" + b"\x02" * 31
    account = b"\x11" * 20 + b"\x22" * 20 + (86_400).to_bytes(5, "big") + b"\x33" * 32 + b"\x00" + b"\x00\x01" + row
    header = b"\x44" * 20 + b"\x55" * 20 + b"\x00\x01" + b"\xaa" * 20 + b"\x00\x01"
    assert encode(BATCH) == header + account


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (replace(BATCH, operator=b"\x01"), "operator: got 1 bytes; 20 are allowed"),
        (replace(BATCH, token=b""), "token: got 0 bytes; 20 are allowed"),
        (with_row(receiver=b"\x01" * 21), "receiver: got 21 bytes; 20 are allowed"),
        (with_row(total_claimed=-1), "total_claimed: got -1; 0 to"),
        (with_row(total_claimed=2**128), f"total_claimed: got {2**128}; 0 to {AMOUNT_MAX} is allowed"),
        (with_row(max_claimable_amount=2**128), "max_claimable_amount: got"),
        (with_row(signature=None), "signature: got None"),
        (with_row(signature=b"\x01" * 64), "signature: got 64 bytes; 65 are allowed"),
        (with_row(signature=b"\x01" * 64 + b"\x00"), "signature: got v = 0; 27 or 28 is allowed"),
        (with_row(signature=b"\xff" * 64 + b"\x1b"), "signature: s is above half"),
        (replace(BATCH, accounts=(replace(ACCOUNT, withdraw_delay_s=2**40),)), "withdraw_delay_s: got"),
        (replace(BATCH, accounts=(replace(ACCOUNT, salt=b"\x01" * 31),)), "salt: got 31 bytes; 32 are allowed"),
        (replace(BATCH, accounts=(replace(ACCOUNT, approval=b"\x01" * 64 + b"\x1b"),)), "signature: a row of an"),
        (
            replace(
                BATCH,
                accounts=(
                    replace(
                        ACCOUNT,
                        approval=b"\x01" * 64 + b"\x1b",
                        rows=(replace(APPROVED, max_claimable_amount=6),),
                    ),
                ),
            ),
            "max_claimable_amount: got 6; by approval it equals total_claimed, 5",
        ),
        (replace(BATCH, accounts=(ACCOUNT,) * 2**16), "number of accounts: got 65536; 0 to 65535"),
    ],
)
def test_what_cannot_be_encoded_is_named(batch: ClaimBatch, message: str) -> None:
    with pytest.raises(ClaimBatchError, match=f"^{message}"):
        encode(batch)


def receivers_field(*receivers: bytes) -> bytes:
    return len(receivers).to_bytes(2, "big") + b"".join(receivers)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (b"\x33" * 32 + b"\x00", b"\x33" * 32 + b"\x02", "authorization: got 2"),
        (b"\x00\x01\x00\x00" + bytes(15), b"\x00\x01\x00\x01" + bytes(15), "receiver index: got 1; the batch lists 1"),
        (receivers_field(b"\xaa" * 20), receivers_field(b"\xaa" * 20, b"\xbb" * 20), "receivers: not in the order"),
        (receivers_field(b"\xaa" * 20), receivers_field(b"\xaa" * 20, b"\xaa" * 20), "receivers: one is listed twice"),
        (b"\x82" + b"\x02" * 31, b"\xff" * 32, "signature: s is above half"),
    ],
)
def test_what_encode_would_not_write_is_not_decoded(before: bytes, after: bytes, message: str) -> None:
    data = encode(BATCH)
    assert data.count(before) == 1
    with pytest.raises(ClaimBatchError, match=f"^{message}"):
        decode(data.replace(before, after))
