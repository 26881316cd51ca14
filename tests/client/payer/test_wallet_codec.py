"""What a served wallet says about itself is checked by the worker that hears it."""

import pytest

from tallystick.errors import MalformedError
from tallystick.v1 import facilitator_pb2
from tallystick.v1 import wallet_pb2 as pb
from tallystick_client.payer.errors import BudgetExceededError
from tallystick_client.payer.fleet.codec import read_problem, read_terms, write_problem


def described(limits: list[bytes]) -> pb.DescribeResponse:
    token = facilitator_pb2.Asset(token=b"\5" * 20, symbol="USDC", decimals=6, name="USD Coin", version="2")
    terms = pb.PayerTerms(
        network="eip155:31337",
        aggregator="127.0.0.1:7402",
        operator=b"\4" * 20,
        escrow=b"\7" * 20,
        withdraw_delay_s=86_400,
        tokens=[token],
        per_request=limits,
    )
    return pb.DescribeResponse(payer=b"\1" * 20, operators=[terms])


def test_a_limit_for_each_token_is_read() -> None:
    terms = read_terms(described([b"\x09"]))

    assert list(terms.per_request.values()) == [9]


@pytest.mark.parametrize("limits", [[], [b"\x09", b"\x08"]])
def test_more_or_fewer_limits_than_tokens_are_malformed(limits: list[bytes]) -> None:
    with pytest.raises(MalformedError, match=rf"operators.per_request: got {len(limits)} limits, allowed one for each"):
        read_terms(described(limits))


def test_an_exceeded_budget_is_told_to_a_worker_as_it_is() -> None:
    error = BudgetExceededError("per_day", 1_000_000, 1, 6, "USDC")

    told = read_problem(write_problem(error))

    assert isinstance(told, BudgetExceededError)
    assert str(told) == str(error) == "budget per_day: got 1 USDC, allowed 0.000001 USDC"


def test_a_token_of_more_decimals_than_there_are_is_malformed() -> None:
    problem = write_problem(BudgetExceededError("per_day", 2, 1, 6, "USDC"))
    problem.decimals = 2**32 - 1

    with pytest.raises(MalformedError, match=r"problem\.decimals: got 4294967295, allowed from 0 to 36"):
        read_problem(problem)
