"""What an x402 facilitator is posted and answers over HTTP, as the official schemas have it."""

from typing import Any, Literal

from msgspec import field

from tallystick.x402.messages import Message, PaymentPayload, PaymentRequirements


def _two() -> Literal[2]:
    return 2


def _no_extensions() -> list[str]:
    return []


def _no_signers() -> dict[str, list[str]]:
    return {}


class FacilitatorRequest(Message, frozen=True, kw_only=True):
    x402_version: Literal[2] = field(default_factory=_two)
    payment_payload: PaymentPayload
    payment_requirements: PaymentRequirements


class VerifyRequest(FacilitatorRequest, frozen=True, kw_only=True):
    """What is posted to /verify."""


class SettleRequest(FacilitatorRequest, frozen=True, kw_only=True):
    """What is posted to /settle."""


class VerifyResponse(Message, frozen=True, kw_only=True):
    """The answer of /verify; a refusal is an answer too, with a reason's code in `invalid_reason`."""

    is_valid: bool
    invalid_reason: str | None = None
    invalid_message: str | None = None
    payer: str | None = None
    extensions: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None


class SupportedKind(Message, frozen=True, kw_only=True):
    """One scheme on one network; other facilitators list kinds of version 1 too."""

    x402_version: int = field(default_factory=_two)
    scheme: str
    network: str
    extra: dict[str, Any] | None = None


class SupportedResponse(Message, frozen=True, kw_only=True):
    """The answer of /supported; `signers` maps a CAIP-2 pattern ("eip155:*") to addresses."""

    kinds: list[SupportedKind]
    extensions: list[str] = field(default_factory=_no_extensions)
    signers: dict[str, list[str]] = field(default_factory=_no_signers)
