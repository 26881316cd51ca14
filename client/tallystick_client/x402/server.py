"""`deferred` for the SDK's resource server: FastAPI, Flask, and the MCP transport sell by it.

    server = x402ResourceServer(FacilitatorClient("127.0.0.1:7402", token="env:TALLYSTICK_TOKEN"))
    server.register("eip155:8453", DeferredServerScheme(kept=kept, facilitator=facilitator))

Before the facilitator is asked, the payment is compared with the request that it came with, and all that would tell the
page is taken out of it (`binding`). A payment that was taken before gets the answer that was kept for it (`kept`);
where none is kept it is refused, and charged nothing more.
"""

from collections.abc import Awaitable, Coroutine, Mapping, MutableMapping, Sequence
from inspect import isawaitable
from typing import Any, Final, NamedTuple, Protocol, cast

from x402 import schemas
from x402.http.types import HTTPTransportContext
from x402.interfaces import PaymentFlowConfig
from x402.schemas import hooks

from tallystick.errors import MalformedError, RefusedError
from tallystick.reasons import Reason
from tallystick.tokens import Token
from tallystick.x402 import SCHEME_DEFERRED, read_deferred_terms, read_terms
from tallystick.x402.terms import VOUCHER_MANAGER
from tallystick_client.seller.paywall.offers import error_text
from tallystick_client.x402.binding import (
    BodyReader,
    application_scope,
    bind,
    http_hash,
    is_bound_to_body,
    read_body,
    resource_hash,
)
from tallystick_client.x402.kept import KeptAnswers, key_of
from tallystick_client.x402.messages import requirements_of
from tallystick_client.x402.prices import Priced

DEFAULT_TRANSFER: Final = "default"
"""The SDK's name for a scheme that knows no `assetTransferMethod`; it never goes over the wire."""
_TERMS: Final = ("escrow", "receiverAuthorizer", "withdrawDelay", "name", "version", VOUCHER_MANAGER, "blinding")
_REPEATED: Final = "repeated"
_TAKEN: Final = frozenset({Reason.PAYMENT_USED.code, Reason.PAYMENT_PENDING.code})


class Settles(Protocol):
    """A facilitator client of the SDK's, sync or async."""

    def settle(self, payload: Any, requirements: Any) -> "schemas.SettleResponse | Awaitable[schemas.SettleResponse]":
        """Settle a payment."""
        ...


