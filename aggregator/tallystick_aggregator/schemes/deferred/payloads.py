"""A `deferred` payment as its payer wrote it: x402's JSON, forwarded by a seller that keeps no handle.

That is how sellers in other languages pay in over `/verify` and `/settle` (docs/reference/deferred-http.md).
"""

from typing import Any, Final, NamedTuple

from tallystick.channels import ChannelConfig
from tallystick.charges import Charge
from tallystick.errors import MalformedError
from tallystick.hexadecimal import to_hex
from tallystick.x402 import PaymentPayload, read_deferred, read_terms
from tallystick_aggregator.ledger.state import Channel

_REQUEST_HASH: Final = "0x and 64 hex digits: the hash that the payment is bound to, which its seller has compared"


class ForwardedPayment(NamedTuple):
    """A payment whose payload is sent to verify and again to settle. `charge.amount` is the most it may be charged."""

    config: ChannelConfig
    charge: Charge


def read_payload(message: PaymentPayload) -> ForwardedPayment:
    """Read a payment from x402's JSON; raises MalformedError.

    `payload.blind`, which only its seller needs, is not looked at.
    """
    payment = read_deferred(message)
    if not payment.request_hash:
        raise MalformedError("payload.requestHash", None, _REQUEST_HASH)
    charge = Charge(
        channel_id=payment.channel_id,
        payment_id=payment.payment_id,
        amount=read_terms(message.accepted).amount,
        request_hash=payment.request_hash,
        ceiling=payment.ceiling,
        signature=payment.signature,
        spend=payment.spend,
    )
    return ForwardedPayment(payment.config, charge)


def verify_extra(channel: Channel) -> dict[str, Any]:
    """What a VerifyResponse says in `extra`: the channel's totals with this payment held."""
    return {
        "channelId": to_hex(channel.id),
        "chargedCumulativeAmount": str(channel.charged),
        "reservedAmount": str(channel.reserved),
        "totalClaimed": str(channel.claimed),
    }


def settle_extra(channel_id: bytes, amount: int, charged: int) -> dict[str, Any]:
    """What a SettleResponse says in `extra`, which sellers hand on in PAYMENT-RESPONSE."""
    state = {"channelId": to_hex(channel_id), "chargedCumulativeAmount": str(charged)}
    return {"chargedAmount": str(amount), "channelState": state}
