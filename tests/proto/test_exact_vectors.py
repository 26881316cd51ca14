"""TransferWithAuthorization against vectors that the official x402 package made (vectors/exact.json)."""

import json
from pathlib import Path
from typing import Any

import pytest

from tallystick import eip712
from tallystick.eip712 import Domain
from tallystick.hexadecimal import parse_address, parse_bytes
from tallystick.signatures import Signer, recover
from tallystick.x402 import Network, PaymentPayload, PaymentRequirements
from tallystick.x402.payloads import exact_payload, read_exact

FILE = json.loads((Path(__file__).parent / "vectors/exact.json").read_text())
VECTORS: list[dict[str, Any]] = FILE["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_a_transfer_is_read_hashed_and_signed_as_theirs_bit_for_bit(vector: dict[str, Any]) -> None:
    authorization = vector["payload"]["authorization"]
    accepted = PaymentRequirements(
        scheme="exact",
        network=vector["network"],
        amount=authorization["value"],
        asset=vector["asset"],
        pay_to=authorization["to"],
        max_timeout_seconds=60,
    )
    payment = read_exact(PaymentPayload(payload=vector["payload"], accepted=accepted))
    chain_id = Network.parse(vector["network"], "network").chain_id
    domain = Domain(vector["name"], vector["version"], chain_id, parse_address(vector["asset"], "asset"))
    struct_hash = eip712.hash_transfer_with_authorization(
        payment.from_, payment.to, payment.value, payment.valid_after, payment.valid_before, payment.nonce
    )
    digest = eip712.digest(domain, struct_hash)
    assert recover(digest, payment.signature) == payment.from_
    assert Signer(parse_bytes(vector["privateKey"], 32, "privateKey")).sign(digest) == payment.signature
    assert exact_payload(payment) == vector["payload"]
