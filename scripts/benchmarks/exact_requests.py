"""Requests to a facilitator about payments by exact, made beforehand: each has an authorization of its own, signed.

One payer with money enough pays one receiver; the facilitator under measurement checks and lands its transfers.
"""

import json
import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

from tallystick.eip712 import Domain, digest, hash_transfer_with_authorization
from tallystick.hexadecimal import checksum, to_hex
from tallystick.signatures import Signer

PAYER: Final = Signer(sha256(b"tallystick benchmark exact payer").digest())
RECEIVER: Final = Signer(sha256(b"tallystick benchmark exact receiver").digest()).address
AMOUNT: Final = 1_000
"""Of each payment, in atomic units."""
VALID_S: Final = 3_600
TIMEOUT_S: Final = 60
"""What a seller would give the transfer: `maxTimeoutSeconds`."""


def requests(path: str, token: Mapping[str, Any], bearer: str, label: str, count: int) -> Iterator[bytes]:
    """HTTP requests, byte for byte. `token`: as in operator.json; `label` tells their nonces from those of others."""
    address = bytes.fromhex(token["token"][2:])
    domain = Domain(token["name"], token["version"], int(token["network"].partition(":")[2]), address)
    terms = {
        "scheme": "exact",
        "network": token["network"],
        "amount": str(AMOUNT),
        "asset": token["token"],
        "payTo": checksum(RECEIVER),
        "maxTimeoutSeconds": TIMEOUT_S,
        "extra": {"name": token["name"], "version": token["version"]},
    }
    window = (0, int(time.time()) + VALID_S)
    for number in range(count):
        nonce = sha256(f"{label} {number}".encode()).digest()
        hashed = hash_transfer_with_authorization(PAYER.address, RECEIVER, AMOUNT, *window, nonce)
        authorization = {
            "from": checksum(PAYER.address),
            "to": checksum(RECEIVER),
            "value": str(AMOUNT),
            "validAfter": str(window[0]),
            "validBefore": str(window[1]),
            "nonce": to_hex(nonce),
        }
        payload = {"signature": to_hex(PAYER.sign(digest(domain, hashed))), "authorization": authorization}
        payment = {"x402Version": 2, "payload": payload, "accepted": terms}
        body = json.dumps({"x402Version": 2, "paymentPayload": payment, "paymentRequirements": terms}).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: facilitator\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {bearer}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        yield head.encode() + body
