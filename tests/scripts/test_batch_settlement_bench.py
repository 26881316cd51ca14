"""`scripts/bench batch-settlement` claims and pays out, and counts right."""

import pytest

from _anvil import GAS_MAX
from benchmarks.batch_settlement import measure, rendered


@pytest.mark.timeout(120)
async def test_channels_are_claimed_in_one_transaction_and_each_seller_is_paid_once() -> None:
    result = await measure(channels=6, sellers=3)
    first, steady = result["rounds"]
    for one in (first, steady):
        assert (one["claims"], one["settles"]) == (1, 3)
        assert 0 < one["gas_limit_max"] <= GAS_MAX
        assert 0 < one["claim_gas_per_row"] < one["gas_per_row"]
    assert steady["gas_per_row"] < first["gas_per_row"], "a seller's first payout takes a new storage slot"
    assert "Gas is the stand-in contract's" in rendered(result)
