"""The suffix of calldata by ERC-8021: as the specification writes it, and as the official package reads it."""

from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from x402.extensions.builder_code import cbor as official

from tallystick_contracts.attribution import (
    MARKER,
    charge_counts_suffix,
    encode_suffix,
    read_charge_counts,
    split_suffix,
)

counts = st.lists(st.integers(0, 2**64 - 1), max_size=100)
# The example of scheme_batch_settlement_evm.md, "Claim attestation": counts 3, 0 and 41.
EXAMPLE = bytes.fromhex("616d" + "a1" + "70" + b"x402ChargeCounts".hex() + "83" + "03" + "00" + "1829")


def test_counts_are_encoded_as_the_specification_shows() -> None:
    suffix = charge_counts_suffix([3, 0, 41])
    assert suffix == b"\xa1" + EXAMPLE + len(b"\xa1" + EXAMPLE).to_bytes(2, "big") + b"\x02" + MARKER


def test_a_builder_code_rides_in_the_same_suffix() -> None:
    suffix = charge_counts_suffix([3, 0, 41], "bc_myfacilitator")
    assert split_suffix(suffix)[1] == {"w": "bc_myfacilitator", "m": {"x402ChargeCounts": [3, 0, 41]}}
    assert suffix.count(MARKER) == 1


def test_where_nothing_is_to_be_said_there_is_no_suffix() -> None:
    assert charge_counts_suffix([]) == b""


def test_the_official_package_reads_a_builder_code_of_ours() -> None:
    calldata = "0x12345678" + charge_counts_suffix([], "bc_ours").hex()
    parsed = official.parse_builder_code_suffix_from_calldata(calldata)
    assert parsed is not None
    assert parsed.w == "bc_ours"
    theirs = bytes.fromhex(official.encode_builder_code_suffix(parsed)[2:])
    assert split_suffix(b"\1" + theirs) == (b"\1", {"w": "bc_ours"})


@given(st.binary(max_size=200), counts)
@example(b"", [23, 24, 255, 256, 65_535, 65_536])
def test_what_was_appended_comes_off_again(calldata: bytes, row_counts: list[int]) -> None:
    whole = calldata + encode_suffix({"m": {"x402ChargeCounts": row_counts}})
    rest, entries = split_suffix(whole)
    assert rest == calldata
    assert read_charge_counts(entries) == tuple(row_counts)


@given(st.binary(max_size=80))
def test_any_calldata_can_be_looked_at(calldata: bytes) -> None:
    for data in (calldata, calldata + MARKER, calldata + b"\x02" + MARKER):
        rest, entries = split_suffix(data)
        assert data.startswith(rest)
        read_charge_counts(entries)


@pytest.mark.parametrize(
    "entries",
    [
        None,
        {},
        {"m": 5},
        {"m": {}},
        {"m": {"x402ChargeCounts": 3}},
        {"m": {"x402ChargeCounts": [1, -1]}},
        {"m": {"x402ChargeCounts": [1.0]}},
        {"m": {"x402ChargeCounts": [True]}},
        {"m": {"x402ChargeCounts": ["1"]}},
        {"m": {"x402ChargeCounts": [2**64]}},
    ],
)
def test_what_is_no_list_of_counts_attests_nothing(entries: Any) -> None:
    assert read_charge_counts(entries) is None


def test_a_suffix_of_another_kind_is_left_where_it_is() -> None:
    schema_0 = b"bc_code" + bytes([7, 0]) + MARKER
    broken = b"\xff\xff" + (2).to_bytes(2, "big") + b"\x02" + MARKER
    no_map = cbor2.dumps([1]) + (2).to_bytes(2, "big") + b"\x02" + MARKER
    too_long = b"\xa0" + (500).to_bytes(2, "big") + b"\x02" + MARKER
    for suffix in (schema_0, broken, no_map, too_long, MARKER, b""):
        assert split_suffix(b"\1\2\3\4" + suffix) == (b"\1\2\3\4" + suffix, None)


def test_counts_that_cannot_be_are_refused() -> None:
    for count in (-1, 2**64):
        with pytest.raises(ValueError, match="charge count"):
            charge_counts_suffix([count])
    with pytest.raises(ValueError, match="allowed are 65535"):
        charge_counts_suffix([2**64 - 1] * 8_000)
