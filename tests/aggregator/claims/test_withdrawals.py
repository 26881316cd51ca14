"""Withdrawals: which are answered by a claim, how fast, and when it is time for an alarm. Faults G2, R13."""

import pytest
from doubles import NETWORK, Payer
from hypothesis import given
from hypothesis import strategies as st

from tallystick_aggregator.claims.withdrawals import (
    LANDING_S,
    PAUSE_S,
    URGENT_PAUSE_S,
    Look,
    Withdrawals,
    could_reach,
)
from tallystick_aggregator.ledger.state import Account

ALICE = Payer("alice")
DELAY_S = ALICE.config.withdraw_delay_s
MARGIN_S = 3_600
START = 1_800_000_000.0


def account(
    *, funds: int = 1_000, charged: int = 300, claimed: int = 0, withdrawing: int = 0, at: float = 0, reserved: int = 0
) -> Account:
    return Account(
        ALICE.account_id,
        NETWORK,
        ALICE.config,
        funds=funds,
        committed=max(charged, claimed) + reserved,
        reserved=reserved,
        claimed=claimed,
        withdrawing=withdrawing,
        withdraw_finalizes_at=int(at),
    )


class Following:
    """One account that is looked at whenever a test says so."""

    def __init__(self) -> None:
        self.withdrawals = Withdrawals(MARGIN_S)
        self.claims: list[float] = []

    def look(self, of: Account, now: float) -> Look:
        self.withdrawals.begin([of])
        look = self.withdrawals.look({of.id: of}.__getitem__, now)
        if look.due:
            self.claims.append(now)
            self.withdrawals.claimed(look.due, now)
            self.withdrawals.tried(look.due, now)
        return look


@pytest.fixture
def following() -> Following:
    return Following()


@pytest.mark.parametrize(
    ("withdrawing", "charged", "claimed", "reserved", "reaches"),
    [
        (1, 300, 0, 0, False),
        (700, 300, 0, 0, False),
        (701, 300, 0, 0, True),
        (1_000, 1, 0, 0, True),
        (600, 300, 0, 101, True),
        (1_000, 300, 300, 0, False),
        (701, 300, 299, 0, True),
    ],
)
def test_g2_a_withdrawal_matters_if_what_was_charged_would_not_be_there_any_more(
    withdrawing: int, charged: int, claimed: int, reserved: int, reaches: bool
) -> None:
    of = account(charged=charged, claimed=claimed, withdrawing=withdrawing, reserved=reserved)
    assert could_reach(of) is reaches


def test_g2_one_unit_withdrawn_and_cancelled_again_and_again_costs_no_claim(following: Following) -> None:
    for cycle in range(35):
        now = START + cycle * 30
        following.look(account(withdrawing=1, at=now + DELAY_S), now)
        following.look(account(), now + 15)
    assert following.claims == []


def test_g2_all_withdrawn_and_cancelled_again_and_again_costs_ever_fewer_claims(following: Following) -> None:
    for cycle in range(35):
        now = START + cycle * 30
        following.look(account(withdrawing=1_000, at=now + DELAY_S, claimed=cycle), now)
        following.look(account(), now + 15)
    assert following.claims[0] == START, "an honest one is answered at once"
    assert len(following.claims) <= 5
    gaps = [later - earlier for earlier, later in zip(following.claims, following.claims[1:], strict=False)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= PAUSE_S


def test_g2_a_paced_account_is_claimed_in_good_time_before_the_margin(following: Following) -> None:
    following.withdrawals.claimed([ALICE.account_id], START)
    for doubling in range(12):
        following.withdrawals.claimed([ALICE.account_id], START + doubling)
    ends = START + DELAY_S
    of = account(withdrawing=1_000, at=ends)
    for now in range(int(START) + 60, int(ends) - MARGIN_S - int(LANDING_S), 300):
        assert not following.look(of, now).newly_late
        assert following.claims == []
    following.look(of, ends - MARGIN_S - LANDING_S)
    assert len(following.claims) == 1


def test_g2_a_withdrawal_that_cannot_reach_anything_is_claimed_inside_the_margin(following: Following) -> None:
    ends = START + DELAY_S
    of = account(withdrawing=1, at=ends)
    for now in range(int(START), int(ends) - MARGIN_S, 600):
        following.look(of, now)
    assert following.claims == []
    following.look(of, ends - MARGIN_S)
    following.look(of, ends - MARGIN_S + URGENT_PAUSE_S - 1)
    assert following.claims == [ends - MARGIN_S]


def test_g2_a_withdrawal_that_took_anothers_place_is_seen_as_a_new_one(following: Following) -> None:
    following.look(account(withdrawing=1, at=START + DELAY_S), START)
    look = following.look(account(withdrawing=1_000, at=START + DELAY_S + 1), START + 1)
    assert look.due == {ALICE.account_id}


def test_r13_a_claim_that_does_not_land_is_told_while_there_is_time(following: Following) -> None:
    of = account(withdrawing=1_000, at=START + DELAY_S)
    assert not following.look(of, START).newly_late
    assert following.withdrawals.late == 0
    (late,) = following.look(of, START + LANDING_S).newly_late
    assert late.left_s > MARGIN_S
    assert following.withdrawals.late == 1
    assert not following.look(of, START + LANDING_S + 5).newly_late, "told once"
    assert following.look(account(claimed=300, withdrawing=700, at=START + DELAY_S), START + 400).at_risk == frozenset()
    assert following.withdrawals.late == 0


def test_r13_whatever_is_unclaimed_at_the_start_of_the_margin_is_told(following: Following) -> None:
    of = account(withdrawing=1_000, at=START + DELAY_S)
    assert following.look(of, START + DELAY_S - MARGIN_S).newly_late


def test_r13_claims_are_in_a_hurry_as_long_as_something_is_at_risk(following: Following) -> None:
    ends = START + DELAY_S
    assert following.look(account(withdrawing=1_000, at=ends), START).at_risk == {ALICE.account_id}
    assert following.look(account(withdrawing=1_000, at=ends), START + 5).at_risk == {ALICE.account_id}
    assert following.look(account(withdrawing=1, at=ends), START + 10).at_risk == frozenset()


@given(
    st.lists(
        st.tuples(st.integers(1, 20_000), st.booleans(), st.integers(1, 1_000), st.integers(0, 300)),
        min_size=1,
        max_size=40,
    )
)
def test_g2_whatever_a_payer_does_what_is_at_stake_is_claimed_before_the_margin(
    history: list[tuple[int, bool, int, int]],
) -> None:
    """Looked at every minute, an account that stays at risk has had a claim by `LANDING_S` before its margin."""
    following = Following()
    now, ends, amount = START, 0.0, 0
    for wait_s, toggle, withdrawing, claimed in history:
        if toggle or not ends:
            ends, amount = (0.0, 0) if ends else (now + DELAY_S, withdrawing)
        for _ in range(0, wait_s, 60):
            of = account(withdrawing=amount, at=ends, claimed=claimed)
            look = following.look(of, now)
            if ends and could_reach(of) and ends - now <= MARGIN_S:
                assert following.claims
                assert max(following.claims) >= ends - DELAY_S
            assert look.due <= {of.id}
            now += 60
            if ends and now >= ends:
                ends, amount = 0.0, 0
