"""How payments of `exact` come in, to be verified and to be settled alike."""

from tallystick.amounts import decode_amount
from tallystick.errors import MalformedError
from tallystick.v1 import facilitator_pb2
from tallystick.x402.payloads import SIGNATURE_BYTES_MAX
from tallystick_aggregator.chain.port import TransferAuthorization
from tallystick_aggregator.charging.codec import fixed, not_zero


def read_exact(message: facilitator_pb2.ExactPayment) -> TransferAuthorization:
    """Read an `exact` payment; its signature may be a contract wallet's, of any length up to a bound."""
    if len(message.signature) > SIGNATURE_BYTES_MAX:
        raise MalformedError("exact.signature", message.signature, f"at most {SIGNATURE_BYTES_MAX} bytes")
    return TransferAuthorization(
        from_=not_zero(getattr(message, "from"), "exact.from"),  # a keyword of Python
        to=fixed(message.to, 20, "exact.to"),
        value=decode_amount(message.value, "exact.value"),
        valid_after=message.valid_after,
        valid_before=message.valid_before,
        nonce=fixed(message.nonce, 32, "exact.nonce"),
        signature=message.signature,
    )
