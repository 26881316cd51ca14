"""What 402s, answers and /supported say of batch-settlement: written and read alike, each broken field by name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from x402.mechanisms.evm.batch_settlement import types as official

from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum
from tallystick.x402.batch_settlement import (
    BatchSettlementSupport,
    ChannelState,
    Settlement,
    VoucherState,
    corrective_extra,
    pack_refund_authorizer,
    packed_refund_authorizer,
    read_channel_state,
    read_correction,
    read_settlement,
    verified_extra,
)
from tallystick.x402.terms import BatchSettlementTerms, read_batch_settlement_terms

words = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20)
amounts = st.integers(0, 2**128 - 1)
seconds = st.integers(0, 2**40 - 1)
names = st.text(min_size=1, max_size=20)
states = st.builds(
    ChannelState,
    channel_id=words,
    balance=amounts,
    total_claimed=amounts,
    withdraw_requested_at=seconds,
    refund_nonce=st.integers(0, 2**256 - 1),
    charged=st.none() | amounts,
)
vouchers = st.builds(VoucherState, amounts, st.binary(min_size=65, max_size=65))
settlements = st.builds(Settlement, states, st.none() | amounts, st.none() | st.integers(0, 2**64 - 1))
terms = st.builds(
    BatchSettlementTerms,
    receiver_authorizer=addresses,
    withdraw_delay_s=seconds,
    name=names,
    version=names,
    asset_transfer_method=st.sampled_from(["eip3009", "permit2"]),
    min_deposit=st.none() | amounts,
    voucher_manager=st.sampled_from(["server", "facilitator"]),
    refund_authorizer=st.none() | addresses,
)
STATE = ChannelState(b"\1" * 32, 1000, 20, 0, 3, 40)
TERMS = BatchSettlementTerms(b"\2" * 20, 900, "USDC", "2")


@given(terms)
def test_terms_are_written_as_they_are_read(offer: BatchSettlementTerms) -> None:
    assert read_batch_settlement_terms(offer.extra()) == offer
    theirs = official.PaymentRequirementsExtra.from_dict(offer.extra())
    assert (theirs.withdraw_delay, theirs.name) == (offer.withdraw_delay_s, offer.name)


@given(states, vouchers)
def test_states_are_written_as_they_are_read(state: ChannelState, voucher: VoucherState) -> None:
    assert read_correction(corrective_extra(state, voucher)) == (state, voucher)
    assert read_correction(corrective_extra(state, None)) == (state, None)
    assert read_channel_state(verified_extra(state, "0xab"), "extra") == state
    theirs = official.ChannelStateExtra.from_dict(state.extra())
    assert theirs.to_dict() == state.extra()
    assert official.VoucherStateExtra.from_dict(voucher.extra()).to_dict() == voucher.extra()


@given(settlements)
def test_settlements_are_written_as_they_are_read(settlement: Settlement) -> None:
    assert read_settlement(settlement.extra()) == settlement


def test_a_402_without_a_state_corrects_nothing() -> None:
    assert read_correction(TERMS.extra()) is None


@pytest.mark.parametrize("empty", [None, {}])
def test_a_state_of_a_voucher_that_is_empty_is_none(empty: Any) -> None:
    state = ChannelState(bytes(32), 2, 0, 0, 0, 1)
    assert read_correction({**corrective_extra(state, None), "voucherState": empty}) == (state, None)


def test_the_server_manages_vouchers_where_nothing_is_said() -> None:
    assert not read_batch_settlement_terms(TERMS.extra()).is_managed
    assert "voucherManager" not in TERMS.extra()
    assert read_batch_settlement_terms({**TERMS.extra(), "voucherManager": "facilitator"}).is_managed


def test_supported_says_both_modes_and_whose_refunds_are_known() -> None:
    support = BatchSettlementSupport(b"\2" * 20, 604_800, delegated_refund=True)
    assert support.extra() == {
        "receiverAuthorizer": checksum(b"\2" * 20),
        "withdrawDelay": 604_800,
        "voucherManager": ["server", "facilitator"],
        "delegatedRefund": True,
    }


def test_a_total_may_be_a_number_while_every_reader_has_it_exact() -> None:
    written: dict[str, Any] = {**STATE.extra(), "totalClaimed": 20}
    assert read_channel_state(written, "channelState") == STATE
    for total in (2**53, -1, True, "020", " 20", "+20", 20.0, None):
        with pytest.raises(MalformedError, match=r"^channelState\.totalClaimed"):
            read_channel_state({**STATE.extra(), "totalClaimed": total}, "channelState")


@pytest.mark.parametrize("index", [0, 1, 2**96 - 1])
def test_a_salt_that_counts_channels_keeps_its_count(index: int) -> None:
    packed = pack_refund_authorizer(index.to_bytes(32, "big"), b"\7" * 20)
    assert packed == index.to_bytes(12, "big") + b"\7" * 20
    assert packed_refund_authorizer(packed) == b"\7" * 20


@given(words, addresses)
def test_any_other_salt_keeps_its_first_bytes(salt: bytes, address: bytes) -> None:
    packed = pack_refund_authorizer(salt, address)
    assert packed[12:] == address == packed_refund_authorizer(packed)
    assert packed[:12] == (salt[:12] if any(salt[:12]) else salt[20:])
    # Of a packed salt the same again, so that nobody packs twice.
    if any(packed[:12]):
        assert pack_refund_authorizer(packed, address) == packed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("receiverAuthorizer", "0x12"),
        ("withdrawDelay", "900"),
        ("withdrawDelay", True),
        ("name", ""),
        ("version", 2),
        ("assetTransferMethod", "erc7710"),
        ("minDeposit", "1.5"),
        ("voucherManager", "both"),
        ("voucherManager", ["server"]),
        ("refundAuthorizer", 5),
    ],
)
def test_broken_terms_are_named(name: str, value: Any) -> None:
    with pytest.raises(MalformedError) as error:
        read_batch_settlement_terms({**TERMS.extra(), name: value})
    assert error.value.field == f"extra.{name}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("channelId", "0x12"),
        ("balance", 1000),
        ("withdrawRequestedAt", "0"),
        ("withdrawRequestedAt", -1),
        ("refundNonce", 3),
        ("chargedCumulativeAmount", "-1"),
    ],
)
def test_a_broken_state_is_named(name: str, value: Any) -> None:
    with pytest.raises(MalformedError) as error:
        read_correction({"channelState": {**STATE.extra(), name: value}})
    assert error.value.field == f"extra.channelState.{name}"


def test_a_broken_answer_is_named() -> None:
    good = Settlement(STATE, 5, 2).extra()
    for name, value in (("chargedAmount", 5), ("chargeCount", "2"), ("chargeCount", -1), ("channelState", "none")):
        with pytest.raises(MalformedError) as error:
            read_settlement({**good, name: value})
        assert error.value.field == f"extra.{name}"
    with pytest.raises(MalformedError, match=r"extra\.voucherState\.signature"):
        read_correction({**corrective_extra(STATE, None), "voucherState": {"signedMaxClaimable": "5"}})
