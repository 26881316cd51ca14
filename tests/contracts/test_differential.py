"""Escrow.sol on Anvil against its Python model: random histories, the same events, errors and state at each step."""

from collections import Counter
from typing import Final

import pytest
from escrow_histories import Outcome, World, new_world

from _anvil import Anvil
from tallystick_contracts import load
from tallystick_contracts.events import RowSkipped, SkipReason

MEDDLING: Final = 0.08
OPERATIONS: Final = frozenset(
    {
        "deposit",
        "depositWithAuthorization",
        "claim",
        "claimWithSignature",
        "setSender",
        "collect",
        "initiateWithdraw",
        "initiateWithdrawWithSignature",
        "cancelWithdraw",
        "cancelWithdrawWithSignature",
        "finalizeWithdraw",
        "refundWithSignature",
    }
)
NOT_DRAWN: Final = frozenset(
    {
        "BatchTooLong",  # malformed batches: the encoder writes none, ClaimEncoding.t.sol makes them
        "BatchTruncated",
        "ReceiverIndexOutOfRange",
        "UnknownAuthorization",
        "DepositNotExact",  # hostile tokens: Deposit.t.sol
        "InsufficientGas",  # starved transactions: Collect.t.sol
    }
)


def test_every_step_of_a_few_histories_is_the_models() -> None:
    seen = histories(range(4), steps=150)
    assert {operation for operation, error in seen if not error} >= OPERATIONS


@pytest.mark.full
@pytest.mark.timeout(3_600)
def test_every_step_of_many_histories_is_the_models() -> None:
    seen = histories(range(1_000, 1_060), steps=500)
    assert {operation for operation, error in seen if not error} >= OPERATIONS
    errors = {error for _, error in seen}
    assert escrow_errors() - errors == NOT_DRAWN
    assert {f"skipped {reason.name}" for reason in SkipReason if reason} <= {operation for operation, _ in seen}


def histories(seeds: range, steps: int) -> Counter[tuple[str, str]]:
    """Run a history per seed; what was seen, as (operation, error) and ("skipped REASON", "")."""
    seen: Counter[tuple[str, str]] = Counter()
    with Anvil() as anvil:
        for seed in seeds:
            world = new_world(anvil, seed)
            try:
                for number in range(steps):
                    name, outcome = follow(world, f"seed {seed}, step {number}")
                    seen[name, outcome.error] += 1
                    seen.update((f"skipped {e.reason.name}", "") for e in outcome.events if isinstance(e, RowSkipped))
            finally:
                world.close()
    return seen


def follow(world: World, where: str) -> tuple[str, Outcome]:
    """Do a step on both sides and compare everything."""
    if world.random.random() < MEDDLING:
        world.meddle()
    step, contract, model = world.step()
    assert contract == model, f"{where}: {step.name}"
    assert world.views() == world.model_views(), f"{where}: after {step.name}"
    for token in world.tokens:
        held = world.model.tokens[token].balances.get(world.escrow, 0)
        assert held >= world.model.liabilities(token, world.configs), f"{where}: I7"
    return step.name, contract


def escrow_errors() -> frozenset[str]:
    """The errors that IEscrow declares (others of the ABI are OpenZeppelin's)."""
    inherited = {
        "InvalidShortString",
        "StringTooLong",
        "ReentrancyGuardReentrantCall",
        "SafeERC20FailedOperation",
        "ECDSAInvalidSignature",
        "ECDSAInvalidSignatureLength",
        "ECDSAInvalidSignatureS",
    }
    return frozenset(e["name"] for e in load("Escrow").abi if e["type"] == "error") - inherited
