"""The test contracts for Permit2, our calls and our codes of refusals, held against the official x402 package."""

from typing import Any

import pytest
from eth_utils.abi import function_abi_to_4byte_selector
from x402.mechanisms.evm import constants as official

from tallystick import eip712
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum
from tallystick_aggregator.chain import permit2
from tallystick_aggregator.chain.escrow_calls import selector
from tallystick_aggregator.schemes.exact.reason_codes import PERMIT2_CODES
from tallystick_aggregator.schemes.upto.reason_codes import REASON_CODES
from tallystick_contracts import load
from tallystick_contracts.artifact import ContractName

PROXIES: list[tuple[ContractName, list[Any], str, str, bytes]] = [
    (
        "TestExactPermit2Proxy",
        official.X402_EXACT_PERMIT2_PROXY_ABI + official.X402_EXACT_PERMIT2_PROXY_SETTLE_WITH_PERMIT_ABI,
        permit2.SETTLE_EXACT,
        permit2.SETTLE_EXACT_WITH_PERMIT,
        eip712.EXACT_WITNESS_TYPEHASH,
    ),
    (
        "TestUptoPermit2Proxy",
        official.X402_UPTO_PERMIT2_PROXY_ABI + official.X402_UPTO_PERMIT2_PROXY_SETTLE_WITH_PERMIT_ABI,
        permit2.SETTLE_UPTO,
        permit2.SETTLE_UPTO_WITH_PERMIT,
        eip712.UPTO_WITNESS_TYPEHASH,
    ),
]


@pytest.mark.parametrize(("name", "abi", "settle", "with_permit", "_witness"), PROXIES)
def test_the_proxies_have_the_functions_that_official_clients_call(
    name: ContractName, abi: list[Any], settle: str, with_permit: str, _witness: bytes
) -> None:
    ours = {function_abi_to_4byte_selector(entry) for entry in load(name).abi if entry["type"] == "function"}
    theirs = {function_abi_to_4byte_selector(entry) for entry in abi}
    assert theirs == {selector(settle), selector(with_permit)}
    assert theirs <= ours


def encoded(types: dict[str, Any], name: str) -> str:
    return f"{name}({','.join(field['type'] + ' ' + field['name'] for field in types[name])})"


@pytest.mark.parametrize(
    ("types", "witness", "transfer"),
    [
        (
            official.PERMIT2_WITNESS_TYPES,
            eip712.EXACT_WITNESS_TYPEHASH,
            eip712.EXACT_WITNESS_TRANSFER_TYPEHASH,
        ),
        (
            official.UPTO_PERMIT2_WITNESS_TYPES,
            eip712.UPTO_WITNESS_TYPEHASH,
            eip712.UPTO_WITNESS_TRANSFER_TYPEHASH,
        ),
    ],
)
def test_the_types_are_those_that_official_clients_sign(types: dict[str, Any], witness: bytes, transfer: bytes) -> None:
    assert keccak256(encoded(types, "Witness").encode()) == witness
    whole = "".join(encoded(types, name) for name in ("PermitWitnessTransferFrom", "TokenPermissions", "Witness"))
    assert keccak256(whole.encode()) == transfer
    assert keccak256(encoded(official.EIP2612_PERMIT_TYPES, "Permit").encode()) == eip712.PERMIT_TYPEHASH


def test_the_addresses_are_theirs() -> None:
    assert checksum(eip712.PERMIT2_ADDRESS) == official.PERMIT2_ADDRESS
    assert checksum(eip712.EXACT_PERMIT2_PROXY_ADDRESS) == official.X402_EXACT_PERMIT2_PROXY_ADDRESS
    assert checksum(eip712.UPTO_PERMIT2_PROXY_ADDRESS) == official.X402_UPTO_PERMIT2_PROXY_ADDRESS


def test_the_codes_of_refusals_are_theirs() -> None:
    known = {value for name, value in vars(official).items() if name.startswith("ERR_")}
    of_their_modules = {"permit2_invalid_nonce", "invalid_eip2612_extension_format"}
    assert {*PERMIT2_CODES.values(), *REASON_CODES.values()} <= known | of_their_modules
