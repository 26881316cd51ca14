"""x402's verbs over all schemes, for every edge: who may ask, which scheme it is, and nothing else.

Edges decode the call, ask here, and encode the answer. Raises DeniedError on a caller that may not, MalformedError on
what cannot be read; refusals of money are answers.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from tallystick.errors import MalformedError
from tallystick.facilitator import Kind, Settled, Verified
from tallystick.hashing import keccak256
from tallystick.reasons import Reason
from tallystick.x402 import PaymentPayload, PaymentTerms
from tallystick.x402.identifier import read_identifier
from tallystick_aggregator.auth.credentials import Principal, Principals, Scope, require_receiver
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
        self,
        principals: Principals,
        schemes: Iterable[Scheme[Any, Any]],
        open_schemes: Iterable[Scheme[Any, Any]] = (),
    ) -> None:
        """Register schemes, in the order in which they are told to sellers.

        `open_schemes`: those that strangers may use, on means of their own: callers without a principal.
        """
        self._principals = principals
        self._schemes = {scheme.name: scheme for scheme in schemes}
        self._open_schemes = {scheme.name: scheme for scheme in open_schemes}
        self._codes = {
            scheme.name: scheme.reason_codes for scheme in self._schemes.values() if isinstance(scheme, NamesReasons)
        }

    @property
    def is_open(self) -> bool:
        """Whether callers without a principal are served at all."""
        return bool(self._open_schemes)

    def charger(self, token: str) -> Principal:
        """Return whom this token stands for, if it may have payments verified and settled; raises DeniedError."""
        return self._principals.require(token, Scope.CHARGE)

    def takes_strangers(self, scheme: str) -> bool:
        """Whether callers without a principal may use the scheme of this name."""
        return scheme in self._open_schemes

    async def supported(self, token: str) -> tuple[Principal, list[Kind]]:
        """Return who asks, and what can be verified and settled now, network by network."""
        return self._principals.require(token), await _kinds(self._schemes.values())

    async def supported_for_strangers(self) -> list[Kind]:
        """Return what can be verified and settled now for callers without a principal, likewise."""
        return await _kinds(self._open_schemes.values())

    def reason_code(self, scheme: str, refusal: Refusal) -> str:
        """Return the standard code that the scheme has for a refusal; empty where it has none of its own."""
        return refusal.code or self._codes.get(scheme, _NO_CODES).get(refusal.reason, "")

    async def verify(
        self, principal: Principal | None, terms: PaymentTerms, payment: EncodedPayment, caller: Caller
    ) -> Verdict:
        """Check, and reserve where the scheme can, a payment to one of the principal's receivers.

        Without a principal: to anybody, by a scheme that is open to strangers.
        """
        if principal is not None:
            require_receiver(principal, terms.pay_to)
        scheme = self._find(terms, principal)
        if isinstance(scheme, Refusal):
            return Verdict(scheme, b"")
        read = _read(terms, payment, scheme.verify_forms)
        refusal = _accepted_is_asked_for(terms, payment)
        if refusal is not None:
            return Verdict(refusal, scheme.payer_of(read))
        return Verdict(await scheme.verify(terms, read, _named(terms, payment, caller)), scheme.payer_of(read))

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
        of the principal's receivers. Without a principal as in `verify`.
        """
        scheme = self._find(terms, principal)
        if isinstance(scheme, Refusal):
            return scheme
        read = _read(terms, payment, scheme.settle_forms)
        # A payload is no handle: its payer knows it, and on chain everybody does.
        if principal is not None and (payment.form == PAYLOAD or not scheme.is_settled_by_bearer):
            require_receiver(principal, terms.pay_to)
        refusal = _accepted_is_asked_for(terms, payment)
        if refusal is not None:
            return refusal
        return await (scheme.release if release else scheme.settle)(terms, read, _named(terms, payment, caller))

    def _find(self, terms: PaymentTerms, principal: Principal | None) -> Scheme[Any, Any] | Refusal:
        schemes = self._open_schemes if principal is None else self._schemes
        return schemes.get(terms.scheme) or refuse(
            Why.SCHEME_UNSUPPORTED, repr(terms.scheme[:64]), " or ".join(schemes) or "none without a token"
        )


async def _kinds(schemes: Iterable[Scheme[Any, Any]]) -> list[Kind]:
    kinds = [kind for scheme in schemes for kind in await scheme.kinds()]
    networks = list(dict.fromkeys(kind.network for kind in kinds))
    return sorted(kinds, key=lambda kind: networks.index(kind.network))


def _read(terms: PaymentTerms, payment: EncodedPayment, forms: Mapping[str, Callable[[Any], Any]]) -> Any:
    """The payment as its scheme reads it; raises MalformedError, also where it is of another scheme."""
    read = forms.get(payment.form or "")
    if read is None:
        raise MalformedError("payment", payment.form, f"{' or '.join(forms)}, as terms.scheme is {terms.scheme}")
    message = payment.message
    if isinstance(message, PaymentPayload) and message.accepted.scheme != terms.scheme:
        raise MalformedError("payload.accepted.scheme", message.accepted.scheme, f"{terms.scheme}, as terms.scheme")
    return read(message)


def _accepted_is_asked_for(terms: PaymentTerms, payment: EncodedPayment) -> Refusal | None:
    """Check that `accepted` is of the seller's network. What else it repeats is signed, or the scheme's to read."""
    if not isinstance(payment.message, PaymentPayload) or payment.message.accepted.network == str(terms.network):
        return None
    return refuse(Why.ACCEPTED_NETWORK, payment.message.accepted.network, str(terms.network))


def _named(terms: PaymentTerms, payment: EncodedPayment, caller: Caller) -> Caller:
    """The caller with what stands for the payment's identifier: among one principal's payments to one receiver."""
    if not isinstance(payment.message, PaymentPayload):
        return caller
    identifier = read_identifier(payment.message)
    if identifier is None:
        return caller
    principal = keccak256(caller.principal.encode())
    return replace(caller, payment_id=keccak256(principal + terms.pay_to + identifier.encode()))
