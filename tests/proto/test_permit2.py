"""Payments by Permit2 against vectors that the official x402 package made (vectors/permit2.json)."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tallystick import eip712
from tallystick.eip712 import Domain
from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum, parse_address, parse_bytes
from tallystick.signatures import Signer, recover
from tallystick.x402 import (
    EIP2612_GAS_SPONSORING,
    Network,
    PaymentPayload,
    PaymentRequirements,
    Permit2Authorization,
    is_permit2,
    permit2_payload,
    permit_declaration,
    permit_extension,
    read_exact_permit2,
    read_upto,
)

FILE = json.loads((Path(__file__).parent / "vectors/permit2.json").read_text())
VECTORS: list[dict[str, Any]] = FILE["vectors"]
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
both_schemes = pytest.mark.parametrize(("scheme", "read"), [("exact", read_exact_permit2), ("upto", read_upto)])
Read = Callable[[PaymentPayload], Permit2Authorization]


def payment(vector: dict[str, Any], scheme: str, **changes: Any) -> PaymentPayload:
    """The vector's payment; `changes` take the place of parts of its authorization."""
    payload = json.loads(json.dumps(vector[scheme]))
    payload["permit2Authorization"] |= changes
    signed = vector[scheme]["permit2Authorization"]
    accepted = PaymentRequirements(
        scheme=scheme,
        network=vector["network"],
        amount=signed["permitted"]["amount"],
        asset=signed["permitted"]["token"],
        pay_to=signed["witness"]["to"],
        max_timeout_seconds=300,
    )
    return PaymentPayload(payload=payload, accepted=accepted, extensions=vector["extensions"])


def test_the_contracts_are_where_the_official_package_expects_them() -> None:
    assert checksum(eip712.PERMIT2_ADDRESS) == FILE["permit2"]
    assert checksum(eip712.EXACT_PERMIT2_PROXY_ADDRESS) == FILE["exactProxy"]
    assert checksum(eip712.UPTO_PERMIT2_PROXY_ADDRESS) == FILE["uptoProxy"]


@each_vector
@both_schemes
def test_what_official_clients_sign_is_what_we_hash(vector: dict[str, Any], scheme: str, read: Read) -> None:
    authorization = read(payment(vector, scheme))
    domain = eip712.permit2_domain(Network.parse(vector["network"], "network").chain_id)
    digest = eip712.digest(domain, authorization.struct_hash())
    assert recover(digest, authorization.signature) == parse_address(vector["payer"], "payer")
    assert Signer(parse_bytes(vector["key"], 32, "key")).sign(digest) == authorization.signature


@each_vector
@both_schemes
def test_a_payment_is_written_as_it_was_read(vector: dict[str, Any], scheme: str, read: Read) -> None:
    authorization = read(payment(vector, scheme))
    assert permit2_payload(authorization) == vector[scheme]
    assert (
        authorization.value
        == authorization.permitted
        == int(vector[scheme]["permit2Authorization"]["permitted"]["amount"])
    )


@each_vector
def test_a_permit_is_what_the_token_takes(vector: dict[str, Any]) -> None:
    permit = read_exact_permit2(payment(vector, "exact")).permit
    assert permit is not None
    chain_id = Network.parse(vector["network"], "network").chain_id
    domain = Domain(vector["tokenName"], vector["tokenVersion"], chain_id, permit.token)
    assert recover(eip712.digest(domain, permit.struct_hash()), permit.signature) == permit.owner
    assert permit.spender == eip712.PERMIT2_ADDRESS
    assert permit_extension(permit) == vector["extensions"]


def test_a_nonce_in_hex_is_the_same_nonce() -> None:
    official = read_upto(payment(VECTORS[0], "upto"))
    in_hex = "0x" + official.nonce.hex().lstrip("0")
    assert read_upto(payment(VECTORS[0], "upto", nonce=in_hex)) == official


def test_what_a_client_repeats_of_the_402_is_no_permit() -> None:
    repeated = payment(VECTORS[0], "exact")
    repeated = PaymentPayload(payload=repeated.payload, accepted=repeated.accepted, extensions=permit_declaration())
    assert read_exact_permit2(repeated).permit is None
    assert read_exact_permit2(PaymentPayload(payload=repeated.payload, accepted=repeated.accepted)).permit is None


def test_both_shapes_of_exact_are_told_apart() -> None:
    assert is_permit2(payment(VECTORS[0], "exact"))
    transfer = PaymentPayload(
        payload={"signature": "0x", "authorization": {}}, accepted=payment(VECTORS[0], "exact").accepted
    )
    assert not is_permit2(transfer)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"nonce": "-1"}, "payload.permit2Authorization.nonce"),
        ({"nonce": str(2**256)}, "payload.permit2Authorization.nonce"),
        ({"nonce": "0x" + "1" * 65}, "payload.permit2Authorization.nonce"),
        ({"deadline": str(2**64)}, "payload.permit2Authorization.deadline"),
        ({"from": "0x12"}, "payload.permit2Authorization.from"),
        ({"spender": "none"}, "payload.permit2Authorization.spender"),
        ({"permitted": {"token": FILE["permit2"], "amount": "1.5"}}, "payload.permit2Authorization.permitted.amount"),
        ({"permitted": {"token": FILE["permit2"], "amount": 5}}, "payload $.permit2Authorization.permitted.amount"),
        ({"witness": {"to": FILE["permit2"], "validAfter": "soon"}}, "payload.permit2Authorization.witness.validAfter"),
        ({"witness": {"to": FILE["permit2"]}}, "payload $.permit2Authorization.witness.validAfter"),
        ({"deadline": 5}, "payload $.permit2Authorization.deadline"),
    ],
)
def test_what_is_malformed_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedError) as error:
        read_exact_permit2(payment(VECTORS[0], "exact", **changes))
    assert error.value.field == field


def test_upto_names_its_facilitator() -> None:
    with pytest.raises(MalformedError, match="facilitator"):
        read_upto(payment(VECTORS[0], "exact"))


def test_a_broken_permit_is_named() -> None:
    vector = VECTORS[0]
    info = vector["extensions"][EIP2612_GAS_SPONSORING]["info"]
    for name, value in (("signature", "0x00"), ("amount", "all"), ("from", 7)):
        broken = {**vector, "extensions": {EIP2612_GAS_SPONSORING: {"info": {**info, name: value}}}}
        with pytest.raises(MalformedError) as error:
            read_exact_permit2(payment(broken, "exact"))
        assert error.value.field.replace(" $", "") == f"extensions.{EIP2612_GAS_SPONSORING}.info.{name}"


def test_the_value_is_no_part_of_what_is_signed() -> None:
    authorization = read_upto(payment(VECTORS[0], "upto"))
    assert replace(authorization, value=0).struct_hash() == authorization.struct_hash()
