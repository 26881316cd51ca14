"""Every function and event that is coded by hand is the contracts' own."""

from pathlib import Path
from typing import Any

import pytest

from tallystick.hashing import keccak256
from tallystick_aggregator.chain import escrow_calls, token
from tallystick_chain import reverts
from tallystick_contracts import load
from tallystick_contracts.artifact import ContractName
from tallystick_contracts.events import SIGNATURES


def signatures(contract: ContractName, kind: str) -> set[str]:
    return {
        f"{item['name']}({','.join(canonical(field) for field in item['inputs'])})"
        for item in load(contract).abi
        if item["type"] == kind
    }


def canonical(field: dict[str, Any]) -> str:
    if not field["type"].startswith("tuple"):
        return str(field["type"])
    return f"({','.join(map(canonical, field['components']))}){field['type'].removeprefix('tuple')}"


@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_escrow_has_the_event(signature: str) -> None:
    assert signature in signatures("Escrow", "event")


@pytest.mark.parametrize(
    "signature",
    [
        token.BALANCE_OF,
        token.DECIMALS,
        token.DOMAIN_SEPARATOR,
        token.AUTHORIZATION_STATE,
        token.TRANSFER_BY_PARTS,
        token.TRANSFER_BY_BYTES,
    ],
)
def test_the_token_has_the_function(signature: str) -> None:
    assert signature in signatures("TestUSDC", "function")


def test_the_operator_answers_as_erc_1271_does() -> None:
    assert escrow_calls.IS_VALID_SIGNATURE in signatures("Operator", "function")


def test_skip_reasons_are_as_many_as_the_contract_has() -> None:
    """The ABI does not tell an enum's names; the interface does."""
    interface = Path(__file__).parents[3] / "contracts/src/interfaces/IEscrow.sol"
    body = interface.read_text().split("enum SkipReason {")[1].split("}")[0]
    names = [line.strip().rstrip(",") for line in body.splitlines() if line.strip() and "///" not in line]
    assert tuple(names) == escrow_calls.SKIP_REASONS


def test_every_error_of_the_contracts_has_its_name() -> None:
    for contract in ("Escrow", "Operator"):
        for signature in signatures(contract, "error"):
            name = signature.partition("(")[0]
            assert reverts.name_of(keccak256(signature.encode())[:4]) == name
