"""The answers that a paywall gives in its own name, and the receipts that it adds to others'."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tallystick.errors import MalformedError, RefusedError
from tallystick.facilitator import Settled
from tallystick.hexadecimal import to_hex
from tallystick.reasons import Reason
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PAYMENT_SIGNATURE_HEADER,
    ResourceInfo,
    SettleResponse,
    encode_header,
)
from tallystick_client.seller.paywall.offers import error_text, payment_required
from tallystick_client.seller.paywall.schemes.port import IncomingPayment, Offer, Scheme
from tallystick_client.seller.paywall.steps import Headers, SendResponse

X402_VERSION: Final = 2
RETRY_AFTER_S: Final = 2
"""What a client is told to wait for when the aggregator is away; it usually restarts within that."""
BUSY_RETRY_AFTER_S: Final = 1
"""What a client is told to wait for while another of its requests is under way on the same channel."""
PASSING_REASONS: Final = frozenset(
    {
        Reason.CHAIN_STALE,
        Reason.STORE_UNAVAILABLE,
        Reason.OVERLOADED,
        Reason.CHAIN_UNAVAILABLE,
        Reason.TRANSACTION_PENDING,
    }
)
"""Refusals that say nothing about the payment: the same one may be sent again."""

UNDECIDED_REASONS: Final = PASSING_REASONS | {Reason.PAYMENT_PENDING}
"""Refusals of an exact payment's settlement after which the same attempt may still get it."""


def ask_for_payment(
    offers: Sequence[Offer],
    resource: ResourceInfo,
    error: MalformedError | RefusedError | str,
    receipt: str | None = None,
    extensions: Mapping[str, Any] | None = None,
    declared: Mapping[str, Any] | None = None,
    scheme: Scheme | None = None,
) -> SendResponse:
    """402 with the terms, and why the payment that came, by this scheme, was not taken.

    `extensions` are those for payments that are reserved, `declared` those for all.
    """
    refused = error if isinstance(error, RefusedError) else None
    text = why = error if isinstance(error, str) else error_text(error)
    if refused is not None and scheme is not None and scheme.error_is_code:
        text = refused.code or text
    required = encode_header(payment_required(offers, resource, text, refused, extensions, declared))
    headers = [(PAYMENT_REQUIRED_HEADER.lower(), required), *_with(receipt)]
    if refused is not None and refused.reason is Reason.CHANNEL_BUSY:
        headers.append(("retry-after", str(refused.retry_after_s or BUSY_RETRY_AFTER_S)))
    message = (f"{why}. " if why != text else "") + (
        f"To be paid for by version {X402_VERSION} of x402: {resource.url}. Its terms are in the header "
        f"{PAYMENT_REQUIRED_HEADER}; send the payment in the header {PAYMENT_SIGNATURE_HEADER}."
    )
    return _json(402, {"x402Version": X402_VERSION, "error": text, "message": message}, headers)


def malformed_payment(error: Exception, receipt: str | None) -> SendResponse:
    """400: what came is no payment (x402 v2, transports/http: malformed payloads)."""
    return _json(400, {"error": Reason.PAYLOAD_INVALID.code, "message": str(error)}, _with(receipt))


def malformed(error: MalformedError, receipt: str | None) -> SendResponse:
    """400: the request can be neither priced nor served."""
    return _json(400, {"error": "malformed", "message": str(error)}, _with(receipt))


def too_large(bytes_max: int, receipt: str | None) -> SendResponse:
    """413: the body is longer than what is read ahead, where it is hashed or decides the price."""
    hint = "larger ones streamed, where the price does not depend on them"
    message = f"body: got more, allowed at most {bytes_max} bytes with Content-Length; {hint}"
    headers = [("connection", "close"), *_with(receipt)]
    return _json(413, {"error": "body_too_large", "message": message}, headers)


