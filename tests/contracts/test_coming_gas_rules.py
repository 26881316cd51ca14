"""Fault C1: payouts under the gas rules of today (Osaka) and of the fork to come (Amsterdam, with EIP-8037).

There a storage slot that was empty costs 97,920 gas more, taken out of the gas of the call that writes it as long as
the transaction's limit is 16,777,216 at most: a seller's first payout takes more than the 100,000 that a transfer once
got.
"""

from collections.abc import Iterator

import pytest
from fork_evm import GAS_MAX, ForkEvm, Town

from _anvil import function
from tallystick_chain.reverts import describe_data

NEW_SLOT_GAS = 97_920
TOKENS = ("TestUSDC", "MinimalToken", "proxied")
FORKS = ("osaka", "amsterdam")


@pytest.fixture(scope="module", params=FORKS)
def fork(request: pytest.FixtureRequest) -> Iterator[tuple[str, ForkEvm]]:
    with ForkEvm(request.param) as evm:
        yield request.param, evm


@pytest.fixture(scope="module")
def amsterdam() -> Iterator[ForkEvm]:
    with ForkEvm("amsterdam") as evm:
        yield evm


def test_c1_the_fork_to_come_charges_a_first_payout_more_than_a_transfer_once_got(amsterdam: ForkEvm) -> None:
    town = Town(amsterdam, "TestUSDC")
    (seller,) = town.sellers(1)
    town.must(town.operator_key, town.token, function("mint(address,uint256)", town.operator.address, 100))
    transfer = function("transfer(address,uint256)", seller, 10)
    first = town.must(town.operator_key, town.token, transfer)
    second = town.must(town.operator_key, town.token, transfer)
    assert first.state_gas == NEW_SLOT_GAS
    assert second.state_gas == 0
    assert first.gas_used - 21_000 > 100_000


@pytest.mark.parametrize("token", TOKENS)
def test_c1_a_batch_pays_sellers_who_never_had_a_token(fork: tuple[str, ForkEvm], token: str) -> None:
    _, evm = fork
    town = Town(evm, token)
    key, config = town.payer()
    town.fund(config, 10**9)
    totals = {seller: 1_000 + number for number, seller in enumerate(town.sellers(30))}
    claimed = town.must(town.operator_key, town.escrow, town.claim(key, config, totals))
    assert claimed.owed == 0
    assert all(town.balance(seller) == total for seller, total in totals.items())
    later = {seller: total + 5 for seller, total in totals.items()}
    assert town.must(town.operator_key, town.escrow, town.claim(key, config, later)).owed == 0
    assert all(town.balance(seller) == total for seller, total in later.items())


@pytest.mark.parametrize("token", TOKENS)
def test_c1_no_gas_limit_chooses_who_is_paid(fork: tuple[str, ForkEvm], token: str) -> None:
    """Below what it takes the whole transaction fails; above, every limit pays everybody, 17,200,000 as 16,777,216."""
    name, evm = fork
    town = Town(evm, token)
    key, config = town.payer()
    town.fund(config, 10**9)
    data = town.claim(key, config, dict.fromkeys(town.sellers(4), 1_000))
    beyond = [17_200_000, 30_000_000] if name == "amsterdam" else []  # Osaka takes none above the limit
    whole = town.try_claim(data, GAS_MAX)
    assert whole.ok
    limits = [*range(40_000, whole.gas_used + 400_000, 34_567), GAS_MAX, *beyond]
    outcomes = [town.try_claim(data, limit) for limit in limits]
    assert all(outcome.owed == 0 for outcome in outcomes)
    paid = [outcome.ok for outcome in outcomes]
    assert paid == sorted(paid)  # from some limit on all of them
    assert not paid[0]
    assert paid[-1]
    assert any("InsufficientGas" in describe_data(outcome.output) for outcome in outcomes if not outcome.ok)


@pytest.mark.parametrize("token", TOKENS)
def test_c1_a_refund_pays_a_payer_whose_balance_is_empty(fork: tuple[str, ForkEvm], token: str) -> None:
    town = Town(fork[1], token)
    _, config = town.payer()
    town.fund(config, 1_000)
    assert town.must(town.operator_key, town.escrow, town.refund(config, 400)).owed == 0
    assert town.balance(config.payer) == 400


@pytest.mark.parametrize("token", TOKENS)
def test_c1_a_withdrawals_end_pays_a_payer_whose_balance_is_empty(fork: tuple[str, ForkEvm], token: str) -> None:
    town = Town(fork[1], token)
    key, config = town.payer()
    town.fund(config, 1_000)
    town.must(key, town.escrow, town.initiate_withdraw(config, 700))
    town.evm.wait(config.withdraw_delay_s)
    assert town.must(town.operator_key, town.escrow, town.finalize_withdraw(config)).owed == 0
    assert town.balance(config.payer) == 700


@pytest.mark.parametrize("token", TOKENS)
def test_c1_deposits_work(fork: tuple[str, ForkEvm], token: str) -> None:
    town = Town(fork[1], token)
    key, config = town.payer()
    town.fund(config, 1_000)
    town.deposit_with_authorization(key, config, 500)
    assert town.balance(town.escrow) == 1_500
    other_key, other = town.payer()
    town.deposit_with_authorization(other_key, other, 500)  # a first one
    assert town.balance(town.escrow) == 2_000


def test_c1_what_is_owed_is_collected(fork: tuple[str, ForkEvm]) -> None:
    town = Town(fork[1], "TestUSDC")
    key, config = town.payer()
    town.fund(config, 1_000)
    (seller,) = town.sellers(1)
    town.must(town.operator_key, town.token, function("blacklist(address)", seller))
    claimed = town.must(town.operator_key, town.escrow, town.claim(key, config, {seller: 300}))
    assert (claimed.owed, town.owed(seller)) == (1, 300)
    town.must(town.operator_key, town.token, function("unBlacklist(address)", seller))
    town.must(town.operator_key, town.escrow, function("collect(address,address)", seller, town.token))
    assert (town.owed(seller), town.balance(seller)) == (0, 300)
