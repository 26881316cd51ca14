"""x402's verbs over all schemes, for every edge: who may ask, which scheme it is, and nothing else.

Edges decode the call, ask here, and encode the answer. Raises DeniedError on a caller that may not, MalformedError on
what cannot be read; refusals of money are answers.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from tallystick.errors import MalformedError
from tallystick.facilitator import Kind, Settled, Verified
from tallystick.reasons import Reason
from tallystick.x402 import PaymentPayload, PaymentTerms
from tallystick_aggregator.auth.credentials import (
    Principal,
    Principals,
    Scope,
    UnauthenticatedError,
    require_receiver,
)
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.port import PAYLOAD, Caller, EncodedPayment, NamesReasons, Scheme

_NO_CODES: Final[Mapping[Reason, str]] = {}


class Verdict(NamedTuple):
    """Whether a payment will settle, and who would pay; `payer` is empty where the payment was not looked at."""

    answer: Verified | Refusal
    payer: bytes


class Facilitator:
    """The registered schemes."""

    def __init__(
        self, principals: Principals, schemes: Iterable[Scheme[Any, Any]], open_schemes: Collection[str] = ()
    ) -> None:
        """Register schemes, in the order in which they are told to sellers.

        `open_schemes`: the names of those that callers without a token may use, for any receiver.
        """
        self._principals = principals
        self._schemes = {scheme.name: scheme for scheme in schemes}
        self._open = frozenset(open_schemes)
        self._codes = {
            scheme.name: scheme.reason_codes for scheme in self._schemes.values() if isinstance(scheme, NamesReasons)
        }

    def charger(self, token: str) -> Principal:
        """Return whom this token stands for, if it may have payments verified and settled; raises DeniedError."""
        return self._principals.require(token, Scope.CHARGE)

    @property
    def takes_strangers(self) -> bool:
        """Whether callers without a token can do anything at all."""
        return bool(self._open)

    async def supported(self, token: str) -> tuple[Principal, list[Kind]]:
        """Return who asks, and what can be verified and settled now, network by network."""
        return self._principals.require(token), await self._kinds(self._schemes)

    async def supported_for_strangers(self) -> list[Kind]:
        """Return what callers without a token can have verified and settled now; raises DeniedError if nothing."""
        if not self._open:
            raise UnauthenticatedError("a token is needed here")
        return await self._kinds(self._open)

    def reason_code(self, scheme: str, refusal: Refusal) -> str:
        """Return the standard code that the scheme has for a refusal; empty where it has none of its own."""
        return refusal.code or self._codes.get(scheme, _NO_CODES).get(refusal.reason, "")

    async def _kinds(self, names: Collection[str]) -> list[Kind]:
        asked = [scheme for name, scheme in self._schemes.items() if name in names]
        kinds = [kind for scheme in asked for kind in await scheme.kinds()]
        networks = list(dict.fromkeys(kind.network for kind in kinds))
        return sorted(kinds, key=lambda kind: networks.index(kind.network))

    async def verify(
        self, principal: Principal | None, terms: PaymentTerms, payment: EncodedPayment, caller: Caller
    ) -> Verdict:
        """Check, and reserve where the scheme can, a payment to one of the principal's receivers.

        `principal` is None for a caller without a token.
        """
        self._require_receiver(principal, terms)
        scheme = self._find(terms)
        if isinstance(scheme, Refusal):
            return Verdict(scheme, b"")
        read = _read(terms, payment, scheme.verify_forms)
        return Verdict(await scheme.verify(terms, read, caller), scheme.payer_of(read))

    async def settle(
        self,
        principal: Principal | None,
        terms: PaymentTerms,
        payment: EncodedPayment,
        caller: Caller,
        *,
        release: bool,
    ) -> Settled | Refusal:
        """Take a payment, or give back what was reserved.

        Who holds a handle may settle it, another of the seller's workers for example; else the payment must be to one
        of the principal's receivers. `principal` is None for a caller without a token.
        """
        if principal is None:
            self._require_receiver(None, terms)
        scheme = self._find(terms)
        if isinstance(scheme, Refusal):
            return scheme
        read = _read(terms, payment, scheme.settle_forms)
        # A payload is no handle: its payer knows it, and on chain everybody does.
        if payment.form == PAYLOAD or not scheme.is_settled_by_bearer:
            self._require_receiver(principal, terms)
        return await (scheme.release if release else scheme.settle)(terms, read, caller)

    def _require_receiver(self, principal: Principal | None, terms: PaymentTerms) -> None:
        """Check that the caller may have payments to this receiver; without a token it may where the scheme is open."""
        if principal is not None:
            require_receiver(principal, terms.pay_to)
        elif terms.scheme not in self._open:
            raise UnauthenticatedError("a token is needed here: send it as 'authorization: Bearer <token>'")

    def _find(self, terms: PaymentTerms) -> Scheme[Any, Any] | Refusal:
        return self._schemes.get(terms.scheme) or refuse(
            Why.SCHEME_UNSUPPORTED, repr(terms.scheme[:64]), " or ".join(self._schemes)
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