class DeferredServerScheme(Priced):
    """The SDK's server scheme, for `x402ResourceServer` and `x402ResourceServerSync`.

    `kept`: where answers are kept for payers that ask again; without it they are refused. `facilitator`: the server's,
    to give back at once what is reserved when a handler fails; without it the reservation expires. `tokens`: what
    prices in money are counted in, where the facilitator does not tell it. `read_body`: for frameworks other than
    FastAPI and Flask.
    """

    scheme = SCHEME_DEFERRED
    default_asset_transfer_method = DEFAULT_TRANSFER
    payment_flows: Mapping[str, PaymentFlowConfig] = {
        DEFAULT_TRANSFER: {"supported": ("authorization",), "default": "authorization"}
    }

    def __init__(
        self,
        *,
        kept: KeptAnswers | None = None,
        facilitator: Settles | None = None,
        tokens: Sequence[Token] = (),
        read_body: BodyReader = read_body,
    ) -> None:
        self._kept = kept
        self._facilitator = facilitator
        super().__init__(tokens)
        self._read_body = read_body

    # What is asked for.

    def validate_facilitator_support(
        self,
        network: str,
        supported_kind: schemas.SupportedKind,
        facilitator_extensions: list[str],  # noqa: ARG002 - the SDK's
    ) -> str | None:
        """What is wrong with the facilitator's terms, if anything; its tokens are remembered."""
        extra = supported_kind.extra or {}
        try:
            read_deferred_terms(extra, "extra")
            self._prices.learn(network, extra)
        except MalformedError as error:
            return f"the facilitator's terms cannot be used: {error}"
        return None

    def enhance_payment_requirements(
        self,
        requirements: schemas.PaymentRequirements,
        supported_kind: schemas.SupportedKind,
        extensions: list[str],  # noqa: ARG002 - the SDK's
    ) -> schemas.PaymentRequirements:
        """Add the facilitator's escrow and its terms."""
        told = supported_kind.extra or {}
        extra: dict[str, Any] = dict(requirements.extra or {})
        extra.update((name, told[name]) for name in _TERMS if name in told)
        token = self._prices.find(requirements.asset, requirements.network)
        if token is not None and token.min_deposit:
            extra["minDeposit"] = str(token.min_deposit)
        requirements.extra = extra
        return requirements

    # What a payment is for.

    def before_verify(self, context: hooks.VerifyContext) -> Any:
        """Bind the payment to its request: a result of the SDK's, awaited where the body has to be."""
        payload, transport = context.payment_payload, context.transport_context
        if not isinstance(payload, schemas.PaymentPayload):
            return hooks.AbortResult("invalid_x402_version")
        if not isinstance(transport, HTTPTransportContext):
            return _bound(payload, resource_hash(_resource_url(payload, transport)))
        adapter = transport.request.adapter
        body = self._read_body(adapter) if is_bound_to_body(adapter) else b""
        if isawaitable(body):
            return _bound_later(payload, transport, body)
        return _bound(payload, http_hash(transport, body))

    def after_verify(self, context: hooks.VerifyResultContext) -> None:
        """The handler of a new payment runs next."""
        paid, is_repeated = _paid_request(context), (context.result.extra or {}).get(_REPEATED) is True
        if self._kept is not None and paid is not None and not is_repeated:
            self._kept.begin(*paid, read_terms(requirements_of(_v2(context.requirements))))

    def on_verify_failure(self, context: hooks.VerifyFailureContext) -> hooks.RecoveredVerifyResult | None:
        """Let a payment that was taken before have the answer that was kept for it: no handler runs again."""
        paid, is_taken = _paid_request(context), str(context.error) in _TAKEN
        if self._kept is None or paid is None or not is_taken or not self._kept.repeat(*paid):
            return None
        return hooks.RecoveredVerifyResult(schemas.VerifyResponse(is_valid=True, extra={_REPEATED: True}))

    def on_settle_failure(self, context: hooks.SettleFailureContext) -> None:
        """Keep the answer only where the payment may have been taken: also where the facilitator did not answer."""
        paid, reason = _paid_request(context), Reason.from_code(str(context.error))
        is_final = reason is not Reason.UNSPECIFIED and not reason.retry
        if self._kept is not None and paid is not None and is_final:
            self._kept.forget(paid.key)

    def on_verified_payment_canceled(self, context: hooks.VerifiedPaymentCanceledContext) -> Any:
        """Give back what is reserved for a handler that failed, where that can be done."""
        if self._facilitator is None:
            return None
        nothing = _v2(context.requirements).model_copy(update={"amount": "0"})
        return self._facilitator.settle(context.payment_payload, nothing)


def _bound(payload: schemas.PaymentPayload, request: bytes) -> hooks.AbortResult | None:
    try:
        bind(payload, request)
    except (MalformedError, RefusedError) as error:
        return hooks.AbortResult(error_text(error))
    return None


def _bound_later(
    payload: schemas.PaymentPayload, transport: HTTPTransportContext, body: Awaitable[bytes]
) -> Coroutine[Any, Any, hooks.AbortResult | None]:
    async def wait() -> hooks.AbortResult | None:
        return _bound(payload, http_hash(transport, await body))

    return wait()


def _v2(requirements: Any) -> schemas.PaymentRequirements:
    assert isinstance(requirements, schemas.PaymentRequirements), "before_verify refuses version 1"
    return requirements


class _PaidRequest(NamedTuple):
    scope: MutableMapping[str, Any]
    key: bytes
    """What the payment's answer is kept under."""


def _paid_request(context: Any) -> _PaidRequest | None:
    """The request that a payment came with; None without HTTP, and behind a framework that nothing can be kept for."""
    transport = context.transport_context
    if not isinstance(transport, HTTPTransportContext):
        return None
    scope, header = application_scope(transport.request.adapter), transport.request.payment_header
    return None if scope is None or header is None else _PaidRequest(scope, key_of(header))


def _resource_url(payload: schemas.PaymentPayload, transport: object) -> str:
    """What is sold without HTTP: the MCP tool that is called, which the server says, not the payer.

    Where a server says nothing, as one that verifies payments by itself: what the payer says. Nothing is compared then.
    """
    if isinstance(transport, dict):
        return f"mcp://tool/{cast('dict[str, Any]', transport).get('toolName', '')}"
    return payload.resource.url if payload.resource is not None else ""
