"""The payloads of `batch-settlement` from JSON and to it.

A channel whose payerAuthorizer is zero is malformed here: its vouchers would be checked by running the payer's code.
"""

from typing import Any, Final, Literal, TypeVar

import msgspec

from tallystick.amounts import parse_amount, parse_uint64, parse_uint256
from tallystick.channels import ChannelConfig
from tallystick.errors import Described, MalformedError
from tallystick.hexadecimal import checksum, parse_address, parse_bytes, parse_bytes_up_to, to_hex
from tallystick.quantities import ZERO_ADDRESS
from tallystick.vouchers import UncheckedVoucher
from tallystick.x402.batch_settlement.payloads import (
    BatchSettlementPayload,
    ClaimPayload,
    DepositPayload,
    Erc3009Deposit,
    Permit2Deposit,
    RefundPayload,
    Reservation,
    SettlePayload,
    VoucherClaim,
    VoucherPayload,
)
from tallystick.x402.messages import Message, PaymentPayload, malformed
from tallystick.x402.payloads import (
    SIGNATURE_BYTES_MAX,
    ChannelConfigMessage,
    VoucherMessage,
    read_channel_config,
    write_channel_config,
)
from tallystick.x402.permit2 import PermittedMessage, TokenPermit, read_nonce, read_permit

PAYLOAD_TYPES: Final = ("deposit", "voucher", "refund", "claim", "settle")
CLAIMS_MAX: Final = 160
"""Rows of one claim that are read at most: each is three objects, of which a message has JSON_CONTAINERS_MAX."""
PENDING_ID_CHARS_MAX: Final = 128
_ERC3009: Final = "erc3009Authorization"
_PERMIT2: Final = "permit2Authorization"

T = TypeVar("T")


class _Erc3009Message(Message, frozen=True, kw_only=True):
    valid_after: str
    valid_before: str
    salt: str
    signature: str


class _DepositWitnessMessage(Message, frozen=True, kw_only=True):
    channel_id: str


class _Permit2Message(Message, frozen=True, kw_only=True):
    permitted: PermittedMessage
    from_: str = msgspec.field(name="from")
    spender: str
    nonce: str
    deadline: str
    witness: _DepositWitnessMessage
    signature: str


class _AuthorizationMessage(Message, frozen=True, kw_only=True):
    erc3009: _Erc3009Message | None = msgspec.field(name=_ERC3009, default=None)
    permit2: _Permit2Message | None = msgspec.field(name=_PERMIT2, default=None)


class _DepositMessage(Message, frozen=True, kw_only=True):
    amount: str
    authorization: _AuthorizationMessage


class _ChannelVoucherMessage(Message, frozen=True, kw_only=True):
    channel: ChannelConfigMessage
    max_claimable_amount: str


class _ClaimMessage(Message, frozen=True, kw_only=True):
    voucher: _ChannelVoucherMessage
    signature: str
    total_claimed: str


class _ChannelMessage(Message, frozen=True, kw_only=True):
    channel_config: ChannelConfigMessage
    voucher: VoucherMessage
    pending_id: str | None = None
    cancel: bool | None = None


class _DepositPayloadMessage(_ChannelMessage, frozen=True, kw_only=True):
    type: Literal["deposit"]
    deposit: _DepositMessage


class _VoucherPayloadMessage(_ChannelMessage, frozen=True, kw_only=True):
    type: Literal["voucher"]


class _RefundPayloadMessage(_ChannelMessage, frozen=True, kw_only=True):
    type: Literal["refund"]
    amount: str | None = None
    refund_nonce: str | None = None
    claims: list[_ClaimMessage] | None = None
    refund_authorizer_signature: str | None = None
    claim_authorizer_signature: str | None = None


class _ClaimPayloadMessage(Message, frozen=True, kw_only=True):
    type: Literal["claim"]
    claims: list[_ClaimMessage]
    claim_authorizer_signature: str | None = None


class _SettlePayloadMessage(Message, frozen=True, kw_only=True):
    type: Literal["settle"]
    receiver: str
    token: str


def read_batch_settlement(payment: PaymentPayload) -> BatchSettlementPayload:
    """The payload of a `batch-settlement` payment, of whatever type, and the permit that came with a deposit."""
    payload = payment.payload
    match payload.get("type"):
        case "deposit":
            return _read_deposit(payment)
        case "voucher":
            voucher = _convert(payload, _VoucherPayloadMessage)
            return VoucherPayload(_read_config(voucher), _read_voucher(voucher), _read_reservation(voucher))
        case "refund":
            return _read_refund(_convert(payload, _RefundPayloadMessage))
        case "claim":
            claim = _convert(payload, _ClaimPayloadMessage)
            claims = _read_claims(claim.claims)
            if not claims:
                raise MalformedError("payload.claims", Described("no row"), f"1 to {CLAIMS_MAX} rows")
            return ClaimPayload(
                claims, _read_signature(claim.claim_authorizer_signature, "payload.claimAuthorizerSignature")
            )
        case "settle":
            settle = _convert(payload, _SettlePayloadMessage)
            return SettlePayload(
                parse_address(settle.receiver, "payload.receiver"), parse_address(settle.token, "payload.token")
            )
        case other:
            raise MalformedError("payload.type", other, " or ".join(f'"{name}"' for name in PAYLOAD_TYPES))


