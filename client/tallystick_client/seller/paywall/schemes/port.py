"""What the paywall asks of a scheme, and the payment that a scheme reads."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol, TypeAlias

from tallystick.charges import DeferredCharge
from tallystick.errors import RefusedError
from tallystick.facilitator import Kind, Settled, Verified
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
    moves_money: bool = False
    """Whether settling it is a transaction though it is reserved: it takes as long as the chain does."""
    instead: bytes | None = None
    """The body, JSON, of the answer to a payment that buys nothing: the application is not asked."""

    @property
    def is_reserved(self) -> bool:
        """Whether the aggregator reserves its amount (`Scheme`)."""
        return self.offer.scheme.is_reserved

    @property
    def held(self) -> Held:
        """What is settled: the payment itself; nothing of one that is reserved, until Verify tells (`Scheme.held`)."""
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
    """Whether the aggregator reserves the amount.

    Then it may be sent ahead, a part of it may be taken, and giving it back is final. Else each handling of a request
    is an attempt that holds all that the payer signed, and one attempt gets it.
    """
    requires_id: bool = False
    """Whether each of its payments names itself (x402's payment-identifier)."""
    tells_extra: bool = False
    """Whether the aggregator has to be told what the offers' `extra` says, which is the seller's word."""
    is_passed_on: bool = False
    """Whether x402's own server side writes into its payments, so that the SDK's are passed on as they come."""
    error_is_code: bool = False
    """Whether its clients act on a 402's `error` where that is x402's code of the refusal, and nothing beside it."""

    def is_offered(self, kind: Kind) -> bool:  # noqa: ARG002 - for those that override it
        """Whether payments of this kind can be asked for: whenever the aggregator supports it, if not overridden."""
        return True

    def extensions(self, kind: Kind) -> Mapping[str, Any]:  # noqa: ARG002 - for those that override it
        """What a 402 with its offers declares in `extensions`: nothing, if not overridden."""
        return {}

    def offer_extra(self, kind: Kind, asset: Token) -> dict[str, Any]:
        """What its offers say beside price, token and receiver."""
        ...

    def correction(self, refused: RefusedError) -> Mapping[str, Any]:  # noqa: ARG002 - for those that override it
        """What its offers say in addition after this refusal, for the next payment: nothing, if not overridden."""
        return {}

    def read(self, message: PaymentPayload, offer: Offer) -> Bind:
        """The payment in a PAYMENT-SIGNATURE header that meets this offer. Raises MalformedError."""
        ...

    def held(self, payment: IncomingPayment, verified: Verified) -> Held | None:  # noqa: ARG002
        """What is settled of a payment that was reserved: the handle, if not overridden. None where it was before."""
        return None if verified.replayed else verified.handle or None

    def found_settled(
        self,
        payment: IncomingPayment,  # noqa: ARG002 - for those that override it
        amount: int,  # noqa: ARG002
        refused: RefusedError,  # noqa: ARG002
    ) -> Settled | None:
        """What a settlement of this amount did whose answer was lost, if the refusal of the same once more shows it.

        Never, if not overridden: settling again is answered alike.
        """
        return None

    def receipt_amount(self, settled: Settled) -> str:
        """The `amount` of a receipt: what was taken, if not overridden."""
        return str(settled.amount)

    def receipt_extra(self, payment: IncomingPayment, settled: Settled) -> dict[str, Any] | None:  # noqa: ARG002
        """What a receipt says beside amount and transaction: nothing, if not overridden."""
        return None
