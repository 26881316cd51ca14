"""SettlementService: what became of the charges on chain."""

from collections.abc import Collection
from typing import Final, Protocol

from tallystick.errors import MalformedError
from tallystick.v1 import settlement_pb2, settlement_pb2_grpc
from tallystick_aggregator.accounts.outcomes import unless_unavailable
from tallystick_aggregator.api.grpc.calls import ServicerContext, guarded, refusing, token_of
from tallystick_aggregator.api.grpc.codec import write_left_out, write_settlements
from tallystick_aggregator.auth.credentials import Principals, Scope
from tallystick_aggregator.auth.limits import RateLimit
from tallystick_aggregator.claims.claiming import Claimed
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.store.port import Outbox

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000
SETTLE_NOW_EVERY_S: Final = 100.0
"""How often a token may settle in the long run: each time costs the operator a transaction (threat 18)."""
SETTLE_NOW_BURST: Final = 6


class SettlesNow(Protocol):
    """What is asked of the settlement side."""

    async def settle_now(self, receivers: Collection[bytes] | None = None) -> Claimed:
        """Claim all that is owed to these receivers (None: to everybody) and wait until it is on chain."""
        ...


class SettlementService(settlement_pb2_grpc.SettlementServiceServicer):
    """See tallystick/v1/settlement.proto."""

    def __init__(self, principals: Principals, outbox: Outbox, settlement: SettlesNow) -> None:
        self._principals = principals
        self._outbox = outbox
        self._settlement = settlement
        self._rates: dict[str, RateLimit] = {}

    @guarded
    async def ListSettlements(  # noqa: N802 - the .proto's name
        self, request: settlement_pb2.ListSettlementsRequest, context: ServicerContext
    ) -> settlement_pb2.ListSettlementsResponse:
        """List the settlements that paid the caller, newest first."""
        principal = self._principals.require(token_of(context), Scope.READ)
        if request.limit > LIMIT_MAX:
            raise MalformedError("limit", request.limit, f"at most {LIMIT_MAX}, or 0 for {LIMIT_DEFAULT}")
        limit = request.limit or LIMIT_DEFAULT
        claims = await self._outbox.claims(sorted(principal.receivers), request.before_id, limit)
        return settlement_pb2.ListSettlementsResponse(settlements=write_settlements(claims, principal.receivers))

    @refusing(settlement_pb2.SettleNowResponse)
    async def SettleNow(  # noqa: N802 - the .proto's name
        self, request: settlement_pb2.SettleNowRequest, context: ServicerContext
    ) -> settlement_pb2.SettleNowResponse | Refusal:
        """Claim now what is owed to the caller, and wait until it is on chain; tell what was left out."""
        del request  # empty
        principal = self._principals.require(token_of(context), Scope.SETTLE)
        rate = self._rates.setdefault(principal.name, RateLimit(1 / SETTLE_NOW_EVERY_S, SETTLE_NOW_BURST))
        if not rate.take():
            return refuse(
                Why.SETTLED_TOO_OFTEN,
                f"more than {SETTLE_NOW_BURST} in a short while",
                f"{SETTLE_NOW_BURST} at once, then one every {SETTLE_NOW_EVERY_S:g} s",
            )
        answer = await unless_unavailable(self._settlement.settle_now(principal.receivers))
        if isinstance(answer, Refusal):
            return answer
        return settlement_pb2.SettleNowResponse(
            settlements=write_settlements(answer, principal.receivers),
            left_out=write_left_out(answer.left_out, principal.receivers),
        )