def too_slow() -> SendResponse:
    """408: the body did not come in time."""
    message = "The body did not come in time; the same request may be sent again."
    return _json(408, {"error": "body_too_slow", "message": message}, [("connection", "close")])


def crowded() -> SendResponse:
    """503: there is no memory to read this body ahead."""
    message = "Too many request bodies are being read now; send the same request again."
    headers = [("connection", "close"), ("retry-after", str(RETRY_AFTER_S))]
    return _json(503, {"error": "overloaded", "message": message}, headers)


def failed(receipt: str | None) -> SendResponse:
    """500: the application raised, and its payment, if that is known, was not taken."""
    message = "The page could not be made."
    return _json(500, {"error": "internal_error", "message": message}, _with(receipt))


def unavailable(message: str) -> SendResponse:
    """503: the same payment may be sent again, and is charged once at most."""
    body = {"error": "aggregator_unavailable", "message": message}
    return _json(503, body, [("retry-after", str(RETRY_AFTER_S))])


def pending() -> SendResponse:
    """409: another request or process uses this exact payment, or its transfer is not in a block yet."""
    body = {"error": Reason.PAYMENT_PENDING.code, "message": Reason.PAYMENT_PENDING.advice}
    return _json(409, body, [("retry-after", str(RETRY_AFTER_S))])


def used() -> SendResponse:
    """409: this exact payment has paid for a response that is not kept, or for another request."""
    return _json(409, {"error": Reason.PAYMENT_USED.code, "message": Reason.PAYMENT_USED.advice})


def replayed(*, under_way: bool) -> SendResponse:
    """409: this payment paid for a response that is not kept, or is being made."""
    if under_way:
        message = "This payment is being used by another request; its outcome is not known yet."
        return _json(409, {"error": "payment_under_way", "message": message}, [("retry-after", "1")])
    message = "This payment was used before and pays for nothing new."
    return _json(409, {"error": "payment_replayed", "message": message})


def with_receipt(headers: Headers, receipt: str | None) -> Headers:
    """The headers of the application's response, with PAYMENT-RESPONSE where there is a receipt."""
    return headers if receipt is None else [*headers, *_encoded(_with(receipt))]


def receipt_of(payment: IncomingPayment, settled: Settled) -> str:
    """PAYMENT-RESPONSE for a payment that was taken."""
    return encode_header(
        SettleResponse(
            success=True,
            payer=to_hex(payment.payer),
            transaction=to_hex(settled.transaction) if settled.transaction else "",
            network=str(payment.offer.terms.network),
            amount=payment.offer.scheme.receipt_amount(settled),
            extra=payment.offer.scheme.receipt_extra(payment, settled),
        )
    )


def receipt_of_nothing(network: str) -> str:
    """PAYMENT-RESPONSE for a payment that was not needed, or given back for good: nothing was charged."""
    extra = {"chargedAmount": "0"}
    return encode_header(SettleResponse(success=True, transaction="", network=network, amount="0", extra=extra))


def receipt_of_refusal(network: str, refused: RefusedError) -> str:
    """PAYMENT-RESPONSE for a payment that could not be taken after its request was served: nothing was charged."""
    return encode_header(
        SettleResponse(
            success=False,
            error_reason=refused.reason.code,
            error_message=refused.message,
            transaction="",
            network=network,
        )
    )


def _with(receipt: str | None) -> list[tuple[str, str]]:
    return [] if receipt is None else [(PAYMENT_RESPONSE_HEADER.lower(), receipt)]


def _json(status: int, body: object, headers: Iterable[tuple[str, str]] = ()) -> SendResponse:
    """A whole JSON response that no cache keeps."""
    data = msgspec.json.encode(body)
    own = [("content-type", "application/json"), ("content-length", str(len(data))), ("cache-control", "no-store")]
    return SendResponse(status, _encoded([*own, *headers]), data)


def _encoded(headers: Iterable[tuple[str, str]]) -> Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
