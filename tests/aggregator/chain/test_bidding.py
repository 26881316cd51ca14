"""Bids: room for one more below every cap, and a way out of a dear chain for what cannot wait. Faults R3, R13."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick_aggregator.chain.sending.bidding import (
    bid,
    bump,
    raises,
    urgent_caps,
    usual_caps,
)
from tallystick_aggregator.chain.settings import FeeSettings, TokenSettings
from tallystick_aggregator.store.port import Attempt, OutboundTransaction, TransactionKind, TransactionStatus
from tallystick_chain.fees import Bid, MarketFees

GWEI = 10**9
FEES = FeeSettings()
GAS = 100_000


def waiting(*offers: Bid) -> list[OutboundTransaction]:
    """Transactions that wait, of ids from 1 on, with these bids."""
    return [
        OutboundTransaction(
            id=number,
            network="eip155:1",
            kind=TransactionKind.CLAIM,
            reference=bytes([number]) * 32,
            sender=b"\x01" * 20,
            nonce=number,
            to=b"\x02" * 20,
            data=b"",
            gas_limit=GAS,
            attempts=(Attempt(bytes(32), b"", offer.max_fee, offer.priority_fee, 0),),
            status=TransactionStatus.PENDING,
            created_at=0,
        )
        for number, offer in enumerate(offers, start=1)
    ]


def gwei(max_fee: float, priority_fee: float) -> Bid:
    return Bid(round(max_fee * GWEI), round(priority_fee * GWEI))


def test_r3_a_tip_near_its_cap_leaves_room_for_one_more_bid() -> None:
    """Tips of 48 gwei under a cap of 50: whoever bids them at first can never be replaced."""
    first = bid(MarketFees(20 * GWEI, 48 * GWEI), FEES)
    more = bump(first, first, usual_caps(FEES))
    assert more is not None
    assert more.priority_fee <= FEES.priority_fee_per_gas_wei_max


@given(
    base=st.integers(0, 10**13),
    tip=st.integers(0, 10**13),
    cap=st.integers(10, 10**12),
    tip_cap=st.integers(2, 10**12),
    urgent=st.booleans(),
)
def test_r3_every_first_bid_can_be_replaced_under_the_caps(
    base: int, tip: int, cap: int, tip_cap: int, urgent: bool
) -> None:
    fees = FeeSettings(cap, 1, min(cap, tip_cap))
    first = bid(MarketFees(base, tip), fees, urgent=urgent)
    more = bump(first, first, usual_caps(fees))
    assert more is not None
    assert first.max_fee * 9 <= more.max_fee * 8
    assert first.priority_fee * 9 <= more.priority_fee * 8
    assert more.max_fee <= cap
    assert more.priority_fee <= min(cap, tip_cap)


def test_r3_a_cap_that_stops_a_needed_bid_is_told() -> None:
    stuck = waiting(gwei(120, 48), gwei(100, 2))
    plan = raises(stuck, MarketFees(20 * GWEI, 48 * GWEI), FEES, stuck=True, stakes={})
    assert plan.bids == ()
    assert plan.blocked is stuck[0]
    assert plan.cap == usual_caps(FEES)


def test_r3_the_last_bid_under_the_cap_is_kept_while_blocks_cost_more() -> None:
    own = waiting(gwei(440, 2))
    dear = raises(own, MarketFees(600 * GWEI, GWEI), FEES, stuck=True, stakes={})
    assert (dear.bids, dear.blocked) == ((), own[0])
    (raised,) = raises(own, MarketFees(480 * GWEI, GWEI), FEES, stuck=True, stakes={}).bids
    assert 495 * GWEI <= raised[1].max_fee <= 500 * GWEI


def test_r13_what_a_withdrawal_puts_at_stake_passes_the_usual_cap_and_so_does_all_before_it() -> None:
    own = waiting(gwei(440, 2), gwei(440, 2), gwei(440, 2), gwei(440, 2))
    market = MarketFees(600 * GWEI, GWEI)
    plan = raises(own, market, FEES, stuck=False, stakes={3: None})
    assert [outbound.id for outbound, _ in plan.bids] == [1, 2, 3], "what is behind it has time"
    assert plan.blocked is None
    for _, offer in plan.bids:
        assert market.base_fee_per_gas_wei < offer.max_fee <= FEES.urgent_max_fee_wei
        assert offer.priority_fee >= 2 * GWEI


def test_r13_what_bids_enough_already_is_left_alone() -> None:
    own = waiting(gwei(1_500, 4), gwei(1_500, 4))
    assert raises(own, MarketFees(600 * GWEI, GWEI), FEES, stuck=False, stakes={2: None}).bids == ()


def test_r13_a_claim_pays_no_more_than_it_saves() -> None:
    own = waiting(gwei(440, 2), gwei(440, 2))
    market = MarketFees(600 * GWEI, GWEI)
    plan = raises(own, market, FEES, stuck=False, stakes={2: 2 * GAS * 700 * GWEI})
    assert [outbound.id for outbound, _ in plan.bids] == [1, 2]
    assert all(offer.max_fee * GAS * 2 <= 2 * GAS * 700 * GWEI for _, offer in plan.bids)
    poor = raises(own, market, FEES, stuck=False, stakes={2: 2 * GAS * 599 * GWEI})
    assert (poor.bids, poor.blocked) == ((), own[0])


def test_r13_the_cap_of_withdrawals_is_absolute() -> None:
    own = waiting(gwei(440, 2))
    plan = raises(own, MarketFees(2_100 * GWEI, GWEI), FEES, stuck=False, stakes={1: None})
    assert plan.blocked is own[0]
    assert plan.cap.max_fee == FEES.urgent_max_fee_wei == 2_000 * GWEI
    assert urgent_caps(FEES, 10**30).max_fee == 2_000 * GWEI


@given(
    offers=st.lists(st.tuples(st.integers(1, 3_000), st.integers(1, 60)), min_size=1, max_size=6),
    base=st.integers(0, 3_000),
    tip=st.integers(0, 60),
    stakes=st.dictionaries(st.integers(1, 8), st.none() | st.integers(0, 10**19), max_size=4),
    stuck=st.booleans(),
)
def test_r13_no_bid_passes_its_cap_and_each_replaces_the_one_before(
    offers: list[tuple[int, int]], base: int, tip: int, stakes: dict[int, int | None], stuck: bool
) -> None:
    own = waiting(*(gwei(max_fee, min(max_fee, priority_fee)) for max_fee, priority_fee in offers))
    plan = raises(own, MarketFees(base * GWEI, tip * GWEI), FEES, stuck=stuck, stakes=stakes)
    last_urgent = max((id_ for id_ in stakes if id_ <= len(own)), default=0)
    for outbound, offer in plan.bids:
        old = outbound.attempts[-1]
        cap = FEES.urgent_max_fee_wei if outbound.id <= last_urgent else FEES.max_fee_per_gas_wei
        assert offer.max_fee <= cap
        assert offer.max_fee * 8 >= old.max_fee_per_gas_wei * 9
        assert offer.priority_fee * 8 >= old.max_priority_fee_per_gas_wei * 9
        assert outbound.id <= max(1, last_urgent)


@pytest.mark.parametrize(("worth", "amount", "wei"), [(333_333.0, 900 * 10**6, 299_999_700 * 10**9), (0.0, 5, None)])
def test_r13_what_is_saved_is_worth_what_the_operator_says(worth: float, amount: int, wei: int | None) -> None:
    assert TokenSettings(bytes(20), "USDC", 6, "USD Coin", "2", worth_gwei=worth).worth_wei(amount) == wei
