"""Committed compiler output, loaded and typed."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeAlias

ContractName: TypeAlias = Literal[
    "Escrow",
    "Operator",
    "TestUSDC",
    "MinimalToken",
    "TokenProxy",
    "TestPermit2",
    "TestExactPermit2Proxy",
    "TestUptoPermit2Proxy",
    "TestPermitToken",
    "TestBatchSettlement",
    "TestERC3009DepositCollector",
    "TestPermit2DepositCollector",
    "TestTryAggregate",
    "TestMulticall3",
    "TestWalletFactory",
]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One compiled contract.

    `immutables` are the (start, length) byte ranges of `deployed_bytecode` that the constructor fills in; they are zero
    here. `source_hash` is the SHA-256 of everything the compiler read: its version, its settings and all sources.
    """

    name: ContractName
    abi: list[dict[str, Any]]
    bytecode: bytes
    deployed_bytecode: bytes
    immutables: tuple[tuple[int, int], ...]
    source_hash: bytes


@cache
def load(name: ContractName) -> Artifact:
    """The artifact of a contract of this project.

    Raises ValueError for a name that is not one.
    """
    file = resources.files("tallystick_contracts") / "artifacts" / f"{name}.json"
    if not file.is_file():
        raise ValueError(f"contract name: got {name!r}; there is no such artifact in tallystick_contracts")
    raw = json.loads(file.read_text(encoding="utf-8"))
    return Artifact(
        name=name,
        abi=raw["abi"],
        bytecode=bytes.fromhex(raw["bytecode"]),
        deployed_bytecode=bytes.fromhex(raw["deployed_bytecode"]),
        immutables=tuple((start, length) for start, length in raw["immutables"]),
        source_hash=bytes.fromhex(raw["source_hash"]),
    )
