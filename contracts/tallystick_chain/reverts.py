"""Makes sentences of what contracts return when they revert: selectors are mapped by the ABIs of this project."""

from functools import cache
from typing import Any, Final, cast

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import (
    filter_abi_by_type,
    function_abi_to_4byte_selector,
    get_abi_input_names,
    get_abi_input_types,
)

from tallystick.hashing import keccak256
from tallystick_chain.errors import CallRevertedError, RpcError
from tallystick_contracts import batch_settlement, load

_ERROR: Final = bytes.fromhex("08c379a0")  # Error(string)
_PANIC: Final = bytes.fromhex("4e487b71")  # Panic(uint256)
_TEXT_MAX: Final = 200
_INSUFFICIENT_GAS: Final = "InsufficientGas"


def describe(reverted: CallRevertedError | RpcError) -> str:
    """One sentence: the error's name and arguments if it is known, else the node's own words."""
    return describe_data(reverted.data) or reverted.message[:_TEXT_MAX] or "reverted without a reason"


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
    """By selector: name, types and names of the arguments."""
    abis: Any = [item for contract in (load("Escrow"), load("Operator")) for item in contract.abi]
    # The selector of an error is made as a function's.
    known: dict[bytes, tuple[str, list[str], list[str]]] = {
        keccak256(f"{name}()".encode())[:4]: (name, [], []) for name in batch_settlement.ERRORS
    }
    return known | {
        function_abi_to_4byte_selector(cast("Any", item)): (
            item["name"],
            get_abi_input_types(item),
            cast("list[str]", get_abi_input_names(item)),
        )
        for item in filter_abi_by_type("error", abis)
    }


def _shown(value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    # Solidity's names of fields are bytes32 with text in them.
    text = value.rstrip(b"\0")
    return text.decode() if text.isascii() and text.decode("ascii").isprintable() and text else "0x" + value.hex()
