"""FacilitatorService: x402's verbs for every scheme, typed."""

from typing import Final

from tallystick.errors import MalformedError
from tallystick.reasons import Reason
from tallystick.v1 import facilitator_pb2, facilitator_pb2_grpc
from tallystick.x402 import SCHEME_DEFERRED, SCHEME_EXACT, PaymentTerms
from tallystick_aggregator.accounts.offers import Offers
from tallystick_aggregator.api.grpc.charge import ChargeLimits
from tallystick_aggregator.api.grpc.codec import (
    read_caller,
    read_deferred,
    read_exact,
    read_handle,
    read_terms,
)
from tallystick_aggregator.api.grpc.errors import guarded
from tallystick_aggregator.api.grpc.principals import Principals, ServicerContext, require_receiver
from tallystick_aggregator.api.grpc.responses import write_kinds, write_settled, write_verified
from tallystick_aggregator.auth.credentials import Scope
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.schemes.deferred.payments import DeferredPayments
from tallystick_aggregator.schemes.exact import ExactPayments

_PAYMENT_OF: Final = {SCHEME_DEFERRED: "deferred", SCHEME_EXACT: "exact"}
_SETTLED_BY: Final = {SCHEME_DEFERRED: "handle", SCHEME_EXACT: "exact"}
"""By scheme, the field of the request that it takes."""


class FacilitatorService(facilitator_pb2_grpc.FacilitatorServiceServicer):
    """See tallystick/v1/facilitator.proto."""

    def __init__(
        self,
        principals: Principals,
        offers: Offers,
        deferred: DeferredPayments,
        exact: ExactPayments,
        rules: Rules,
        limits: ChargeLimits,
    ) -> None:
        self._principals = principals
        self._deferred = deferred
        self._exact = exact
        self._kinds = {network: write_kinds(offer) for network, offer in offers.items()}
        self._limits = facilitator_pb2.Limits(
            charges_per_batch_max=limits.charges_per_batch_max,
            unanswered_batches_max=limits.unanswered_batches_max,
            reservation_s=rules.reservation_s,
            payment_id_retention_s=rules.payment_id_retention_s,
        )

    @guarded
    async def Supported(  # noqa: N802 - the .proto's name
        self, request: facilitator_pb2.SupportedRequest, context: ServicerContext
    ) -> facilitator_pb2.SupportedResponse:
        """Tell what can be verified and settled now, and what the caller's token is good for."""
        del request  # empty
        principal = self._principals.caller(context)
        kinds: list[facilitator_pb2.Kind] = []
        for network, (deferred, exact) in self._kinds.items():
            kinds += [deferred, exact] if await self._exact.is_offered(network) else [deferred]
        return facilitator_pb2.SupportedResponse(
            kinds=kinds,
            limits=self._limits,
            receivers=sorted(principal.receivers),
            scopes=sorted(scope.value for scope in principal.scopes),
        )

    @guarded
    async def Verify(  # noqa: N802 - the .proto's name
        self, request: facilitator_pb2.VerifyRequest, context: ServicerContext
    ) -> facilitator_pb2.VerifyResponse:
        """Reserve a `deferred` payment, or check an `exact` one."""
        principal = self._principals.caller(context, Scope.CHARGE)
        terms = _read_terms(request)
        require_receiver(principal, terms.pay_to)
        refusal = _wrong_scheme(terms, request.WhichOneof("payment"), _PAYMENT_OF)
        if refusal is not None:
            return write_verified(refusal, b"")
        if terms.scheme == SCHEME_DEFERRED:
            config, payment = read_deferred(request.deferred)
            return write_verified(await self._deferred.verify(terms, config, payment), config.payer)
        transfer = read_exact(request.exact)
        caller = read_caller(request.attempt, principal.name, present=request.HasField("attempt"))
        return write_verified(await self._exact.verify(terms, transfer, caller), transfer.from_)

    @guarded
    async def Settle(  # noqa: N802 - the .proto's name
        self, request: facilitator_pb2.SettleRequest, context: ServicerContext
    ) -> facilitator_pb2.SettleResponse:
        """Capture or release a `deferred` payment, transfer or give back an `exact` one.

        Whoever holds a reservation's handle may settle it; an exact payment needs the receiver's own token.
        """
        principal = self._principals.caller(context, Scope.CHARGE)
        terms = _read_terms(request)
        refusal = _wrong_scheme(terms, request.WhichOneof("payment"), _SETTLED_BY)
        if refusal is not None:
            return write_settled(refusal)
        if terms.scheme == SCHEME_DEFERRED:
            handle = read_handle(request.handle)
            return write_settled(await self._deferred.settle(terms, handle, release=request.release))
        require_receiver(principal, terms.pay_to)
        transfer = read_exact(request.exact)
        caller = read_caller(request.attempt, principal.name, present=request.HasField("attempt"))
        if request.release:
            return write_settled(await self._exact.give_back(terms, transfer, caller))
        return write_settled(await self._exact.settle(terms, transfer, caller))


def _read_terms(request: facilitator_pb2.VerifyRequest | facilitator_pb2.SettleRequest) -> PaymentTerms:
    if not request.HasField("terms"):
        raise MalformedError("terms", None, "what the seller asks for")
    return read_terms(request.terms)


def _wrong_scheme(terms: PaymentTerms, payment: str | None, by_scheme: dict[str, str]) -> Refusal | None:
    """Refuse a scheme that is not served; raises MalformedError where the payment is of another scheme."""
    field = by_scheme.get(terms.scheme)
    if field is None:
        return Refusal(
            Reason.SCHEME_UNSUPPORTED,
            "The aggregator does not know this scheme.",
            "terms.scheme",
            repr(terms.scheme),
            " or ".join(by_scheme),
        )
    if payment != field:
        raise MalformedError("payment", payment, f"{field}, as terms.scheme is {terms.scheme}")
    return None
