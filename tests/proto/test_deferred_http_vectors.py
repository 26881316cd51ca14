"""The bytes of docs/reference/deferred-http.md, in Python and in the example's own JavaScript."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tallystick.channels import channel_id
from tallystick.eip712 import Domain
from tallystick.hexadecimal import parse_address, parse_bytes, to_hex
from tallystick.payment_ids import format_payment_id
from tallystick.requests import blinded_hash, body_digest, normal_target, request_hash
from tallystick.signatures import Signer
from tallystick.spend_keys import SpendProver
from tallystick.vouchers import UncheckedVoucher, check_voucher
from tallystick.x402 import (
    PaymentPayload,
    bound_hash,
    decode_header,
    decode_json,
    encode_json,
    read_deferred,
    read_deferred_terms,
    read_terms,
    without_page,
)

ROOT = Path(__file__).parents[2]
FILE = json.loads((Path(__file__).parent / "vectors/deferred_http.json").read_text())
REQUESTS: list[dict[str, Any]] = FILE["requests"]
PAYMENTS: list[dict[str, Any]] = FILE["payments"]
PROGRAM = """
import { boundHash, normalTarget, withoutPage } from "%s";
import { readFileSync } from "node:fs";
const { requests, payments } = JSON.parse(readFileSync(process.argv[1]));
console.log(JSON.stringify({
  targets: requests.map((one) => normalTarget(one.target)),
  plain: requests.map((one) => boundHash(one.method, one.target, Buffer.from(one.body))),
  blinded: requests.map((one) => boundHash(one.method, one.target, Buffer.from(one.body), one.blind)),
  forwarded: payments.map((one) => withoutPage(one.paymentPayload)),
}));
"""


def bytes_of(text: str) -> bytes:
    return bytes.fromhex(text[2:])


@pytest.mark.parametrize("vector", REQUESTS, ids=range(len(REQUESTS)))
def test_requests_hash_as_written(vector: dict[str, Any]) -> None:
    target = normal_target(vector["target"].encode("latin-1"))
    digest = body_digest(vector["body"].encode())
    plain = request_hash(vector["method"], target, digest)
    assert (target.decode(), digest.hex()) == (vector["normalTarget"], vector["bodyDigest"])
    assert to_hex(plain) == vector["requestHash"]
    assert to_hex(blinded_hash(plain, bytes_of(vector["blind"]))) == vector["blindedHash"]


@pytest.mark.parametrize("vector", PAYMENTS, ids=range(len(PAYMENTS)))
def test_payments_prove_what_they_say(vector: dict[str, Any]) -> None:
    message = decode_header(vector["paymentSignature"], PaymentPayload, "PAYMENT-SIGNATURE")
    payment, terms = read_deferred(message), read_terms(message.accepted)
    assert json.loads(encode_json(message)) == vector["paymentPayload"]
    request = REQUESTS[vector["request"]]
    assert to_hex(bound_hash(payment, bytes_of(request["requestHash"]))) == to_hex(payment.request_hash)
    assert read_deferred_terms(message.accepted.extra).blinding
    escrow = parse_address(vector["domain"]["verifyingContract"], "escrow")
    domain = Domain(vector["domain"]["name"], vector["domain"]["version"], vector["domain"]["chainId"], escrow)
    assert channel_id(domain, payment.config) == payment.channel_id
    signer = Signer(parse_bytes(vector["payerKey"], 32, "payerKey"))
    check_voucher(domain, UncheckedVoucher(payment.channel_id, payment.ceiling, payment.signature), signer.address)
    assert format_payment_id(payment.payment_id) == vector["paymentId"]
    if payment.spend is not None:
        prover = SpendProver(bytes_of(vector["spendKeySecret"]))
        most = payment.spend.max_amount
        assert most == terms.amount
        assert prover.check(payment.channel_id, payment.payment_id, most, payment.request_hash, payment.spend.mac)


@pytest.mark.parametrize("vector", PAYMENTS, ids=range(len(PAYMENTS)))
def test_what_is_forwarded_is_written_there_and_names_no_page(vector: dict[str, Any]) -> None:
    message = decode_json(json.dumps(vector["paymentPayload"]).encode(), PaymentPayload, "payment", 10_000)
    assert json.loads(encode_json(without_page(message))) == vector["forwarded"]
    assert not {"resource", "blind"} & (vector["forwarded"].keys() | vector["forwarded"]["payload"].keys())
    assert list(vector["forwarded"]["extensions"]) == ["payment-identifier"]


def test_the_framing_is_the_documented_one() -> None:
    def frame(part: bytes) -> bytes:
        return len(part).to_bytes(4, "big") + part

    plain, blind = bytes(range(32)), bytes(range(16))
    assert blinded_hash(plain, blind) == sha256(frame(b"tallystick/blind/1") + frame(blind) + frame(plain)).digest()


def test_the_example_in_node_has_the_same_bytes() -> None:
    program = PROGRAM % (ROOT / "docs/examples/deferred-seller.mjs").as_uri()
    command = [str(Path(sys.executable).parent / "node"), "--input-type=module", "-e", program]
    vectors = str(Path(__file__).parent / "vectors/deferred_http.json")
    done = subprocess.run([*command, vectors], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["targets"] == [vector["normalTarget"] for vector in REQUESTS]
    assert told["plain"] == [vector["requestHash"] for vector in REQUESTS]
    assert told["blinded"] == [vector["blindedHash"] for vector in REQUESTS]
    assert told["forwarded"] == [vector["forwarded"] for vector in PAYMENTS]
