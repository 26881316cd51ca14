"""Which way of moving tokens a payment in x402's JSON uses, and how each is read.

The payer has chosen one of the ways that the offer allows. `accepted.extra.assetTransferMethod` names it; where it is
left out it is ERC-3009, which the specification puts first.
"""

from collections.abc import Callable, Mapping
from typing import Final

from tallystick.errors import MalformedError
from tallystick.x402 import ExactAuthorization, PaymentPayload
from tallystick.x402.payloads import read_exact
from tallystick.x402.terms import ASSET_TRANSFER_EIP3009

METHODS: Final[Mapping[str, Callable[[PaymentPayload], ExactAuthorization]]] = {ASSET_TRANSFER_EIP3009: read_exact}
"""By the name of the transfer method."""


def read_payload(payment: PaymentPayload) -> ExactAuthorization:
    """Read an `exact` payment; raises MalformedError, its fields below `payload`."""
    method = payment.accepted.extra.get("assetTransferMethod", ASSET_TRANSFER_EIP3009)
    read = METHODS.get(method) if isinstance(method, str) else None
    if read is None:
        raise MalformedError("payload.accepted.extra.assetTransferMethod", method, " or ".join(METHODS))
    return read(payment)
