"""What a scheme is to the rest. To add one: implement `Scheme` in a folder of its own, and register it once.

A payment comes in one of several forms (a message of the edge, a handle, x402's JSON); the scheme says which of them it
takes, and how each is read. What it reads, and nobody else looks into, is what it is then asked to verify or settle.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, TypeVar, runtime_checkable

from tallystick.facilitator import Kind, Settled, Verified
from tallystick.reasons import Reason
from tallystick.x402 import PaymentTerms
from tallystick_aggregator.ledger.answers import Refusal

PAYLOAD: Final = "payload"
"""The form of every scheme without messages of its own: a PaymentPayload, x402's JSON object."""

V = TypeVar("V")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who verifies or settles: the principal's name, and the attempt with the request that it answers.

    Both are empty where the caller names none. `payment_id`: 32 bytes that stand for the payment's identifier among
    those of this principal's receiver, empty where it has none (x402's payment-identifier). A scheme answers the same
    payment alike by itself; by this it refuses another payment.
    """

    principal: str = ""
    attempt: bytes = b""
    request_hash: bytes = b""
    payment_id: bytes = b""


NOBODY: Final = Caller()


class EncodedPayment(NamedTuple):
    """A payment as an edge received it: the name of its form, None where none came, and what was in it."""

    form: str | None
    message: Any


class Scheme(Protocol[V, S]):
    """One way to pay. V is a payment as it is verified, S as it is settled."""

    @property
    def name(self) -> str:
        """Its name in x402's messages."""
        ...

    @property
    def is_settled_by_bearer(self) -> bool:
        """Whether S proves who may settle it, as an unguessable handle does. Else only `terms.pay_to` may."""
        ...

    @property
    def verify_forms(self) -> Mapping[str, Callable[[Any], V]]:
        """By the form's name, how a payment to verify is read; raises MalformedError."""
        ...

    @property
    def settle_forms(self) -> Mapping[str, Callable[[Any], S]]:
        """By the form's name, how a payment to settle is read; raises MalformedError."""
        ...

    async def kinds(self) -> Sequence[Kind]:
        """Return what can be verified and settled now."""
        ...

    def payer_of(self, payment: V, /) -> bytes:
        """Return whose money it is, as the payment says."""
        ...

    async def verify(self, terms: PaymentTerms, payment: V, caller: Caller, /) -> Verified | Refusal:
        """Check, and reserve where the scheme can, that the payment settles on these terms."""
        ...

    async def settle(self, terms: PaymentTerms, payment: S, caller: Caller, /) -> Settled | Refusal:
        """Take `terms.amount`. Settling again takes nothing more, and is answered alike."""
        ...

    async def release(self, terms: PaymentTerms, payment: S, caller: Caller, /) -> Settled | Refusal:
        """Give back what verify reserved. Raises MalformedError where a payment reserves nothing."""
        ...


@runtime_checkable
class NamesReasons(Protocol):
    """A scheme for whose refusals x402 has standard codes of their own."""

    @property
    def reason_codes(self) -> Mapping[Reason, str]:
        """Standard codes where they are not the ones of every scheme (api/http/reason_codes)."""
        ...
