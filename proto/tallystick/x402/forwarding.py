"""What a seller does with a payment before its aggregator sees it: compare a `deferred` one, then take the page out.

    bound = bound_hash(read_deferred(payment), request_hash(method, target, digest))    # may raise RefusedError
    post_to_aggregator(without_page(payment))

A payment names the hash that it is bound to (`payload.requestHash`); whoever serves the page, and nobody else, can say
whether that is the request that it came with. What is handed on has nothing left that tells the page, or lets it be
guessed, where the payer blinded the hash (`payload.blind`).
"""

from typing import Any

from msgspec import structs

from tallystick.errors import RefusedError
from tallystick.hexadecimal import to_hex
from tallystick.reasons import Reason
from tallystick.requests import blinded_hash
from tallystick.x402.identifier import PAYMENT_IDENTIFIER
from tallystick.x402.messages import PaymentPayload
from tallystick.x402.payloads import DeferredPayment


def bound_hash(payment: DeferredPayment, request_hash: bytes) -> bytes:
    """The 32 bytes that the payment is bound to, if that is the request of this hash, and what its proof covers.

    A payment without `requestHash`, as older payers make it, has only its proof to say so: the hash is returned as it
    is. Raises RefusedError (`request_mismatch`).
    """
    bound = blinded_hash(request_hash, payment.blind) if payment.blind else request_hash
    if payment.request_hash and payment.request_hash != bound:
        raise RefusedError(
            Reason.REQUEST_MISMATCH,
            Reason.REQUEST_MISMATCH.advice,
            "payload.requestHash",
            to_hex(payment.request_hash),
            f"{to_hex(bound)}, by method, path, query and body as they came",
        )
    return bound


def without_page(payment: PaymentPayload, *needed: str) -> PaymentPayload:
    """The payment as its aggregator may see it: no `resource`, no `payload.blind`, and of the extensions, which may
    hold the seller's patterns of paths, only the payment's id and those that the scheme has `needed`.
    """
    passed_on = {PAYMENT_IDENTIFIER, *needed}
    payload: dict[str, Any] = {name: value for name, value in payment.payload.items() if name != "blind"}
    extensions = {name: value for name, value in (payment.extensions or {}).items() if name in passed_on}
    return structs.replace(payment, payload=payload, resource=None, extensions=extensions or None)
