"""Payments whose outcome is open, for the next try of the same request: it sends the same payment, not a second one.

Kept in the transport's memory until it is used, or can no longer be taken, or had to go for a newer one. What it may
cost is in the book all the time; nothing here is money.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tallystick.quantities import PaymentId
from tallystick.x402 import (
    ExactAuthorization,
    PaymentPayload,
    deferred_payload,
    encode_header,
    exact_payload,
    payment_identifier_extension,
)
from tallystick_client.payer.http.price_cache import Recent
from tallystick_client.payer.http.steps import PayableRequest
from tallystick_client.payer.policy.offers import Offer
from tallystick_client.payer.wallet.grants import Payment

UNFINISHED_MAX: Final = 1_024
"""Requests whose payments are kept."""
SAME_MAX: Final = 16
"""Payments of one request that are kept: the same request may be made several times at once."""
DEFERRED_KEPT_S: Final = 172_800.0
"""How long a `deferred` payment may be taken: as long as its payment id is, by the aggregator's default."""
EXACT_LATE_S: Final = 600.0
"""How long after its end a transfer may still show up as landed, and its page be had."""


@dataclass(frozen=True, slots=True)
class SentPayment:
    """A payment that was sent. `header` is what is sent again; times are in seconds since the epoch.

    `key_id`: the spend key that proves it, empty without one. `valid_before`: until when a transfer can be landed, 0
    for `deferred`; `nonce`: its token nonce.
    """

    offer: Offer
    header: str = field(repr=False)
    amount: int
    payment_id: PaymentId
    kept_until: float
    key_id: bytes = b""
    valid_before: int = 0
    nonce: bytes = b""


def deferred_payment(offer: Offer, payment: Payment, now_s: float) -> SentPayment:
    """A payment from the deposit, as it is sent; it can be taken for some time from now on."""
    proof = payment.proof
    key_id = proof.spend.key_id if proof.spend is not None else b""
    header = _header(offer, deferred_payload(proof), proof.payment_id)
    return SentPayment(offer, header, payment.amount, PaymentId(proof.payment_id), now_s + DEFERRED_KEPT_S, key_id)


def transfer(offer: Offer, authorization: ExactAuthorization, payment_id: PaymentId) -> SentPayment:
    """A transfer of its own, as it is sent."""
    return SentPayment(
        offer,
        _header(offer, exact_payload(authorization), payment_id),
        authorization.value,
        payment_id,
        kept_until=authorization.valid_before + EXACT_LATE_S,
        valid_before=authorization.valid_before,
        nonce=authorization.nonce,
    )


def _header(offer: Offer, payload: dict[str, Any], payment_id: bytes) -> str:
    extensions = payment_identifier_extension(payment_id)
    return encode_header(PaymentPayload(payload=payload, accepted=offer.accepted, extensions=extensions))


class UnfinishedPayments:
    """By the request that they pay for."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: Recent[tuple[str, str, bytes, bytes], tuple[SentPayment, ...]] = Recent(UNFINISHED_MAX)

    def keep(self, request: PayableRequest, payment: SentPayment) -> None:
        """Keep a payment for the next try. A body that is streamed up cannot be told from another: nothing is kept."""
        if request.is_replayable:
            kept = self._kept.get(request.key) or ()
            self._kept.put(request.key, (*kept, payment)[-SAME_MAX:])

    def take(self, request: PayableRequest) -> SentPayment | None:
        """The oldest payment to send again, which is nobody else's from now on."""
        if not len(self._kept):
            return None
        now_s = self._clock()
        usable = [payment for payment in self._kept.remove(request.key) or () if now_s < payment.kept_until]
        self._put(request, usable[1:])
        return usable[0] if usable else None

    def forget(self, request: PayableRequest, payment: SentPayment) -> None:
        """Keep this one no longer."""
        self._put(request, [kept for kept in self._kept.remove(request.key) or () if kept is not payment])

    def _put(self, request: PayableRequest, payments: list[SentPayment]) -> None:
        if payments:
            self._kept.put(request.key, tuple(payments))

    def __len__(self) -> int:
        return len(self._kept)
