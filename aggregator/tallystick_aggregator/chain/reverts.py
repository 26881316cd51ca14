"""Makes sentences of what contracts return when they revert: selectors are mapped by the ABIs of this project."""

from functools import cache
from typing import Any, Final

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from tallystick.hashing import keccak256
from tallystick_aggregator.chain.node import CallRevertedError, says_out_of_gas
from tallystick_aggregator.chain.port import OutOfGasError, RevertedError
from tallystick_contracts import load

_ERROR: Final = bytes.fromhex("08c379a0")  # Error(string)
_PANIC: Final = bytes.fromhex("4e487b71")  # Panic(uint256)
_TEXT_MAX: Final = 200
_INSUFFICIENT_GAS: Final = "InsufficientGas"


def describe(reverted: CallRevertedError) -> str:
    """One sentence: the error's name and arguments if it is known, else the node's own words."""
    return describe_data(reverted.data) or reverted.message[:_TEXT_MAX] or "reverted without a reason"


def as_reverted(reverted: CallRevertedError) -> RevertedError:
    """What the chain's callers are told: that the call would revert, or that its gas does not suffice."""
    kind = OutOfGasError if not reverted.data and says_out_of_gas(reverted.message) else RevertedError
    return kind(describe(reverted), by_contract=by_contract(reverted))


def describe_data(data: bytes) -> str:
    """The error that these return data hold, as `Name(argument=value, ...)`; empty for none or an unknown one."""
    selector, body = data[:4], data[4:]
    try:
        if selector == _ERROR:
            return str(decode(["string"], body)[0])[:_TEXT_MAX]
        if selector == _PANIC:
            return f"Panic({decode(['uint256'], body)[0]:#x})"
        known = _known_errors().get(selector)
        if known is None:
            return ""
        name, types, names = known
        values = decode(types, body)
    except (DecodingError, UnicodeDecodeError, OverflowError):
        return ""
    return f"{name}({', '.join(f'{n}={_shown(v)}' for n, v in zip(names, values, strict=True))})"


def name_of(data: bytes) -> str:
    """The name of the custom error in these return data; empty if it is none of this project's."""
    known = _known_errors().get(data[:4])
    return known[0] if known else ""


def by_contract(reverted: CallRevertedError) -> bool:
    """Whether the escrow or the operator's contract refused a call with an error of its own, other than that it was
    given too little gas: that is the node's limit, or a batch's size.
    """
    return name_of(reverted.data) not in {"", _INSUFFICIENT_GAS}


@cache
def _known_errors() -> dict[bytes, tuple[str, list[str], list[str]]]:
    known: dict[bytes, tuple[str, list[str], list[str]]] = {}
    for contract in (load("Escrow"), load("Operator")):
        for item in contract.abi:
            if item["type"] == "error":
                types = [_canonical_type(field) for field in item["inputs"]]
                signature = f"{item['name']}({','.join(types)})"
                known[keccak256(signature.encode())[:4]] = (item["name"], types, [f["name"] for f in item["inputs"]])
    return known


def _canonical_type(field: dict[str, Any]) -> str:
    if not field["type"].startswith("tuple"):
        return str(field["type"])
    inner = ",".join(_canonical_type(component) for component in field["components"])
    return f"({inner}){field['type'].removeprefix('tuple')}"


def _shown(value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    # Solidity's names of fields are bytes32 with text in them.
    text = value.rstrip(b"\0")
    return text.decode() if text.isascii() and text.decode("ascii").isprintable() and text else "0x" + value.hex()
