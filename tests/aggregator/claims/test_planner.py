"""The planner: what is due, what a row claims, how rows become transactions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

import pytest
from doubles import ESCROW_REF, TOKEN, Payer
from hypothesis import given
from hypothesis import strategies as st

from tallystick_aggregator.chain.claim_plan import Group
from tallystick_aggregator.chain.deferred_escrow import CLAIM_COSTS as COSTS
from tallystick_aggregator.chain.deferred_escrow import account_claim
from tallystick_aggregator.claims.planner import EVERYTHING, Due, Packer, pack, plan_account
from tallystick_aggregator.ledger.state import Account, Approval, Channel
from tallystick_contracts.claim_batch import ClaimBatch, decode, encode, encoded_size

SIGNATURE = bytes(31) + b"\x01" + bytes(31) + b"\x01" + b"\x1b"


def seller(number: int) -> bytes:
    return sha256(b"seller %d" % number).digest()[:20]


def account(payer: Payer, *, funds: int = 10**12, claimed: int = 0, approval: Approval | None = None) -> Account:
    return Account(payer.account_id, ESCROW_REF, payer.config, funds=funds, claimed=claimed, approval=approval)


def channel(payer: Payer, number: int, charged: int, claimed: int = 0, *, ceiling: int | None = None) -> Channel:
    to = seller(number)
    most = charged if ceiling is None else ceiling
    return Channel(payer.channel_id(to), payer.account_id, to, most, SIGNATURE, charged, 0, claimed)


ALICE = Payer("alice")


def plan(
    channels: Sequence[Channel],
    *,
    due: Due = EVERYTHING,
    in_flight: Mapping[bytes, int] | None = None,
    of: Account | None = None,
) -> list[Group]:
    return plan_account(of or account(ALICE), channels, in_flight or {}, due, COSTS)


def test_a_row_claims_what_was_charged_and_never_the_ceiling() -> None:
    (group,) = plan([channel(ALICE, 1, 70, 20, ceiling=1_000)])
    (row,) = group.rows
    assert (row.total, row.before, row.amount, row.ceiling) == (70, 20, 50, 1_000)


def test_what_is_claimed_already_is_left_out() -> None:
    assert plan([channel(ALICE, 1, 70, 70)]) == []


def test_what_is_in_flight_is_left_out_and_the_rest_is_claimed() -> None:
    known = channel(ALICE, 1, 70)
    assert plan([known], in_flight={known.id: 70}) == []
    (group,) = plan([known], in_flight={known.id: 30})
    assert group.amount == 40


def test_a_channel_below_the_minimum_waits_until_it_is_old() -> None:
    small, big = channel(ALICE, 1, 99), channel(ALICE, 2, 100)
    (group,) = plan([small, big], due=Due(100))
    assert [row.channel_id for row in group.rows] == [big.id]
    (group,) = plan([small, big], due=Due(100, frozenset({small.id})))
    assert [row.channel_id for row in group.rows] == [small.id, big.id]


def test_asked_receivers_are_due_whatever_the_amount_and_others_are_not() -> None:
    (group,) = plan([channel(ALICE, 1, 1), channel(ALICE, 2, 10**9)], due=Due(100, receivers=frozenset({seller(1)})))
    assert [row.receiver for row in group.rows] == [seller(1)]


def test_an_account_that_holds_nothing_is_not_claimed() -> None:
    assert plan([channel(ALICE, 1, 70)], of=account(ALICE, funds=50, claimed=50)) == []


def test_a_channel_whose_voucher_does_not_cover_its_charges_is_not_claimed() -> None:
    """As on the canonical escrow after a receiver claimed by itself: no row of ours could pay more."""
    assert plan([channel(ALICE, 1, 70, ceiling=69)]) == []


def approved(*totals: int) -> Account:
    return account(ALICE, approval=Approval(tuple((seller(n), total) for n, total in enumerate(totals)), SIGNATURE))


def test_an_approval_of_all_totals_takes_the_place_of_vouchers() -> None:
    (group,) = plan([channel(ALICE, 0, 50, ceiling=99), channel(ALICE, 1, 60)], of=approved(50, 60))
    assert group.approval == SIGNATURE
    assert [(row.receiver, row.total, row.ceiling) for row in group.rows] == [(seller(0), 50, 50), (seller(1), 60, 60)]


def test_an_approval_goes_whole_and_in_its_order_even_where_a_row_has_nothing_new() -> None:
    channels = [channel(ALICE, n, 50, 50 if n == 1 else 0) for n in range(8)]
    (group,) = plan(channels, of=approved(*[50] * 8))
    assert [row.amount for row in group.rows] == [50, 0, *[50] * 6]


def test_an_approval_that_fits_into_no_transaction_is_left_for_vouchers() -> None:
    channels = [channel(ALICE, n, 50) for n in range(600)]
    (group,) = plan(channels, of=approved(*[50] * 600))
    assert group.approval is None
    (whole,) = plan(channels[:250], of=approved(*[50] * 250))
    assert whole.approval == SIGNATURE
    (batch,) = pack(TOKEN, [whole], COSTS)
    assert batch.gas <= COSTS.batch_gas_max


def test_an_account_that_is_being_withdrawn_is_claimed_by_vouchers() -> None:
    leaving = approved(50, 60)
    leaving.withdrawing = leaving.withdraw_finalizes_at = 1
    (group,) = plan([channel(ALICE, 0, 50), channel(ALICE, 1, 60)], of=leaving)
    assert group.approval is None


def test_what_was_charged_beyond_an_approval_is_claimed_by_voucher() -> None:
    channels = [channel(ALICE, n, 50 if n else 80) for n in range(20)]
    by_approval, by_voucher = plan(channels, of=approved(*[50] * 20))
    assert by_approval.approval == SIGNATURE
    assert [(row.receiver, row.total, row.amount) for row in by_voucher.rows] == [(seller(0), 80, 30)]
    assert by_approval.amount + by_voucher.amount == 20 * 50 + 30


def test_an_approval_that_most_channels_have_outgrown_is_not_used() -> None:
    (group,) = plan([channel(ALICE, n, 80) for n in range(4)], of=approved(50, 50, 50, 50))
    assert group.approval is None


def test_an_approval_above_what_was_charged_is_never_used() -> None:
    (group,) = plan([channel(ALICE, 0, 50), channel(ALICE, 1, 60)], of=approved(50, 61))
    assert group.approval is None


def test_one_row_goes_by_voucher() -> None:
    (group,) = plan([channel(ALICE, 0, 50)], of=approved(50))
    assert group.approval is None


def test_an_approval_that_no_transaction_can_hold_gives_way_to_vouchers() -> None:
    channels = [channel(ALICE, n, 50, 1) for n in range(7_000)]
    (group,) = plan(channels, of=approved(*[50] * 7_000))
    assert group.approval is None
    batches = pack(TOKEN, [group], COSTS)
    assert sum(batch.rows for batch in batches) == 7_000


def test_a_transaction_is_cut_by_bytes_and_by_gas() -> None:
    steady = Group(account(ALICE), plan([channel(ALICE, n, 50, 1) for n in range(3_000)])[0].rows, None)
    for batch in pack(TOKEN, [steady], COSTS):
        data = encode(ClaimBatch(ALICE.config.receiver_authorizer, TOKEN, tuple(map(account_claim, batch.groups))))
        assert len(data) <= COSTS.batch_bytes_max
        assert batch.gas <= COSTS.batch_gas_max
    fresh = plan([channel(ALICE, n, 50) for n in range(3_000)])
    assert len(pack(TOKEN, fresh, COSTS)) > len(pack(TOKEN, [steady], COSTS))


def test_receivers_are_paid_once_a_transaction() -> None:
    payers = [Payer(f"payer {number}") for number in range(20)]
    groups = [
        group
        for payer in payers
        for group in plan_account(account(payer), [channel(payer, 1, 5)], {}, EVERYTHING, COSTS)
    ]
    (batch,) = pack(TOKEN, groups, COSTS)
    (payout,) = batch.payouts
    assert (payout.receiver, payout.token, payout.amount) == (seller(1), TOKEN, 100)


def test_halves_hold_the_same_rows_and_leave_an_approval_whole() -> None:
    by_approval, by_voucher = plan([channel(ALICE, n, 50 if n else 80) for n in range(20)], of=approved(*[50] * 20))
    (batch,) = pack(TOKEN, [by_approval, by_voucher], COSTS)
    halves = batch.halves(COSTS)
    assert halves is not None
    assert [half.groups[0].approval for half in halves] == [SIGNATURE, None]
    assert halves[0].halves(COSTS) is None
    assert halves[1].halves(COSTS) is None


rows_of_accounts = st.lists(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 10**6), st.booleans()), max_size=30, unique_by=lambda row: row[0]
    ),
    max_size=12,
)


@given(rows_of_accounts, st.integers(2, 40), st.integers(0, 2**32))
def test_every_due_row_is_in_exactly_one_transaction_and_none_is_too_big(
    accounts: list[list[tuple[int, int, bool]]], rows_per_batch: int, bytes_more: int
) -> None:
    gas_max = COSTS.fixed_gas + rows_per_batch * (
        COSTS.voucher_row_gas + COSTS.first_claim_gas + COSTS.receiver_gas + COSTS.account_gas
    )
    bytes_max = 400 + bytes_more % 5_000
    packer = Packer(TOKEN, replace(COSTS, batch_gas_max=gas_max, batch_bytes_max=bytes_max))
    groups: list[Group] = []
    for number, rows in enumerate(accounts):
        payer = Payer(f"payer {number}")
        channels = [channel(payer, to, charged, 0 if first else charged // 2) for to, charged, first in rows]
        groups += plan_account(account(payer), channels, {}, EVERYTHING, COSTS)
    batches = [batch for group in groups for batch in packer.add(group)]
    batches += packer.finish()

    planned = [(row.channel_id, row.total) for group in groups for row in group.rows]
    packed = [(row.channel_id, row.total) for batch in batches for group in batch.groups for row in group.rows]
    assert packed == planned
    for batch in batches:
        encoded = ClaimBatch(ALICE.config.receiver_authorizer, TOKEN, tuple(map(account_claim, batch.groups)))
        assert encoded_size(encoded) == batch.bytes <= bytes_max
        assert batch.gas <= gas_max
        assert decode(encode(encoded)) == encoded
        assert sum(payout.amount for payout in batch.payouts) == sum(group.amount for group in batch.groups)


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100)), max_size=12
    ),
    st.booleans(),
)
def test_a_plan_claims_all_that_is_open_and_nothing_above_what_was_charged(
    spec: list[tuple[int, int, int, int]], with_approval: bool
) -> None:
    """Whatever is claimed, in flight or approved (I6)."""
    channels, in_flight, totals = [], {}, []
    for number, (charged, claimed, flying, total) in enumerate(spec):
        known = channel(ALICE, number, charged, min(claimed, charged), ceiling=charged + 7)
        channels.append(known)
        in_flight[known.id] = min(flying, charged)
        totals.append((seller(number), min(total, charged)))
    approval = Approval(tuple(totals), SIGNATURE) if with_approval and totals else None
    groups = plan(channels, in_flight=in_flight, of=account(ALICE, approval=approval))
    reached = {known.id: max(known.claimed, in_flight[known.id]) for known in channels}
    paid = sum(group.amount for group in groups)
    opened = sum(known.charged - reached[known.id] for known in channels)
    for group in groups:
        for row in group.rows:
            reached[row.channel_id] = max(reached[row.channel_id], row.total)
    assert reached == {known.id: known.charged for known in channels}
    assert paid == opened


def test_a_claim_that_fits_nowhere_is_a_fault_of_the_limits() -> None:
    (group,) = plan([channel(ALICE, 1, 5)])
    with pytest.raises(ValueError, match="does not fit"):
        list(Packer(TOKEN, replace(COSTS, batch_gas_max=1)).add(group))
