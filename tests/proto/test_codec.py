"""What one side writes the other reads: each value survives its message."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import payment_ids
from tallystick.channels import WITHDRAW_DELAY_S_MAX, WITHDRAW_DELAY_S_MIN, ChannelConfig
from tallystick.charges import Charge, DeferredCharge
from tallystick.codec import account, charge, common, facilitator, settlement
from tallystick.errors import MalformedError, RefusedError
from tallystick.facilitator import Attempt, Kind, Limits, Settled, Supported, Verified
from tallystick.quantities import ChannelTotals
from tallystick.reasons import Reason
from tallystick.settlements import LeftOut, Payout, Settlement, SettlementStatus
from tallystick.spend_keys import SpendProof
from tallystick.tokens import DECIMALS_MAX, Token
from tallystick.v1 import facilitator_pb2, settlement_pb2
from tallystick.x402 import ExactAuthorization, Network, PaymentTerms

words = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20)
parties = addresses.filter(any)
amounts = st.integers(0, 2**128 - 1)
uint32s = st.integers(0, 2**32 - 1)
uint64s = st.integers(0, 2**64 - 1)
texts = st.text(max_size=20)
delays = st.integers(WITHDRAW_DELAY_S_MIN, WITHDRAW_DELAY_S_MAX)

accounts = st.builds(
    ChannelConfig,
    payer=parties,
    payer_authorizer=parties,
    receiver=st.just(bytes(20)),
    receiver_authorizer=parties,
    token=parties,
    withdraw_delay_s=delays,
    salt=words,
)
channels = st.builds(ChannelConfig.channel, accounts, parties)
ids = st.builds(payment_ids.new_payment_id, st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
proofs = st.builds(SpendProof, key_id=words, max_amount=amounts, mac=words)
vouchers = st.just((0, b"")) | st.tuples(st.integers(1, 2**128 - 1), st.binary(min_size=65, max_size=65))
charges = st.builds(
    lambda voucher, **fields: Charge(ceiling=voucher[0], signature=voucher[1], **fields),
    vouchers,
    channel_id=words,
    payment_id=ids,
    amount=amounts,
    request_hash=words,
    spend=st.none() | proofs,
)
tokens = st.builds(Token, addresses, texts, st.integers(0, DECIMALS_MAX), texts, texts, amounts)
networks = st.builds(Network, st.integers(1, 2**64 - 1))
terms = st.builds(PaymentTerms, st.text(min_size=1, max_size=20), networks, amounts, addresses, addresses)
attempts = st.builds(Attempt, st.binary(min_size=16, max_size=16), words)
transfers = st.builds(ExactAuthorization, parties, addresses, amounts, uint64s, uint64s, words, st.binary(max_size=100))
depositing = st.builds(
    Kind, texts, texts, st.tuples(tokens), parties, texts, texts, parties, uint64s, uint64s, uint64s, st.just({})
)
plain = st.builds(
    Kind,
    texts,
    texts,
    st.tuples(st.builds(Token, addresses, texts, st.integers(0, DECIMALS_MAX), texts, texts)),
    extra=st.dictionaries(texts, texts, max_size=3),
)
supported = st.builds(
    Supported,
    kinds=st.tuples(depositing, plain),
    limits=st.builds(Limits, uint32s, uint32s, uint64s, uint64s),
    receivers=st.frozensets(addresses, max_size=3),
    scopes=st.frozensets(st.sampled_from(["charge", "read", "settle"])),
)
verified = st.builds(Verified, addresses, st.binary(max_size=64), uint64s, st.booleans())
settled = st.builds(Settled, addresses, amounts, amounts, st.binary(max_size=32), st.booleans())
payouts = st.lists(st.builds(Payout, addresses, addresses, amounts), max_size=3).map(tuple)
settlements = st.builds(
    Settlement,
    uint64s,
    texts,
    words,
    st.sampled_from(SettlementStatus),
    uint64s,
    uint64s,
    uint64s,
    uint32s,
    payouts,
)
left_outs = st.builds(LeftOut, texts, words, addresses, addresses, amounts, texts)
totals = st.builds(ChannelTotals, words, addresses, amounts, amounts, amounts, amounts)
approvals = st.lists(st.tuples(parties, amounts), max_size=3).map(tuple)

BOTH_WAYS: list[tuple[st.SearchStrategy[Any], Callable[[Any], Any], Callable[[Any], Any]]] = [
    (accounts, common.write_config, lambda message: common.read_account(message, "account")),
    (channels, common.write_config, lambda message: common.read_channel(message, "config")),
    (totals, common.write_channel_totals, lambda message: common.read_channel_totals(message, "totals")),
    (charges, charge.write_charge, charge.read_charge),
    (
        terms,
        lambda value: facilitator_pb2.VerifyRequest(terms=facilitator.write_terms(value)),
        facilitator.read_terms,
    ),
    (
        attempts,
        lambda value: facilitator_pb2.SettleRequest(attempt=facilitator.write_attempt(value)),
        facilitator.read_attempt,
    ),
    (st.builds(DeferredCharge, channels, charges), facilitator.write_deferred, facilitator.read_deferred),
    (transfers, facilitator.write_exact, facilitator.read_exact),
    (tokens, facilitator.write_token, lambda message: facilitator.read_token(message, "token")),
    (supported, facilitator.write_supported, facilitator.read_supported),
    (verified, facilitator.write_verified, facilitator.read_verified),
    (settled, facilitator.write_settled, facilitator.read_settled),
    (settlements, settlement.write_settlement, settlement.read_settlement),
    (left_outs, settlement.write_left_out, settlement.read_left_out),
    (approvals, account.write_totals, lambda messages: account.read_totals(messages, 3)),
]


@pytest.mark.parametrize("number", range(len(BOTH_WAYS)))
@given(data=st.data())
def test_what_is_written_is_read_as_it_was(number: int, data: st.DataObject) -> None:
    values, write, read = BOTH_WAYS[number]
    value = data.draw(values)
    assert read(write(value)) == value


@given(st.sampled_from(Reason), texts, texts, texts, texts, st.none() | totals, uint32s, texts)
def test_a_refusal_is_raised_as_it_was_written(
    reason: Reason,
    message: str,
    field: str,
    got: str,
    allowed: str,
    state: ChannelTotals | None,
    retry_after_s: int,
    code: str,
) -> None:
    written = common.write_refusal(reason, message, field, got, allowed, state, retry_after_s, code=code)
    refused = common.read_refusal(written)
    assert refused.code == code
    assert (refused.reason, refused.message, refused.field) == (reason, message, field)
    assert (refused.got, refused.allowed, refused.state, refused.retry_after_s) == (got, allowed, state, retry_after_s)
    assert written.retry is refused.retry is reason.retry
    for read in (facilitator.read_verified, facilitator.read_settled):
        answer = facilitator_pb2.VerifyResponse if read is facilitator.read_verified else facilitator_pb2.SettleResponse
        with pytest.raises(RefusedError):
            read(answer(refusal=written))  # type: ignore[arg-type]


def test_statuses_agree_with_the_generated_code() -> None:
    named = {f"SETTLEMENT_STATUS_{status.name}": status.value for status in SettlementStatus}
    assert named == dict(settlement_pb2.SettlementStatus.items())


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (facilitator_pb2.Kind(assets=[facilitator_pb2.Asset(token=bytes(19))]), "Kind.assets.token"),
        (facilitator_pb2.Kind(assets=[facilitator_pb2.Asset(token=bytes(20), decimals=37)]), "Kind.assets.decimals"),
        (facilitator_pb2.Kind(escrow=bytes(21)), "Kind.escrow"),
        (facilitator_pb2.Kind(operator=bytes(1)), "Kind.operator"),
        (facilitator_pb2.Kind(extra=b"[]"), "Kind.extra"),
    ],
)
def test_a_seller_is_as_strict_with_its_aggregator(message: facilitator_pb2.Kind, field: str) -> None:
    with pytest.raises(MalformedError) as malformed:
        facilitator.read_supported(facilitator_pb2.SupportedResponse(kinds=[message]))
    assert malformed.value.field == field


def test_neither_a_signature_nor_a_mac_is_shown() -> None:
    spend = SpendProof(b"\1" * 32, 5, b"\xab" * 32)
    shown = repr(Charge(b"\2" * 32, b"\3" * 16, 7, b"\4" * 32, 9, b"\xcd" * 65, spend))
    assert "ceiling=9" in shown
    assert "max_amount=5" in shown
    assert r"\xab" not in shown
    assert r"\xcd" not in shown
