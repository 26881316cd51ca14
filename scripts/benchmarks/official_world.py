"""Channels, vouchers and requirements in the official package's own forms (x402 v2, scheme batch-settlement).

Vouchers are signed by our own code, which is faster and equal (tests/proto/test_vectors.py); the server under
measurement checks them with its own.
"""

from hashlib import sha256
from typing import Any, Final

from x402.mechanisms.evm.batch_settlement.server.storage import Channel
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as OfficialConfig

from tallystick.channels import ChannelConfig, channel_id
from tallystick.eip712 import batch_settlement_domain
from tallystick.hexadecimal import checksum
from tallystick.quantities import PaymentId
from tallystick.signatures import Signer
from tallystick.vouchers import sign_voucher
from tallystick.x402 import DeferredPayment, deferred_payload

NETWORK: Final = "eip155:84532"
DOMAIN: Final = batch_settlement_domain(84_532)
TOKEN: Final = bytes.fromhex("036CbD53842c5426634e7929541eC2318f3dCF7e")
RECEIVER: Final = Signer(sha256(b"tallystick benchmark receiver").digest()).address
RECEIVER_AUTHORIZER: Final = Signer(sha256(b"tallystick benchmark operator").digest())
PRICE: Final = 1_000
WITHDRAW_DELAY_S: Final = 86_400
BALANCE: Final = 10**15
ANY_ID: Final = PaymentId(bytes(16))
"""The package has none in a payload."""


class OfficialChannel:
    """One payer's channel, with everything the official server wants to see of it."""

    def __init__(self, number: int) -> None:
        self.signer = Signer(sha256(b"tallystick benchmark payer %d" % number).digest())
        self.config = ChannelConfig(
            payer=self.signer.address,
            payer_authorizer=self.signer.address,
            receiver=RECEIVER,
            receiver_authorizer=RECEIVER_AUTHORIZER.address,
            token=TOKEN,
            withdraw_delay_s=WITHDRAW_DELAY_S,
            salt=sha256(b"salt %d" % number).digest(),
        )
        self.id = channel_id(DOMAIN, self.config)

    def stored(self, now_ms: int) -> Channel:
        """The channel as the package's store holds it after a deposit: it need not ask a chain again for a while."""
        return Channel(
            channel_id="0x" + self.id.hex(),
            channel_config=OfficialConfig.from_dict(self.payload(0)["channelConfig"]),
            balance=str(BALANCE),
            onchain_synced_at=now_ms,
        )

    def payload(self, ordinal: int) -> dict[str, Any]:
        """The payload of the channel's payment with this ordinal, from 0: the package takes them in order only."""
        voucher = sign_voucher(self.signer, DOMAIN, self.id, (ordinal + 1) * PRICE)
        return deferred_payload(
            DeferredPayment(self.config, ANY_ID, voucher.max_claimable_amount, voucher.signature, None, self.id)
        )


def requirements() -> dict[str, Any]:
    """What the official server asks for, as it stands in its 402 answer."""
    return {
        "scheme": "batch-settlement",
        "network": NETWORK,
        "asset": checksum(TOKEN),
        "amount": str(PRICE),
        "payTo": checksum(RECEIVER),
        "maxTimeoutSeconds": 300,
        "extra": {},
    }
