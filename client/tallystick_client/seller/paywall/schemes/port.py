"""What the paywall asks of a scheme, and the payment that a scheme reads."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol, TypeAlias

from tallystick.charges import DeferredCharge
from tallystick.facilitator import Kind, Settled
from tallystick.quantities import ChannelTotals
from tallystick.tokens import Token
from tallystick.x402 import ExactAuthorization, PaymentPayload, PaymentRequirements, PaymentTerms
from tallystick_client.seller.client.messages import OtherPayment

Held: TypeAlias = bytes | ExactAuthorization | OtherPayment
"""What money is taken from: a reservation's handle, or the payment itself."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to pay: its scheme, the terms, how they stand in the 402, and the token they are counted in."""

    scheme: "Scheme"
    terms: PaymentTerms
    requirements: PaymentRequirements
    asset: Token
    extensions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the 402 declares for it."""


@dataclass(frozen=True, slots=True)
class IncomingPayment:
    """A payment, the offer that it meets, and the request that it came with. Nothing about it is proven yet."""

    offer: Offer
    request_hash: bytes
    payment: DeferredCharge | ExactAuthorization | OtherPayment
    """What the aggregator verifies."""
    payer: bytes
    """Whose money it is; empty where only the aggregator can say, until it has."""
    payment_id: str
    """How the payer names the payment."""
    money_key: tuple[object, ...]
    """What is paid with, whatever for: the same key is the same money."""
    proof: tuple[object, ...] | None
    """What proves who asks, and never appears on chain, where vouchers and authorizations become public.

    None where the payment shows no such thing: a stranger could ask again just as the payer does.
    """
    identifier: str | None = None
    """How a payment that is not reserved names itself, if it does."""

    @property
    def is_reserved(self) -> bool:
        """Whether the aggregator reserves its amount (`Scheme`)."""
        return self.offer.scheme.is_reserved

    @property
    def held(self) -> Held:
        """What is settled: the payment itself; nothing of one that is reserved, until Verify tells its handle."""
        return b"" if isinstance(self.payment, DeferredCharge) else self.payment

    @property
    def answer_key(self) -> tuple[object, ...] | None:
        """What an answer is kept under: the money, the request that it pays for, and the payer's proof."""
        return None if self.proof is None else (*self.money_key, self.request_hash, *self.proof)

    def attempt_hash(self) -> bytes:
        """What a payment that is not reserved pays for, as the aggregator is told: the request, and the payment's id.

        Without an id nobody can prove to ask for the same again; then each is another's, by 32 random bytes.
        """
        if self.identifier is None:
            return os.urandom(32)
        return sha256(self.request_hash + self.identifier.encode("ascii")).digest()


Bind: TypeAlias = Callable[[bytes], IncomingPayment]
"""A payment that was read; called with the hash of the request that it came with.

Raises RefusedError where the payment says that it is bound to another one.
"""


class Scheme(Protocol):
    """One scheme, as a seller needs to know it; registered in `SCHEMES`."""

    name: str
    takes_less: bool = False
    """Whether less than the price may be taken though nothing is reserved: the price is a maximum then."""

    is_reserved: bool
    """Whether the aggregator reserves the amount, under the payment id that every payment has.

    Then it may be sent ahead, a part of it may be taken, and giving it back is final. Else each handling of a request
    is an attempt that holds all that the payer signed, and one attempt gets it.
    """

    def is_offered(self, kind: Kind) -> bool:  # noqa: ARG002 - for those that override it
        """Whether payments of this kind can be asked for: whenever the aggregator supports it, if not overridden."""
        return True

    def extensions(self, kind: Kind) -> Mapping[str, Any]:  # noqa: ARG002 - for those that override it
        """What a 402 with its offers declares in `extensions`: nothing, if not overridden."""
        return {}

    def offer_extra(self, kind: Kind, asset: Token) -> dict[str, Any]:
        """What its offers say beside price, token and receiver."""
        ...

    def totals_extra(self, totals: ChannelTotals) -> Mapping[str, Any]:  # noqa: ARG002 - for those that override it
        """What its offers say in addition where a refusal told a channel's totals: nothing, if not overridden."""
        return {}

    def read(self, message: PaymentPayload, offer: Offer) -> Bind:
        """The payment in a PAYMENT-SIGNATURE header that meets this offer. Raises MalformedError."""
        ...

    def receipt_extra(self, payment: IncomingPayment, settled: Settled) -> dict[str, Any] | None:  # noqa: ARG002
        """What a receipt says beside amount and transaction: nothing, if not overridden."""
        return None
