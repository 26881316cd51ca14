"""`batch-settlement` for the SDK's resource server, with vouchers that the facilitator manages: FastAPI, Flask, MCP.

    facilitator = HTTPFacilitatorClient(FacilitatorConfig(url=..., auth_provider=BearerAuth("env:TALLYSTICK_TOKEN")))
    server = x402ResourceServer(facilitator)
    server.register("eip155:8453", FacilitatorManagedServerScheme(facilitator))

The SDK's own scheme keeps the vouchers in the server; here it keeps nothing. Every payment goes to the facilitator's
/verify and then to its /settle, with the `pendingId` that /verify answered ("Voucher Management" of
scheme_batch_settlement_evm.md). It is remembered for as long as the payment's request is handled.

The SDK shows a scheme no answer of /verify that refuses. So the scheme asks by itself, before the SDK would, and hands
the answer over: that is how the 402 gets the channel's state and its newest voucher.
"""

import weakref
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, Final, NamedTuple, Protocol, cast

from x402 import schemas
from x402.interfaces import PaymentFlowConfig, SchemePaymentRequiredContext
from x402.schemas import hooks

from tallystick.amounts import parse_amount
from tallystick.errors import MalformedError
from tallystick.hexadecimal import parse_address
from tallystick.tokens import Token
from tallystick.x402 import ASSET_TRANSFER_EIP3009, ASSET_TRANSFER_PERMIT2
from tallystick.x402.terms import (
    SCHEME_BATCH_SETTLEMENT,
    VOUCHER_MANAGER,
    VOUCHER_MANAGER_FACILITATOR,
    read_batch_settlement_terms,
)
from tallystick_client.x402.prices import Priced

DEPOSIT_PAYMENTS: Final = 10
"""How many payments a deposit is asked to last where neither route nor token says: as the SDK's own scheme does."""
_CORRECTION: Final = ("channelState", "voucherState")
_AFTER_HANDLER: Final[PaymentFlowConfig] = {"supported": ("authorization",), "default": "authorization"}


class Manager(Protocol):
    """A facilitator client of the SDK's, sync or async."""

    def verify(self, payload: Any, requirements: Any) -> "schemas.VerifyResponse | Awaitable[schemas.VerifyResponse]":
        """Check a payment and hold its channel."""
        ...

    def settle(self, payload: Any, requirements: Any) -> "schemas.SettleResponse | Awaitable[schemas.SettleResponse]":
        """Charge a payment, or free its channel."""
        ...


@dataclass(frozen=True)
class _Answered:
    """What /verify said of a payment that is being handled."""

    pending_id: str | None
    correction: Mapping[str, Any]


