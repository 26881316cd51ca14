"""The answers that a paywall gives in its own name, and the receipts that it adds to others'."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tallystick.charges import DeferredCharge
from tallystick.errors import MalformedError, RefusedError
from tallystick.facilitator import Settled
from tallystick.hexadecimal import to_hex
from tallystick.reasons import Reason
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    ResourceInfo,
    SettleResponse,
    encode_header,
)
from tallystick_client.seller.paywall.asgi import Send, respond
from tallystick_client.seller.paywall.incoming_payment import IncomingPayment
from tallystick_client.seller.paywall.offers import Offer, error_text, payment_required

RETRY_AFTER_S: Final = 2
"""What a client is told to wait for when the aggregator is away; it usually restarts within that."""
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


async def ask_for_payment(
    send: Send,
    offers: Sequence[Offer],
    resource: ResourceInfo,
    error: MalformedError | RefusedError | str,
    receipt: str | None = None,
    extensions: Mapping[str, Any] | None = None,
) -> None:
    """402 with the terms, and why the payment that came was not taken."""
    totals = error.state if isinstance(error, RefusedError) else None
    text = error if isinstance(error, str) else error_text(error)
    headers = [(PAYMENT_REQUIRED_HEADER, encode_header(payment_required(offers, resource, text, totals, extensions)))]
    if receipt is not None:
        headers.append((PAYMENT_RESPONSE_HEADER, receipt))
    await respond(send, 402, {}, headers)


async def say_malformed(send: Send, error: MalformedError, receipt: str | None) -> None:
    """400: the request can be neither priced nor served."""
    await respond(send, 400, {"error": "malformed", "message": str(error)}, _with(receipt))


async def say_too_large(send: Send, bytes_max: int, receipt: str | None) -> None:
    """413: the body is longer than what is read ahead, where it is hashed or decides the price."""
    hint = "larger ones streamed, where the price does not depend on them"
    message = f"body: got more, allowed at most {bytes_max} bytes with Content-Length; {hint}"
    headers = [("connection", "close"), *_with(receipt)]
    await respond(send, 413, {"error": "body_too_large", "message": message}, headers)


async def say_too_slow(send: Send) -> None:
    """408: the body did not come in time."""
    message = "The body did not come in time; the same request may be sent again."
    await respond(send, 408, {"error": "body_too_slow", "message": message}, [("connection", "close")])


async def say_crowded(send: Send) -> None:
    """503: there is no memory to read this body ahead."""
    message = "Too many request bodies are being read now; send the same request again."
    headers = [("connection", "close"), ("retry-after", str(RETRY_AFTER_S))]
    await respond(send, 503, {"error": "overloaded", "message": message}, headers)


async def say_failed(send: Send, receipt: str | None) -> None:
    """500: the application raised, and its payment, if that is known, was not taken."""
    message = "The page could not be made."
    await respond(send, 500, {"error": "internal_error", "message": message}, _with(receipt))


async def say_unavailable(send: Send, message: str) -> None:
    """503: the same payment may be sent again, and is charged once at most."""
    body = {"error": "aggregator_unavailable", "message": message}
    await respond(send, 503, body, [("retry-after", str(RETRY_AFTER_S))])


async def say_pending(send: Send) -> None:
    """409: another request or process uses this exact payment, or its transfer is not in a block yet."""
    body = {"error": Reason.PAYMENT_PENDING.code, "message": Reason.PAYMENT_PENDING.advice}
    await respond(send, 409, body, [("retry-after", str(RETRY_AFTER_S))])


async def say_used(send: Send) -> None:
    """409: this exact payment has paid for a response that is not kept, or for another request."""
    await respond(send, 409, {"error": Reason.PAYMENT_USED.code, "message": Reason.PAYMENT_USED.advice})


async def say_replayed(send: Send, *, under_way: bool) -> None:
    """409: this payment paid for a response that is not kept, or is being made."""
    if under_way:
        message = "This payment is being used by another request; its outcome is not known yet."
        await respond(send, 409, {"error": "payment_under_way", "message": message}, [("retry-after", "1")])
        return
    message = "This payment was used before and pays for nothing new."
    await respond(send, 409, {"error": "payment_replayed", "message": message})


def receipt_of(presented: IncomingPayment, settled: Settled) -> str:
    """PAYMENT-RESPONSE for a payment that was taken."""
    amount = str(settled.amount)
    extra: dict[str, Any] | None = None
    if isinstance(presented.payment, DeferredCharge):
        channel_id = to_hex(presented.payment.charge.channel_id)
        state = {"channelId": channel_id, "chargedCumulativeAmount": str(settled.charged)}
        extra = {"chargedAmount": amount, "channelState": state}
    return encode_header(
        SettleResponse(
            success=True,
            payer=to_hex(presented.payer),
            transaction=to_hex(settled.transaction) if settled.transaction else "",
            network=str(presented.offer.terms.network),
            amount=amount,
            extra=extra,
        )
    )


def receipt_of_release(presented: IncomingPayment) -> str:
    """PAYMENT-RESPONSE for a `deferred` payment that was given back: nothing was charged."""
    return receipt_of_nothing(str(presented.offer.terms.network))


def receipt_of_nothing(network: str) -> str:
    """PAYMENT-RESPONSE for a payment that was not needed, or given back: nothing was charged."""
    extra = {"chargedAmount": "0"}
    return encode_header(SettleResponse(success=True, transaction="", network=network, amount="0", extra=extra))


def receipt_of_refusal(presented: IncomingPayment, refused: RefusedError) -> str:
    """PAYMENT-RESPONSE for a payment that could not be taken after its request was served: nothing was charged."""
    return encode_header(
        SettleResponse(
            success=False,
            error_reason=refused.reason.code,
            error_message=refused.message,
            transaction="",
            network=str(presented.offer.terms.network),
        )
    )


def _with(receipt: str | None) -> list[tuple[str, str]]:
    return [] if receipt is None else [(PAYMENT_RESPONSE_HEADER, receipt)]