def batch_settlement_payload(payload: BatchSettlementPayload) -> dict[str, Any]:
    """The `payload` of a PaymentPayload; a deposit's permit goes into its `extensions` (`permit2.permit_extension`)."""
    match payload:
        case DepositPayload():
            deposit = {"amount": str(payload.amount), "authorization": _write_authorization(payload.authorization)}
            return {"type": "deposit", **_write_channel(payload), "deposit": deposit}
        case VoucherPayload():
            return {"type": "voucher", **_write_channel(payload)}
        case RefundPayload():
            return {"type": "refund", **_write_channel(payload), **_write_refund(payload)}
        case ClaimPayload():
            written: dict[str, Any] = {"type": "claim", "claims": [*map(_write_claim, payload.claims)]}
            return written | _write_signatures(claim=payload.claim_authorizer_signature)
        case SettlePayload():
            return {"type": "settle", "receiver": checksum(payload.receiver), "token": checksum(payload.token)}


def _read_deposit(payment: PaymentPayload) -> DepositPayload:
    message = _convert(payment.payload, _DepositPayloadMessage)
    path = "payload.deposit.authorization"
    erc3009, permit2 = message.deposit.authorization.erc3009, message.deposit.authorization.permit2
    authorization: Erc3009Deposit | Permit2Deposit
    if erc3009 is not None and permit2 is None:
        authorization = _read_erc3009(erc3009, f"{path}.{_ERC3009}")
    elif permit2 is not None and erc3009 is None:
        authorization = _read_permit2(permit2, read_permit(payment.extensions), f"{path}.{_PERMIT2}")
    else:
        got = Described("neither" if erc3009 is None else "both")
        raise MalformedError(path, got, f"either {_ERC3009} or {_PERMIT2}")
    amount = parse_amount(message.deposit.amount, "payload.deposit.amount")
    if amount == 0:
        raise MalformedError("payload.deposit.amount", 0, "more than 0")
    return DepositPayload(
        _read_config(message), _read_voucher(message), amount, authorization, _read_reservation(message)
    )


def _read_erc3009(message: _Erc3009Message, path: str) -> Erc3009Deposit:
    return Erc3009Deposit(
        valid_after=parse_uint64(message.valid_after, f"{path}.validAfter"),
        valid_before=parse_uint64(message.valid_before, f"{path}.validBefore"),
        salt=parse_bytes(message.salt, 32, f"{path}.salt"),
        signature=parse_bytes_up_to(message.signature, SIGNATURE_BYTES_MAX, f"{path}.signature"),
    )


def _read_permit2(message: _Permit2Message, permit: TokenPermit | None, path: str) -> Permit2Deposit:
    return Permit2Deposit(
        from_=parse_address(message.from_, f"{path}.from"),
        token=parse_address(message.permitted.token, f"{path}.permitted.token"),
        permitted=parse_amount(message.permitted.amount, f"{path}.permitted.amount"),
        spender=parse_address(message.spender, f"{path}.spender"),
        nonce=read_nonce(message.nonce, f"{path}.nonce"),
        deadline=parse_uint64(message.deadline, f"{path}.deadline"),
        channel_id=parse_bytes(message.witness.channel_id, 32, f"{path}.witness.channelId"),
        signature=parse_bytes_up_to(message.signature, SIGNATURE_BYTES_MAX, f"{path}.signature"),
        permit=permit,
    )


def _read_refund(message: _RefundPayloadMessage) -> RefundPayload:
    amount, nonce = message.amount, message.refund_nonce
    return RefundPayload(
        config=_read_config(message),
        voucher=_read_voucher(message),
        amount=None if amount is None else parse_amount(amount, "payload.amount"),
        refund_nonce=None if nonce is None else parse_uint256(nonce, "payload.refundNonce"),
        claims=_read_claims(message.claims or []),
        refund_authorizer_signature=_read_signature(
            message.refund_authorizer_signature, "payload.refundAuthorizerSignature"
        ),
        claim_authorizer_signature=_read_signature(
            message.claim_authorizer_signature, "payload.claimAuthorizerSignature"
        ),
        reservation=_read_reservation(message),
    )


def _read_config(message: _ChannelMessage) -> ChannelConfig:
    return _with_receiver(message.channel_config, "payload.channelConfig")


