"""The arithmetic of an estimate: sums, growth, limits of a transaction, break-even."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.errors import MalformedError
from tallystick_client.estimate import figures
from tallystick_client.estimate.costs import (
    SCHEMES,
    Workload,
    batch_settlement,
    break_even,
    deferred,
    exact,
)

INTERVALS_S = (60, 900, 3_600, 21_600, 86_400)


@st.composite
def workloads(draw: st.DrawFn, most: int = 5_000, requests: int = 1_000_000) -> Workload:
    sellers = draw(st.integers(1, most))
    return Workload(
        payers=draw(st.integers(1, most)),
        sellers=sellers,
        sellers_per_payer=draw(st.integers(1, sellers)),
        requests=draw(st.integers(1, requests)),
        interval_s=draw(st.sampled_from(INTERVALS_S)),
        deposits_milli=draw(st.integers(0, 5_000)),
        rows=draw(st.sampled_from((figures.BY_VOUCHERS, figures.BY_APPROVAL))),
    )


CRAWL = Workload(payers=10, sellers=100, sellers_per_payer=100, requests=12_000)


def test_a_crawl_is_what_one_counts_by_hand() -> None:
    top_ups, claims = deferred(CRAWL).items
    assert (top_ups.transactions, top_ups.gas) == (10, 10 * 80_636)
    assert claims.transactions == 24
    assert claims.gas == 24 * (34_259 + 10 * 8_996 + 1_000 * 11_304 + 100 * 8_952)
    top_ups, claims, settles = batch_settlement(CRAWL).items
    assert (top_ups.transactions, top_ups.gas) == (1_000, 1_000 * 95_786)
    assert claims.transactions == 24 * 4  # 261 rows of 480 bytes fit
    assert (settles.transactions, settles.gas) == (2_400, 2_400 * 46_252)
    assert (exact(CRAWL).transactions, exact(CRAWL).gas) == (120_000, 120_000 * 64_536)


def test_each_transaction_of_a_settlement_pays_its_sellers_once() -> None:
    once = Workload(payers=50, sellers=50, sellers_per_payer=50, requests=50, interval_s=86_400)
    claims = deferred(once).items[1]
    assert claims.transactions == 2  # 2,500 rows of 98 bytes
    assert claims.gas == 2 * 34_259 + 50 * 8_996 + 2_500 * 11_304 + 2 * 50 * 8_952


def test_no_transaction_pays_more_sellers_than_it_has_rows() -> None:
    wide = Workload(payers=1, sellers=2_000, sellers_per_payer=2_000, requests=2_000, interval_s=86_400)
    claims = deferred(wide).items[1]
    assert claims.transactions == 3  # by gas; each row has a seller of its own
    assert claims.gas == 3 * 34_259 + 8_996 + 2_000 * (11_304 + 8_952)


def test_rows_are_of_channels_that_there_were_requests_for() -> None:
    rare = replace(CRAWL, payers=1, requests=3, deposits_milli=0)
    assert deferred(rare).transactions == 3
    assert deferred(rare).gas == 3 * (34_259 + 8_996 + 11_304 + 8_952)
    assert batch_settlement(rare).transactions == 2 * 3


def test_a_deposit_every_ten_days_counts_as_a_tenth_and_never_as_nothing() -> None:
    assert deferred(replace(CRAWL, deposits_milli=100)).items[0].transactions == 1
    assert deferred(replace(CRAWL, deposits_milli=1)).items[0].transactions == 1
    assert batch_settlement(replace(CRAWL, deposits_milli=100)).items[0].transactions == 100
    assert deferred(replace(CRAWL, deposits_milli=0)).items[0].transactions == 0


def test_opening_is_in_no_total() -> None:
    day = deferred(CRAWL)
    assert day.opening.gas == 10 * 99_642 + 1_000 * 17_100
    assert day.gas == sum(item.gas for item in day.items)
    assert batch_settlement(CRAWL).opening.gas == 1_000 * 116_742


@given(workloads(figures.TRANSACTION_BYTES_MAX))
def test_no_claim_is_larger_than_a_transaction_may_be(work: Workload) -> None:
    claims = deferred(replace(work, requests=work.sellers_per_payer * work.settlements)).items[1]
    rows = work.channels * work.settlements
    accounts = work.payers * work.settlements
    weight = accounts * work.rows.account_bytes + rows * work.rows.row_bytes
    assert weight <= claims.transactions * figures.TRANSACTION_BYTES_MAX
    assert claims.gas <= claims.transactions * figures.TRANSACTION_GAS_MAX


@given(workloads())
def test_totals_are_the_sums_of_their_rows(work: Workload) -> None:
    for scheme in SCHEMES:
        day = scheme(work)
        assert day.gas == sum(item.gas for item in day.items)
        assert day.transactions == sum(item.transactions for item in day.items)
        assert all(item.gas >= 0 <= item.transactions for item in day.items)


@given(workloads(), st.integers(1, 10_000))
def test_more_requests_never_take_less(work: Workload, more: int) -> None:
    for scheme in SCHEMES:
        assert scheme(replace(work, requests=work.requests + more)).gas >= scheme(work).gas


@given(workloads(), st.integers(1, 1_000))
def test_more_payers_never_take_less(work: Workload, more: int) -> None:
    for scheme in SCHEMES:
        assert scheme(replace(work, payers=work.payers + more)).gas >= scheme(work).gas


@pytest.mark.parametrize("other", [batch_settlement, exact])
@given(work=workloads())
def test_break_even_is_where_the_totals_cross(other: object, work: Workload) -> None:
    scheme = batch_settlement if other is batch_settlement else exact
    found = break_even(work, scheme)
    assert found == break_even(replace(work, requests=1), scheme)
    if found is None:
        always = replace(work, requests=work.sellers_per_payer * work.settlements)
        assert scheme(always).gas <= deferred(always).gas
        return
    at = replace(work, requests=found)
    assert deferred(at).gas < scheme(at).gas
    if found > 1:
        before = replace(work, requests=found - 1)
        assert deferred(before).gas >= scheme(before).gas


@given(workloads(20, 1), st.integers(0, 1_000))
def test_beyond_break_even_deferred_stays_below_exact(work: Workload, more: int) -> None:
    found = break_even(work, exact)
    assert found is not None
    at = replace(work, requests=found + more)
    assert deferred(at).gas < exact(at).gas


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("payers", 0, "1 to 1,000,000"),
        ("sellers", 1_000_001, "1 to 1,000,000"),
        ("sellers_per_payer", 101, "1 to 100, which is the number of sellers"),
        ("requests", 0, "1 to 24,000,000,000"),
        ("interval_s", 7 * 3_600, "60 to 86,400 seconds that divide a day"),
        ("interval_s", 0, "60 to 86,400 seconds that divide a day"),
        ("deposits_milli", -1, "0 to 1,000,000"),
    ],
)
def test_what_is_out_of_its_range_is_named(field: str, value: int, allowed: str) -> None:
    with pytest.raises(MalformedError) as caught:
        replace(CRAWL, **{field: value})  # type: ignore[arg-type]
    assert str(caught.value) == f"{field}: got {value}, allowed {allowed}"
