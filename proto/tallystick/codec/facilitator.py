"""Terms, payments, kinds, verified and settled payments (facilitator.proto)."""

from typing import Final

from tallystick.amounts import decode_amount, encode_amount
from tallystick.charges import DeferredCharge
from tallystick.codec.charge import read_charge, write_charge
from tallystick.codec.common import (
    fixed,
    not_zero,
    read_channel,
    read_extra,
    read_network,
    read_refusal,
    write_config,
    write_extra,
)
from tallystick.errors import MalformedError
from tallystick.facilitator import Attempt, Kind, Limits, Settled, Supported, Verified
from tallystick.tokens import DECIMALS_MAX, Token
from tallystick.v1 import facilitator_pb2 as pb
from tallystick.x402 import ExactAuthorization, PaymentTerms
from tallystick.x402.payloads import SIGNATURE_BYTES_MAX

ATTEMPT_BYTES: Final = 16
HANDLE_BYTES: Final = 64
_SCHEME_CHARS_MAX: Final = 64

Request = pb.VerifyRequest | pb.SettleRequest


# Requests.


def read_terms(request: Request) -> PaymentTerms:
    """Read a seller's terms; the scheme is any text."""
    if not request.HasField("terms"):
        raise MalformedError("terms", None, "what the seller asks for")
    message = request.terms
    if not 0 < len(message.scheme) <= _SCHEME_CHARS_MAX:
        raise MalformedError("terms.scheme", message.scheme, f"a name of 1 to {_SCHEME_CHARS_MAX} characters")
    return PaymentTerms(
        scheme=message.scheme,
        network=read_network(message.network, "terms.network"),
        amount=decode_amount(message.amount, "terms.amount"),
        asset=fixed(message.asset, 20, "terms.asset"),
        pay_to=fixed(message.pay_to, 20, "terms.pay_to"),
        extra=read_extra(message.extra, "terms.extra"),
    )


def write_terms(terms: PaymentTerms) -> pb.PaymentTerms:
    return pb.PaymentTerms(
        scheme=terms.scheme,
        network=str(terms.network),
        amount=encode_amount(terms.amount),
        asset=terms.asset,
        pay_to=terms.pay_to,
        extra=write_extra(terms.extra),
    )


def read_attempt(request: Request) -> Attempt | None:
    """Read the attempt that a payment is verified or settled for, if there is one."""
    if not request.HasField("attempt"):
        return None
    attempt = request.attempt
    return Attempt(
        fixed(attempt.id, ATTEMPT_BYTES, "attempt.id"), fixed(attempt.request_hash, 32, "attempt.request_hash")
    )


def write_attempt(attempt: Attempt) -> pb.Attempt:
    return pb.Attempt(id=attempt.id, request_hash=attempt.request_hash)


def read_deferred(message: pb.DeferredPayment) -> DeferredCharge:
    if not message.HasField("charge"):
        raise MalformedError("deferred.charge", None, "a charge")
    config = read_channel(message.config, "deferred.config")
    try:
        return DeferredCharge(config, read_charge(message.charge))
    except MalformedError as error:
        raise error.within("deferred.charge") from None


def write_deferred(payment: DeferredCharge) -> pb.DeferredPayment:
    return pb.DeferredPayment(config=write_config(payment.config), charge=write_charge(payment.charge))


def read_handle(handle: bytes) -> bytes:
    """Read what names a reservation."""
    return fixed(handle, HANDLE_BYTES, "handle")


def read_exact(message: pb.ExactPayment) -> ExactAuthorization:
    """Read an `exact` payment; its signature may be a contract wallet's, of any length up to a bound."""
    if len(message.signature) > SIGNATURE_BYTES_MAX:
        raise MalformedError("exact.signature", message.signature, f"at most {SIGNATURE_BYTES_MAX} bytes")
    return ExactAuthorization(
        from_=not_zero(getattr(message, "from"), "exact.from"),  # a keyword of Python
        to=fixed(message.to, 20, "exact.to"),
        value=decode_amount(message.value, "exact.value"),
        valid_after=message.valid_after,
        valid_before=message.valid_before,
        nonce=fixed(message.nonce, 32, "exact.nonce"),
        signature=message.signature,
    )


def write_exact(payment: ExactAuthorization) -> pb.ExactPayment:
    message = pb.ExactPayment(
        to=payment.to,
        value=encode_amount(payment.value),
        valid_after=payment.valid_after,
        valid_before=payment.valid_before,
        nonce=payment.nonce,
        signature=payment.signature,
    )
    setattr(message, "from", payment.from_)  # a keyword of Python
    return message


# Answers.


def read_token(message: pb.Asset, field: str) -> Token:
    if message.decimals > DECIMALS_MAX:
        raise MalformedError(f"{field}.decimals", message.decimals, f"from 0 to {DECIMALS_MAX}")
    return Token(
        address=fixed(message.token, 20, f"{field}.token"),
        symbol=message.symbol,
        decimals=message.decimals,
        name=message.name,
        version=message.version,
        min_deposit=decode_amount(message.min_deposit, f"{field}.min_deposit"),
    )


