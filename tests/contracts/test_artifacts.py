"""The committed artifacts are what the sources give, and load typed."""

from typing import get_args

import pytest

from tallystick_contracts import ContractName, load
from tallystick_contracts.artifact import Artifact
from tallystick_contracts.build import compile_all, stale


def test_artifacts_are_current() -> None:
    assert stale(compile_all()) == [], "run scripts/build-contracts"


@pytest.mark.parametrize("name", get_args(ContractName))
def test_load_gives_bytecode_and_abi(name: ContractName) -> None:
    artifact = load(name)
    assert artifact.name == name
    assert artifact.deployed_bytecode
    assert len(artifact.bytecode) > len(artifact.deployed_bytecode)
    assert len(artifact.source_hash) == 32
    assert any(entry["type"] == "constructor" or entry["type"] == "function" for entry in artifact.abi)


def test_load_of_an_unknown_name_names_it() -> None:
    with pytest.raises(ValueError, match="contract name: got 'Bank'"):
        load("Bank")  # type: ignore[arg-type]


def test_escrow_fits_the_size_limit_of_a_contract() -> None:
    assert len(load("Escrow").deployed_bytecode) <= 24_576  # EIP-170


def is_deployed_as(artifact: Artifact, code: bytes) -> bool:
    blank = bytearray(code)
    for start, length in artifact.immutables:
        if start + length <= len(code):
            blank[start : start + length] = bytes(length)
    return bytes(blank) == artifact.deployed_bytecode


def test_deployed_code_is_recognised_whatever_its_immutables() -> None:
    escrow = load("Escrow")
    code = bytearray(escrow.deployed_bytecode)
    start, length = escrow.immutables[0]
    code[start : start + length] = b"\xab" * length
    assert is_deployed_as(escrow, bytes(code))
    code[0] ^= 1
    assert not is_deployed_as(escrow, bytes(code))
    assert not is_deployed_as(escrow, b"")
