"""Which way of moving tokens a payment in x402's JSON uses, and how each is read.

The payer has chosen one of the ways that the offer allows. `accepted.extra.assetTransferMethod` names it; where it is
left out the payload's shape tells.
"""

from collections.abc import Callable, Mapping
from typing import Final

from tallystick.errors import MalformedError
from tallystick.x402 import (
    ASSET_TRANSFER_METHOD,
    ASSET_TRANSFER_PERMIT2,
    PaymentPayload,
    is_permit2,
    read_exact,
    read_exact_permit2,
)
from tallystick.x402.terms import ASSET_TRANSFER_EIP3009
from tallystick_aggregator.schemes.exact.authorizations import Authorization

METHODS: Final[Mapping[str, Callable[[PaymentPayload], Authorization]]] = {
    ASSET_TRANSFER_EIP3009: read_exact,
    ASSET_TRANSFER_PERMIT2: read_exact_permit2,
}
"""By the name of the transfer method."""


def read_payload(payment: PaymentPayload) -> Authorization:
    """Read an `exact` payment; raises MalformedError, its fields below `payload`."""
    of_its_shape = ASSET_TRANSFER_PERMIT2 if is_permit2(payment) else ASSET_TRANSFER_EIP3009
    method = payment.accepted.extra.get(ASSET_TRANSFER_METHOD, of_its_shape)
    read = METHODS.get(method) if isinstance(method, str) else None
    if read is None:
        raise MalformedError(f"payload.accepted.extra.{ASSET_TRANSFER_METHOD}", method, " or ".join(METHODS))
    return read(payment)
