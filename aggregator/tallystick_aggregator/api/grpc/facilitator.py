"""FacilitatorService: x402's verbs for every scheme. Decodes, asks the Facilitator, encodes."""

from tallystick.codec.facilitator import read_terms, write_supported
from tallystick.facilitator import Limits, Settled, Supported, Verified
from tallystick.v1 import facilitator_pb2, facilitator_pb2_grpc
from tallystick.x402 import PaymentTerms
from tallystick_aggregator.api.grpc.calls import ServicerContext, guarded, token_of
from tallystick_aggregator.api.grpc.charge import ChargeLimits
from tallystick_aggregator.api.grpc.codec import read_caller, read_payment, write_settled, write_verified
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.listing import Listing


class FacilitatorService(facilitator_pb2_grpc.FacilitatorServiceServicer):
    """See tallystick/v1/facilitator.proto."""

    def __init__(self, facilitator: Facilitator, listing: Listing, rules: Rules, limits: ChargeLimits) -> None:
        self._facilitator = facilitator
        self._listing = listing
        self._limits = Limits(
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
        principal, kinds = await self._facilitator.supported(token_of(context))
        scopes = frozenset(scope.value for scope in principal.scopes)
        return write_supported(Supported(tuple(kinds), self._limits, principal.receivers, scopes))

    @guarded
    async def Verify(  # noqa: N802 - the .proto's name
        self, request: facilitator_pb2.VerifyRequest, context: ServicerContext
    ) -> facilitator_pb2.VerifyResponse:
        """Check a payment, and reserve it where its scheme can."""
        principal = self._facilitator.charger(token_of(context))
        terms, payment = read_terms(request), read_payment(request)
        caller = read_caller(request, principal.name)
        answer, payer = await self._facilitator.verify(principal, terms, payment, caller)
        return write_verified(answer, payer, self._code(terms, answer))

    @guarded
    async def Settle(  # noqa: N802 - the .proto's name
        self, request: facilitator_pb2.SettleRequest, context: ServicerContext
    ) -> facilitator_pb2.SettleResponse:
        """Take a payment, or give back what was reserved."""
        principal = self._facilitator.charger(token_of(context))
        terms, payment = read_terms(request), read_payment(request)
        caller = read_caller(request, principal.name)
        answer = await self._facilitator.settle(principal, terms, payment, caller, release=request.release)
        return write_settled(answer, self._code(terms, answer))

    @guarded
    async def PublishResources(  # noqa: N802 - the .proto's name
        self, request: facilitator_pb2.PublishResourcesRequest, context: ServicerContext
    ) -> facilitator_pb2.PublishResourcesResponse:
        """List what the caller sells."""
        published = await self._listing.publish(self._facilitator.charger(token_of(context)), request.manifest)
        return facilitator_pb2.PublishResourcesResponse(listed=published.listed, dropped=published.dropped)

    def _code(self, terms: PaymentTerms, answer: Verified | Settled | Refusal) -> str:
        return self._facilitator.reason_code(terms.scheme, answer) if isinstance(answer, Refusal) else ""
