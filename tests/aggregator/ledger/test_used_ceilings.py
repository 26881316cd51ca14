"""The ceilings that a channel's charges have used, against a plain set of numbers."""

from hypothesis import given
from hypothesis import strategies as st

from tallystick_aggregator.ledger.ceilings import (
    NO_CEILING,
    NONE_USED,
    USED_CEILINGS_KEPT,
    USED_CEILINGS_MAX,
    UsedCeilings,
)

CEILING = st.integers(0, 300) | st.integers(0, 2**128 - 1)
BURSTS = st.lists(st.lists(CEILING, min_size=1, max_size=20), max_size=8)


@given(BURSTS, st.lists(CEILING, max_size=20))
def test_what_was_added_is_used_and_nothing_else(bursts: list[list[int]], others: list[int]) -> None:
    used, expected = NONE_USED, set[int]()
    for burst in bursts:
        used = used.plus(*burst)
        expected.update(burst)
        assert len(used) == len(expected)
        assert used.highest == max(expected)
    assert all((ceiling in used) == (ceiling in expected) for ceiling in [*expected, *others])
    assert used == UsedCeilings(NO_CEILING, b"".join(ceiling.to_bytes(16, "big") for ceiling in sorted(expected)))


@given(st.data())
def test_a_burst_is_as_one_by_one_and_the_lowest_are_forgotten(data: st.DataObject) -> None:
    present = range(0, 2 * data.draw(st.integers(USED_CEILINGS_MAX - 20, USED_CEILINGS_MAX)), 2)
    burst = data.draw(st.lists(st.integers(0, 4 * USED_CEILINGS_MAX), min_size=1, max_size=40, unique=True))
    before = NONE_USED.plus(*present)
    apart = before
    for ceiling in burst:
        apart = apart.plus(ceiling)

    used = before.plus(*burst)

    assert used == apart
    assert len(used) <= USED_CEILINGS_MAX
    if used.floor != NO_CEILING:
        assert len(used) >= USED_CEILINGS_KEPT
    added = {*present, *burst}
    for ceiling in range(4 * USED_CEILINGS_MAX):
        assert (ceiling in used) == (ceiling <= used.floor or ceiling in added)


def test_one_above_the_most_makes_it_forget_the_lowest_half() -> None:
    full = NONE_USED.plus(*range(USED_CEILINGS_MAX))
    assert full.has_room(0)
    assert not full.has_room(1)

    used = full.plus(10**6)

    assert used.floor == USED_CEILINGS_MAX - USED_CEILINGS_KEPT
    assert len(used) == USED_CEILINGS_KEPT
    assert used.has_room(USED_CEILINGS_MAX - USED_CEILINGS_KEPT)