def _with_receiver(message: ChannelConfigMessage, path: str) -> ChannelConfig:
    config = read_channel_config(message, path)
    if config.receiver == ZERO_ADDRESS:
        raise MalformedError(f"{path}.receiver", message.receiver, "an address that is not zero")
    return config


def _read_voucher(message: _ChannelMessage) -> UncheckedVoucher:
    voucher, path = message.voucher, "payload.voucher"
    return UncheckedVoucher(
        channel_id=parse_bytes(voucher.channel_id, 32, f"{path}.channelId"),
        max_claimable_amount=parse_amount(voucher.max_claimable_amount, f"{path}.maxClaimableAmount"),
        signature=parse_bytes(voucher.signature, 65, f"{path}.signature"),
    )


def _read_reservation(message: _ChannelMessage) -> Reservation:
    if message.pending_id is not None and not 0 < len(message.pending_id) <= PENDING_ID_CHARS_MAX:
        raise MalformedError("payload.pendingId", message.pending_id, f"1 to {PENDING_ID_CHARS_MAX} characters")
    return Reservation(message.pending_id, message.cancel or False)


def _read_claims(messages: list[_ClaimMessage]) -> tuple[VoucherClaim, ...]:
    if len(messages) > CLAIMS_MAX:
        raise MalformedError("payload.claims", Described(f"{len(messages)} rows"), f"at most {CLAIMS_MAX}")
    return tuple(_read_claim(message, f"payload.claims[{at}]") for at, message in enumerate(messages))


def _read_claim(message: _ClaimMessage, path: str) -> VoucherClaim:
    ceiling = parse_amount(message.voucher.max_claimable_amount, f"{path}.voucher.maxClaimableAmount")
    return VoucherClaim(
        config=_with_receiver(message.voucher.channel, f"{path}.voucher.channel"),
        max_claimable_amount=ceiling,
        signature=parse_bytes(message.signature, 65, f"{path}.signature"),
        total_claimed=parse_amount(message.total_claimed, f"{path}.totalClaimed"),
    )


def _read_signature(text: str | None, path: str) -> bytes | None:
    return None if text is None else parse_bytes_up_to(text, SIGNATURE_BYTES_MAX, path)


def _write_channel(payload: DepositPayload | VoucherPayload | RefundPayload) -> dict[str, Any]:
    voucher, reservation = payload.voucher, payload.reservation
    written: dict[str, Any] = {
        "channelConfig": write_channel_config(payload.config),
        "voucher": {
            "channelId": to_hex(voucher.channel_id),
            "maxClaimableAmount": str(voucher.max_claimable_amount),
            "signature": to_hex(voucher.signature),
        },
    }
    if reservation.pending_id is not None:
        written["pendingId"] = reservation.pending_id
    if reservation.cancel:
        written["cancel"] = True
    return written


def _write_authorization(authorization: Erc3009Deposit | Permit2Deposit) -> dict[str, Any]:
    if isinstance(authorization, Erc3009Deposit):
        return {
            _ERC3009: {
                "validAfter": str(authorization.valid_after),
                "validBefore": str(authorization.valid_before),
                "salt": to_hex(authorization.salt),
                "signature": to_hex(authorization.signature),
            }
        }
    return {
        _PERMIT2: {
            "from": checksum(authorization.from_),
            "permitted": {"token": checksum(authorization.token), "amount": str(authorization.permitted)},
            "spender": checksum(authorization.spender),
            "nonce": str(int.from_bytes(authorization.nonce, "big")),
            "deadline": str(authorization.deadline),
            "witness": {"channelId": to_hex(authorization.channel_id)},
            "signature": to_hex(authorization.signature),
        }
    }


def _write_refund(payload: RefundPayload) -> dict[str, Any]:
    written: dict[str, Any] = {}
    if payload.amount is not None:
        written["amount"] = str(payload.amount)
    if payload.refund_nonce is not None:
        written["refundNonce"] = str(payload.refund_nonce)
    if payload.claims or payload.refund_nonce is not None:
        written["claims"] = [*map(_write_claim, payload.claims)]
    return written | _write_signatures(payload.refund_authorizer_signature, payload.claim_authorizer_signature)


def _write_claim(claim: VoucherClaim) -> dict[str, Any]:
    channel = write_channel_config(claim.config)
    return {
        "voucher": {"channel": channel, "maxClaimableAmount": str(claim.max_claimable_amount)},
        "signature": to_hex(claim.signature),
        "totalClaimed": str(claim.total_claimed),
    }


def _write_signatures(refund: bytes | None = None, claim: bytes | None = None) -> dict[str, Any]:
    signatures = {"refundAuthorizerSignature": refund, "claimAuthorizerSignature": claim}
    return {name: to_hex(signature) for name, signature in signatures.items() if signature is not None}


def _convert(payload: dict[str, Any], type_: type[T]) -> T:
    try:
        return msgspec.convert(payload, type_)
    except msgspec.ValidationError as error:
        raise malformed(error, "payload") from None