def write_token(token: Token, *, takes_deposits: bool = True) -> pb.Asset:
    return pb.Asset(
        token=token.address,
        symbol=token.symbol,
        decimals=token.decimals,
        name=token.name,
        version=token.version,
        min_deposit=encode_amount(token.min_deposit) if takes_deposits else b"",
    )


def read_supported(message: pb.SupportedResponse) -> Supported:
    """Read what the aggregator can verify and settle, and what the caller's token is good for."""
    limits = message.limits
    return Supported(
        kinds=tuple(_read_kind(kind) for kind in message.kinds),
        limits=Limits(
            charges_per_batch_max=limits.charges_per_batch_max,
            unanswered_batches_max=limits.unanswered_batches_max,
            reservation_s=limits.reservation_s,
            payment_id_retention_s=limits.payment_id_retention_s,
        ),
        receivers=frozenset(message.receivers),
        scopes=frozenset(message.scopes),
    )


def write_supported(supported: Supported) -> pb.SupportedResponse:
    """Write what can be verified and settled, and what the caller's token is good for."""
    limits = supported.limits
    return pb.SupportedResponse(
        kinds=[_write_kind(kind) for kind in supported.kinds],
        limits=pb.Limits(
            charges_per_batch_max=limits.charges_per_batch_max,
            unanswered_batches_max=limits.unanswered_batches_max,
            reservation_s=limits.reservation_s,
            payment_id_retention_s=limits.payment_id_retention_s,
        ),
        receivers=sorted(supported.receivers),
        scopes=sorted(supported.scopes),
    )


def _read_kind(message: pb.Kind) -> Kind:
    return Kind(
        scheme=message.scheme,
        network=message.network,
        assets=tuple(read_token(asset, "Kind.assets") for asset in message.assets),
        escrow=message.escrow and fixed(message.escrow, 20, "Kind.escrow"),
        escrow_name=message.escrow_name,
        escrow_version=message.escrow_version,
        operator=message.operator and fixed(message.operator, 20, "Kind.operator"),
        withdraw_delay_s=message.withdraw_delay_s,
        withdraw_delay_s_min=message.withdraw_delay_s_min,
        withdraw_delay_s_max=message.withdraw_delay_s_max,
        extra=read_extra(message.extra, "Kind.extra"),
        extensions=tuple(message.extensions),
    )


def _write_kind(kind: Kind) -> pb.Kind:
    return pb.Kind(
        scheme=kind.scheme,
        network=kind.network,
        assets=[write_token(token, takes_deposits=bool(kind.escrow)) for token in kind.assets],
        escrow=kind.escrow,
        escrow_name=kind.escrow_name,
        escrow_version=kind.escrow_version,
        operator=kind.operator,
        withdraw_delay_s=kind.withdraw_delay_s,
        withdraw_delay_s_min=kind.withdraw_delay_s_min,
        withdraw_delay_s_max=kind.withdraw_delay_s_max,
        extra=write_extra(kind.extra),
        extensions=kind.extensions,
    )


def read_verified(message: pb.VerifyResponse) -> Verified:
    """Read a payment that is valid; raises RefusedError for one that is not."""
    if not message.valid:
        raise read_refusal(message.refusal)
    return Verified(
        message.payer,
        message.handle,
        message.reservation_expires_at,
        message.replayed,
        read_extra(message.extra, "VerifyResponse.extra"),
    )


def write_verified(verified: Verified) -> pb.VerifyResponse:
    """Write that a payment will settle, with the reservation's handle."""
    return pb.VerifyResponse(
        valid=True,
        payer=verified.payer,
        handle=verified.handle,
        reservation_expires_at=verified.expires_at,
        replayed=verified.replayed,
        extra=write_extra(verified.extra),
    )


def read_settled(message: pb.SettleResponse) -> Settled:
    """Read a payment that was settled; raises RefusedError for one that was not."""
    if not message.success:
        raise read_refusal(message.refusal)
    return Settled(
        payer=message.payer,
        amount=decode_amount(message.amount, "SettleResponse.amount"),
        charged=decode_amount(message.charged, "SettleResponse.charged"),
        transaction=message.transaction,
        replayed=message.replayed,
        extra=read_extra(message.extra, "SettleResponse.extra"),
    )


def write_settled(settled: Settled) -> pb.SettleResponse:
    """Write what was captured or transferred."""
    return pb.SettleResponse(
        success=True,
        payer=settled.payer,
        amount=encode_amount(settled.amount),
        charged=encode_amount(settled.charged),
        transaction=settled.transaction,
        replayed=settled.replayed,
        extra=write_extra(settled.extra),
    )
