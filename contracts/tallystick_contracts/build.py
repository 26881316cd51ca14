"""Compiles the contracts into `artifacts/`. For developers: needs py-solc-x, node and contracts/node_modules.

The compiler is npm's solc behind `solc.mjs`, so nothing is downloaded. Metadata are left out of the bytecode: the same
sources and settings give the same bytes here, in forge and on every machine.
"""

import argparse
import hashlib
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final, get_args

from tallystick_contracts.artifact import ContractName

CONTRACTS: Final = Path(__file__).resolve().parent.parent
ARTIFACTS: Final = Path(__file__).resolve().parent / "artifacts"

SOURCES: Final[dict[ContractName, str]] = {
    "Escrow": "src/Escrow.sol",
    "Operator": "src/Operator.sol",
    "TestUSDC": "src/test/TestUSDC.sol",
    "MinimalToken": "src/test/MinimalToken.sol",
    "TokenProxy": "src/test/TokenProxy.sol",
    "TestPermit2": "src/test/TestPermit2.sol",
    "TestExactPermit2Proxy": "src/test/TestPermit2Proxy.sol",
    "TestUptoPermit2Proxy": "src/test/TestPermit2Proxy.sol",
    "TestPermitToken": "src/test/TestPermitToken.sol",
    "TestBatchSettlement": "src/test/TestBatchSettlement.sol",
    "TestERC3009DepositCollector": "src/test/TestDepositCollectors.sol",
    "TestPermit2DepositCollector": "src/test/TestDepositCollectors.sol",
    "TestTryAggregate": "src/test/TestTryAggregate.sol",
    "TestMulticall3": "src/test/TestMulticall3.sol",
    "TestWalletFactory": "src/test/TestWalletFactory.sol",
}

# The same as in contracts/foundry.toml.
SETTINGS: Final[dict[str, Any]] = {
    "evmVersion": "cancun",
    "optimizer": {"enabled": True, "runs": 100_000},
    "viaIR": False,
    "metadata": {"bytecodeHash": "none", "appendCBOR": False},
    "outputSelection": {
        "*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode", "metadata"]},
    },
}


def compile_all() -> dict[ContractName, dict[str, Any]]:
    """Every artifact as the JSON object that its file holds.

    Raises solcx.exceptions.SolcError with the compiler's own message if a source does not compile.
    """
    # A developers' dependency, untyped: imported here, so that the package itself does not need it.
    solcx: Any = import_module("solcx")

    given = {
        "language": "Solidity",
        "sources": {path: {"content": (CONTRACTS / path).read_text(encoding="utf-8")} for path in SOURCES.values()},
        "settings": SETTINGS,
    }
    output = solcx.compile_standard(given, solc_binary=CONTRACTS / "solc.mjs")
    return {name: _artifact(name, output["contracts"][path][name]) for name, path in SOURCES.items()}


def _artifact(name: ContractName, compiled: dict[str, Any]) -> dict[str, Any]:
    deployed = compiled["evm"]["deployedBytecode"]
    ranges = [r for references in deployed["immutableReferences"].values() for r in references]
    return {
        "name": name,
        "source_hash": _source_hash(json.loads(compiled["metadata"])),
        "abi": compiled["abi"],
        "bytecode": compiled["evm"]["bytecode"]["object"],
        "deployed_bytecode": deployed["object"],
        "immutables": sorted([r["start"], r["length"]] for r in ranges),
    }


def _source_hash(metadata: dict[str, Any]) -> str:
    """SHA-256 over the compiler's version, its settings and the hashes of all sources that went into a contract."""
    sources = {path: source["keccak256"] for path, source in metadata["sources"].items()}
    closure = {"compiler": metadata["compiler"], "settings": SETTINGS, "sources": sources}
    return hashlib.sha256(json.dumps(closure, sort_keys=True).encode()).hexdigest()


def rendered(artifact: dict[str, Any]) -> str:
    """What the artifact's file holds."""
    return json.dumps(artifact, indent=1) + "\n"


def stale(artifacts: dict[ContractName, dict[str, Any]]) -> list[str]:
    """The names of the artifacts whose files are missing or differ."""
    return [
        name
        for name, artifact in artifacts.items()
        if not (file := ARTIFACTS / f"{name}.json").is_file() or file.read_text(encoding="utf-8") != rendered(artifact)
    ]


def main() -> None:
    """Write the artifacts, or with --check only say which are stale (exit status 1)."""
    parser = argparse.ArgumentParser(prog="build-contracts", description="Compile the contracts into their artifacts.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if an artifact is not current")
    arguments = parser.parse_args()
    assert set(SOURCES) == set(get_args(ContractName))

    artifacts = compile_all()
    if arguments.check:
        if names := stale(artifacts):
            sys.exit(f"stale artifacts: {', '.join(names)}; run scripts/build-contracts")
        return
    ARTIFACTS.mkdir(exist_ok=True)
    for name, artifact in artifacts.items():
        (ARTIFACTS / f"{name}.json").write_text(rendered(artifact), encoding="utf-8")


if __name__ == "__main__":
    main()
