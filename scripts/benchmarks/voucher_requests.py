"""Requests with vouchers of `batch-settlement`, signed and written down before the clock starts.

Two kinds of a paid request: of the official server, a page asked for with its payment; of a facilitator that manages
vouchers, /verify and then /settle under the `pendingId` that was answered.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from benchmarks import official_world
from tallystick import eip712
from tallystick.channels import ChannelConfig, channel_id
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick.vouchers import UncheckedVoucher, sign_voucher
from tallystick.x402.batch_settlement import Reservation, VoucherPayload, batch_settlement_payload
from tallystick.x402.terms import SCHEME_BATCH_SETTLEMENT, BatchSettlementTerms

PRICE: Final = official_world.PRICE
"""Of each paid request, in atomic units."""
RECEIVER: Final = official_world.RECEIVER
_PENDING_ID: Final = "pendingId".center(32, "?")
"""Stands where the facilitator's own is put in; both have as many characters."""


class Paid(NamedTuple):
    """One paid request. `settle`: what comes before and after the pendingId; empty where one request is all."""

    first: bytes
    settle: tuple[bytes, bytes] | tuple[()] = ()


class Payer:
    """Who pays from a channel of its own at a facilitator; by number, the same in every process."""

    def __init__(self, number: int, facilitator: Mapping[str, Any]) -> None:
        """`facilitator`: chain_id, token, authorizer (addresses as text), withdraw_delay_s and bearer."""
        self.signer = Signer(sha256(b"tallystick benchmark voucher payer %d" % number).digest())
        self.config = ChannelConfig(
            payer=self.signer.address,
            payer_authorizer=self.signer.address,
            receiver=RECEIVER,
            receiver_authorizer=bytes.fromhex(facilitator["authorizer"][2:]),
            token=bytes.fromhex(facilitator["token"][2:]),
            withdraw_delay_s=facilitator["withdraw_delay_s"],
            salt=bytes(32),
        )
        self.domain = eip712.batch_settlement_domain(facilitator["chain_id"])
        self.id = channel_id(self.domain, self.config)
        self._facilitator = facilitator

    def pairs(self, count: int) -> Iterator[Paid]:
        """So many payments, in order: each is over all that was charged before and one price more."""
        terms = self._terms()
        for ordinal in range(count):
            ceiling = (ordinal + 1) * PRICE
            voucher = sign_voucher(self.signer, self.domain, self.id, ceiling)
            unchecked = UncheckedVoucher(self.id, ceiling, voucher.signature)
            held = self._request("settle", terms, VoucherPayload(self.config, unchecked, Reservation(_PENDING_ID)))
            before, found, after = held.partition(_PENDING_ID.encode())
            assert found
            yield Paid(self._request("verify", terms, VoucherPayload(self.config, unchecked)), (before, after))

    def _terms(self) -> dict[str, Any]:
        authorizer, delay_s = self.config.receiver_authorizer, self.config.withdraw_delay_s
        extra = BatchSettlementTerms(authorizer, delay_s, "USD Coin", "2", voucher_manager="facilitator").extra()
        return {
            "scheme": SCHEME_BATCH_SETTLEMENT,
            "network": f"eip155:{self._facilitator['chain_id']}",
            "amount": str(PRICE),
            "asset": checksum(self.config.token),
            "payTo": checksum(RECEIVER),
            "maxTimeoutSeconds": 60,
            "extra": extra,
        }

    def _request(self, verb: str, terms: dict[str, Any], payload: VoucherPayload) -> bytes:
        payment = {"x402Version": 2, "payload": batch_settlement_payload(payload), "accepted": terms}
        body = json.dumps({"x402Version": 2, "paymentPayload": payment, "paymentRequirements": terms}).encode()
        head = (
            f"POST /{verb} HTTP/1.1\r\nhost: facilitator\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self._facilitator['bearer']}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def pages(number: int, count: int, accepted: dict[str, Any]) -> Iterator[Paid]:
    """So many pages of the official server, paid from the channel with this number."""
    channel = official_world.OfficialChannel(number)
    for ordinal in range(count):
        payment = {"x402Version": 2, "payload": channel.payload(ordinal), "accepted": accepted}
        header = base64.b64encode(json.dumps(payment).encode()).decode()
        yield Paid(f"GET /page HTTP/1.1\r\nhost: shop\r\npayment-signature: {header}\r\n\r\n".encode())
