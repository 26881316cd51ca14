"""x402's verbs over all schemes, for every edge: who may ask, which scheme it is, and nothing else.

Edges decode the call, ask here, and encode the answer. Raises DeniedError on a caller that may not, MalformedError on
what cannot be read; refusals of money are answers.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tallystick.errors import MalformedError
from tallystick.facilitator import Kind, Settled, Verified
from tallystick.x402 import PaymentPayload, PaymentTerms
from tallystick_aggregator.auth.credentials import Principal, Scope
from tallystick_aggregator.auth.principals import Principals, require_receiver
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.port import PAYLOAD, Caller, EncodedPayment, Scheme


class Verdict(NamedTuple):
    """Whether a payment will settle, and who would pay; `payer` is empty where the payment was not looked at."""

    answer: Verified | Refusal
    payer: bytes


class Facilitator:
    """The registered schemes."""

    def __init__(self, principals: Principals, schemes: Iterable[Scheme[Any, Any]]) -> None:
        """Register schemes, in the order in which they are told to sellers."""
        self._principals = principals
        self._schemes = {scheme.name: scheme for scheme in schemes}

    def charger(self, token: str) -> Principal:
        """Return whom this token stands for, if it may have payments verified and settled; raises DeniedError."""
        return self._principals.require(token, Scope.CHARGE)

    async def supported(self, token: str) -> tuple[Principal, list[Kind]]:
        """Return who asks, and what can be verified and settled now, network by network."""
        principal = self._principals.require(token)
        kinds = [kind for scheme in self._schemes.values() for kind in await scheme.kinds()]
        networks = list(dict.fromkeys(kind.network for kind in kinds))
        return principal, sorted(kinds, key=lambda kind: networks.index(kind.network))

    async def verify(
        self, principal: Principal, terms: PaymentTerms, payment: EncodedPayment, caller: Caller
    ) -> Verdict:
        """Check, and reserve where the scheme can, a payment to one of the principal's receivers."""
        require_receiver(principal, terms.pay_to)
        scheme = self._find(terms)
        if isinstance(scheme, Refusal):
            return Verdict(scheme, b"")
        read = _read(terms, payment, scheme.verify_forms)
        return Verdict(await scheme.verify(terms, read, caller), scheme.payer_of(read))

    async def settle(
        self, principal: Principal, terms: PaymentTerms, payment: EncodedPayment, caller: Caller, *, release: bool
    ) -> Settled | Refusal:
        """Take a payment, or give back what was reserved.

        Who holds a handle may settle it, another of the seller's workers for example; else the payment must be to one
        of the principal's receivers: what a payer signed passes through other hands.
        """
        scheme = self._find(terms)
        if isinstance(scheme, Refusal):
            return scheme
        read = _read(terms, payment, scheme.settle_forms)
        if payment.form == PAYLOAD or not scheme.is_settled_by_bearer:
            require_receiver(principal, terms.pay_to)
        return await (scheme.release if release else scheme.settle)(terms, read, caller)

    def _find(self, terms: PaymentTerms) -> Scheme[Any, Any] | Refusal:
        return self._schemes.get(terms.scheme) or refuse(
            Why.SCHEME_UNSUPPORTED, repr(terms.scheme), " or ".join(self._schemes)
        )


def _read(terms: PaymentTerms, payment: EncodedPayment, forms: Mapping[str, Callable[[Any], Any]]) -> Any:
    """The payment as its scheme reads it; raises MalformedError, also where it is of another scheme."""
    read = forms.get(payment.form or "")
    if read is None:
        raise MalformedError("payment", payment.form, f"{' or '.join(forms)}, as terms.scheme is {terms.scheme}")
    message = payment.message
    if isinstance(message, PaymentPayload) and message.accepted.scheme != terms.scheme:
        raise MalformedError("payload.accepted.scheme", message.accepted.scheme, f"{terms.scheme}, as terms.scheme")
    return read(message)