class FacilitatorManagedServerScheme(Priced):
    """The SDK's server scheme, for `x402ResourceServer` and `x402ResourceServerSync`.

    `facilitator`: the server's own, async or sync as the server is. `tokens`: what prices in money are counted in, and
    which EIP-712 domain they have, where the facilitator does not tell it and a route's price does not.
    """

    scheme = SCHEME_BATCH_SETTLEMENT
    default_asset_transfer_method = ASSET_TRANSFER_EIP3009
    payment_flows: Mapping[str, PaymentFlowConfig] = {
        ASSET_TRANSFER_EIP3009: _AFTER_HANDLER,
        ASSET_TRANSFER_PERMIT2: _AFTER_HANDLER,
    }

    def __init__(self, facilitator: Manager, *, tokens: Sequence[Token] = ()) -> None:
        self._facilitator = facilitator
        super().__init__(tokens)
        # By the payment's identity, as the SDK's schemes have it: two requests may carry the same payment.
        self._answered: dict[int, _Answered] = {}

    # What is asked for.

    def validate_facilitator_support(
        self,
        network: str,
        supported_kind: schemas.SupportedKind,
        facilitator_extensions: list[str],  # noqa: ARG002 - the SDK's
    ) -> str | None:
        """What the facilitator lacks, if anything ("GET /supported"); its tokens are remembered."""
        extra = supported_kind.extra or {}
        try:
            _read_support(extra)
            self._prices.learn(network, extra)
        except MalformedError as error:
            return f"the facilitator does not manage vouchers as this scheme needs it: {error}"
        return None

    def enhance_payment_requirements(
        self,
        requirements: schemas.PaymentRequirements,
        supported_kind: schemas.SupportedKind,
        extensions: list[str],  # noqa: ARG002 - the SDK's
    ) -> schemas.PaymentRequirements:
        """Add who manages vouchers and claims them, the withdraw delay, the token's domain and the deposit's size.

        Raises MalformedError, a ValueError, where neither route nor token says what the token's EIP-712 domain is.
        """
        support = _read_support(supported_kind.extra or {})
        token = self._prices.find(requirements.asset, requirements.network)
        domain = {} if token is None else {"name": token.name, "version": token.version}
        extra: dict[str, Any] = domain | dict(requirements.extra or {}) | support._asdict()
        amount = parse_amount(requirements.amount, "amount")
        wanted = amount * DEPOSIT_PAYMENTS
        if "minDeposit" in extra:
            wanted = parse_amount(extra["minDeposit"], "extra.minDeposit")
        elif token is not None:
            wanted = max(wanted, token.min_deposit)
        extra["minDeposit"] = str(max(wanted, amount))
        read_batch_settlement_terms(extra)
        requirements.extra = extra
        return requirements

    # What becomes of a payment.

    def before_verify(self, context: hooks.VerifyContext) -> Any:
        """Ask the facilitator: a result of the SDK's, awaited where the facilitator's client is async."""
        payload = context.payment_payload
        if not isinstance(payload, schemas.PaymentPayload):
            return hooks.AbortResult("invalid_x402_version")
        answer = self._facilitator.verify(payload, context.requirements)
        return self._note_later(payload, answer) if isawaitable(answer) else self._note(payload, answer)

    def after_verify(self, context: hooks.VerifyResultContext) -> hooks.SkipHandlerResult | None:
        """Let a refund pass by the handler: it is no paid request ("Cooperative refund flow")."""
        payload = _v2(context.payment_payload).payload
        if not context.result.is_valid or payload.get("type") != "refund":
            return None
        body = {"message": "Refund acknowledged", "channelId": payload["voucher"]["channelId"]}
        return hooks.SkipHandlerResult(hooks.SkipHandlerDirective("application/json", body))

    def enrich_settlement_payload(self, context: hooks.SettleContext) -> dict[str, Any] | None:
        """Write `pendingId` into the payment; without one the facilitator verifies it anew ("POST /settle")."""
        answered = self._answered.pop(id(context.payment_payload), None)
        return None if answered is None or answered.pending_id is None else {"pendingId": answered.pending_id}

    def enrich_payment_required_response(
        self, context: SchemePaymentRequiredContext
    ) -> list[schemas.PaymentRequirements] | None:
        """Tell who signed over another total the channel's state and its newest voucher ("Corrective 402")."""
        payload = context.payment_payload
        answered = None if payload is None else self._answered.get(id(payload))
        if payload is None or answered is None or not answered.correction:
            return None
        for offer in context.requirements:
            if _terms(offer) == _terms(payload.accepted):
                offer.extra = {**(offer.extra or {}), **answered.correction}
        return context.requirements

    def on_verified_payment_canceled(self, context: hooks.VerifiedPaymentCanceledContext) -> Any:
        """Free the channel of a payment whose handler failed: nothing is charged, deposited or refunded."""
        payload = _v2(context.payment_payload)
        answered = self._answered.pop(id(payload), None)
        if answered is None or answered.pending_id is None:
            return None
        written = {**payload.payload, "pendingId": answered.pending_id, "cancel": True}
        nothing = context.requirements.model_copy(update={"amount": "0"})
        return self._facilitator.settle(payload.model_copy(update={"payload": written}), nothing)

    def _note(self, payload: schemas.PaymentPayload, answer: schemas.VerifyResponse) -> hooks.SkipVerifyResult:
        extra = answer.extra or {}
        told: dict[str, Any] = {name: extra[name] for name in _CORRECTION if name in extra}
        answered = _Answered(extra.get("pendingId"), {}) if answer.is_valid else _Answered(None, told)
        self._answered[id(payload)] = answered
        weakref.finalize(payload, self._answered.pop, id(payload), None).atexit = False
        return hooks.SkipVerifyResult(answer)

    def _note_later(
        self, payload: schemas.PaymentPayload, answer: Awaitable[schemas.VerifyResponse]
    ) -> Coroutine[Any, Any, hooks.SkipVerifyResult]:
        async def wait() -> hooks.SkipVerifyResult:
            return self._note(payload, await answer)

        return wait()


class _Support(NamedTuple):
    """What a managed offer copies from /supported, by the names that it has there."""

    receiverAuthorizer: str  # noqa: N815 - its name on the wire
    withdrawDelay: int  # noqa: N815 - its name on the wire
    voucherManager: str = VOUCHER_MANAGER_FACILITATOR  # noqa: N815 - its name on the wire


def _read_support(extra: Mapping[str, Any]) -> _Support:
    """What the facilitator says of itself. Raises MalformedError where it does not manage vouchers of such servers."""
    managers = cast("list[Any] | None", extra.get(VOUCHER_MANAGER))
    delay = extra.get("withdrawDelay")
    if not isinstance(managers, list) or VOUCHER_MANAGER_FACILITATOR not in managers:
        raise MalformedError("extra.voucherManager", managers, 'a list with "facilitator"')
    if extra.get("delegatedRefund") is not True:
        raise MalformedError("extra.delegatedRefund", extra.get("delegatedRefund"), "true: no key signs refunds here")
    if not isinstance(delay, int):
        raise MalformedError("extra.withdrawDelay", delay, "an integer of seconds")
    authorizer = extra.get("receiverAuthorizer")
    parse_address(authorizer, "extra.receiverAuthorizer")
    return _Support(str(authorizer), delay)


def _terms(offer: schemas.PaymentRequirements) -> tuple[str, ...]:
    return (offer.scheme, str(offer.network), offer.amount, offer.asset, offer.pay_to)


def _v2(payload: Any) -> schemas.PaymentPayload:
    assert isinstance(payload, schemas.PaymentPayload), "before_verify refuses version 1"
    return payload
