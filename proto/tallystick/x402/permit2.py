"""Payments by Permit2: what `exact` with `assetTransferMethod: "permit2"` and `upto` carry, as JSON and as bytes.

Also the extension eip2612GasSponsoring: the payer's approval of Permit2 by signature, landed together with the payment.
(scheme_exact_evm.md §2, scheme_upto_evm.md §1, eip2612_gas_sponsoring.md.) The `read_` functions raise MalformedError,
which names the field by its JSON path, and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from tallystick import eip712
from tallystick.amounts import parse_amount, parse_uint64, parse_uint256
from tallystick.hexadecimal import checksum, parse_address, parse_bytes, parse_bytes_up_to, to_hex
from tallystick.quantities import Bytes32
from tallystick.x402.messages import Message, PaymentPayload, as_object, malformed
from tallystick.x402.payloads import SIGNATURE_BYTES_MAX

EIP2612_GAS_SPONSORING: Final = "eip2612GasSponsoring"
ERC20_APPROVAL_GAS_SPONSORING: Final = "erc20ApprovalGasSponsoring"
_AUTHORIZATION: Final = "permit2Authorization"
_PATH: Final = f"payload.{_AUTHORIZATION}"
_INFO: Final = f"extensions.{EIP2612_GAS_SPONSORING}.info"
_DECIMAL: Final = {"type": "string", "pattern": "^[0-9]+$"}
_HEX: Final = {"type": "string", "pattern": "^0x[a-fA-F0-9]+$"}


class PermittedMessage(Message, frozen=True, kw_only=True):
    """The token and the amount that a transfer by Permit2 is signed for, in JSON: hex, and decimal text."""

    token: str
    amount: str


class _WitnessMessage(Message, frozen=True, kw_only=True):
    to: str
    valid_after: str
    facilitator: str | None = None


class _AuthorizationMessage(Message, frozen=True, kw_only=True):
    permitted: PermittedMessage
    from_: str = msgspec.field(name="from")
    spender: str
    nonce: str
    deadline: str
    witness: _WitnessMessage


class _PayloadMessage(Message, frozen=True, kw_only=True):
    signature: str
    authorization: _AuthorizationMessage = msgspec.field(name=_AUTHORIZATION)


class _ApprovalMessage(Message, frozen=True, kw_only=True):
    from_: str = msgspec.field(name="from")
    asset: str
    spender: str
    amount: str
    signed_transaction: str


class _PermitMessage(Message, frozen=True, kw_only=True):
    from_: str = msgspec.field(name="from")
    asset: str
    spender: str
    amount: str
    nonce: str
    deadline: str
    signature: str


@dataclass(frozen=True, slots=True)
class TokenPermit:
    """A signed EIP-2612 Permit, unchecked: `owner` lets `spender` take `value` atomic units of `token`.

    `nonce` is the token's count of the owner's permits, `deadline` in seconds since the epoch.
    """

    owner: bytes
    token: bytes
    spender: bytes
    value: int
    nonce: int
    deadline: int
    signature: bytes = field(repr=False)

    def struct_hash(self) -> Bytes32:
        """What the owner signs, under the token's domain."""
        return eip712.hash_permit(self.owner, self.spender, self.value, self.nonce, self.deadline)


@dataclass(frozen=True, slots=True)
class SignedApproval:
    """A signed transaction, unchecked, by which `owner` says to let `spender` take `amount` atomic units of `token`."""

    owner: bytes
    token: bytes
    spender: bytes
    amount: int
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Permit2Authorization:
    """A signed PermitWitnessTransferFrom of Permit2, unchecked; times in seconds since the epoch, amounts atomic units.

    `permitted` is what the payer signed, `value` what is to be moved: less only where `upto` settles less.
    `facilitator` is of `upto`: who alone may send it. `permit` approves Permit2 on the way; `offers_approval`: a signed
    transaction that would approve it came along instead: `approval`, where all of the extension could be read.
    """

    from_: bytes
    to: bytes
    token: bytes
    permitted: int
    value: int
    spender: bytes
    valid_after: int
    deadline: int
    nonce: bytes
    signature: bytes = field(repr=False)
    facilitator: bytes | None = None
    permit: TokenPermit | None = None
    offers_approval: bool = False
    approval: SignedApproval | None = None

    @property
    def valid_before(self) -> int:
        """The deadline, by the name that it has in other authorizations."""
        return self.deadline

    def struct_hash(self) -> Bytes32:
        """What the payer signs, under Permit2's domain: without `facilitator` the witness is `exact`'s."""
        signed = (self.token, self.permitted, self.spender, self.nonce, self.deadline, self.to)
        if self.facilitator is None:
            return eip712.hash_exact_witness_transfer(*signed, self.valid_after)
        return eip712.hash_upto_witness_transfer(*signed, self.facilitator, self.valid_after)


def is_permit2(payment: PaymentPayload) -> bool:
    """Whether a payment's payload has the shape of Permit2."""
    return _AUTHORIZATION in payment.payload


def read_exact_permit2(payment: PaymentPayload) -> Permit2Authorization:
    """The `exact` payment by Permit2 in a PaymentPayload, and the permit that came with it."""
    return _read(payment, None)


def read_upto(payment: PaymentPayload) -> Permit2Authorization:
    """The `upto` payment in a PaymentPayload, and the permit that came with it; `value` is the maximum."""
    facilitator = _convert(payment.payload).authorization.witness.facilitator
    return _read(payment, parse_address(facilitator, f"{_PATH}.witness.facilitator"))


def permit2_payload(authorization: Permit2Authorization) -> dict[str, Any]:
    """The `payload` of a PaymentPayload; a permit goes into its `extensions`."""
    witness = {"to": checksum(authorization.to), "validAfter": str(authorization.valid_after)}
    if authorization.facilitator is not None:
        witness["facilitator"] = checksum(authorization.facilitator)
    return {
        "signature": to_hex(authorization.signature),
        _AUTHORIZATION: {
            "permitted": {"token": checksum(authorization.token), "amount": str(authorization.permitted)},
            "from": checksum(authorization.from_),
            "spender": checksum(authorization.spender),
            "nonce": str(int.from_bytes(authorization.nonce, "big")),
            "deadline": str(authorization.deadline),
            "witness": witness,
        },
    }


def permit_extension(permit: TokenPermit) -> dict[str, Any]:
    """The entry of a payment's `extensions` that carries a permit."""
    info = {
        "from": checksum(permit.owner),
        "asset": checksum(permit.token),
        "spender": checksum(permit.spender),
        "amount": str(permit.value),
        "nonce": str(permit.nonce),
        "deadline": str(permit.deadline),
        "signature": to_hex(permit.signature),
        "version": "1",
    }
    return {EIP2612_GAS_SPONSORING: {"info": info}}


def approval_extension(approval: SignedApproval) -> dict[str, Any]:
    """The entry of a payment's `extensions` that carries an approval."""
    info = {
        "from": checksum(approval.owner),
        "asset": checksum(approval.token),
        "spender": checksum(approval.spender),
        "amount": str(approval.amount),
        "signedTransaction": to_hex(approval.raw),
        "version": "1",
    }
    return {ERC20_APPROVAL_GAS_SPONSORING: {"info": info}}


def approval_declaration() -> dict[str, Any]:
    """The entry of a 402's `extensions` that says that signed approvals are paid for and sent."""
    properties = dict.fromkeys(("from", "asset", "spender", "signedTransaction"), _HEX) | {"amount": _DECIMAL}
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    return {ERC20_APPROVAL_GAS_SPONSORING: {"info": {"version": "1"}, "schema": schema}}


def permit_declaration() -> dict[str, Any]:
    """The entry of a 402's `extensions` that says that permits are landed for the payer."""
    properties = dict.fromkeys(("from", "asset", "spender", "signature"), _HEX)
    properties |= dict.fromkeys(("amount", "nonce", "deadline"), _DECIMAL)
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    return {EIP2612_GAS_SPONSORING: {"info": {"version": "1"}, "schema": schema}}


def _read(payment: PaymentPayload, facilitator: bytes | None) -> Permit2Authorization:
    payload = _convert(payment.payload)
    signed = payload.authorization
    permitted = parse_amount(signed.permitted.amount, f"{_PATH}.permitted.amount")
    return Permit2Authorization(
        from_=parse_address(signed.from_, f"{_PATH}.from"),
        to=parse_address(signed.witness.to, f"{_PATH}.witness.to"),
        token=parse_address(signed.permitted.token, f"{_PATH}.permitted.token"),
        permitted=permitted,
        value=permitted,
        spender=parse_address(signed.spender, f"{_PATH}.spender"),
        valid_after=parse_uint64(signed.witness.valid_after, f"{_PATH}.witness.validAfter"),
        deadline=parse_uint64(signed.deadline, f"{_PATH}.deadline"),
        nonce=read_nonce(signed.nonce, f"{_PATH}.nonce"),
        signature=parse_bytes_up_to(payload.signature, SIGNATURE_BYTES_MAX, "payload.signature"),
        facilitator=facilitator,
        permit=read_permit(payment.extensions),
        offers_approval=bool(_info(payment.extensions, ERC20_APPROVAL_GAS_SPONSORING).get("signedTransaction")),
        approval=_read_approval(payment.extensions),
    )


def read_nonce(text: str, field: str) -> bytes:
    """Permit2's nonce as a word: official clients write a decimal number, some texts of the specification hex."""
    if text.startswith("0x"):
        return parse_bytes("0x" + text[2:].rjust(64, "0"), 32, field)
    return parse_uint256(text, field).to_bytes(32, "big")


def read_permit(extensions: Mapping[str, Any] | None) -> TokenPermit | None:
    """The permit that came along; None also where a client only repeats what the 402 declared."""
    info = _info(extensions, EIP2612_GAS_SPONSORING)
    if "signature" not in info:
        return None
    try:
        message = msgspec.convert(info, _PermitMessage)
    except msgspec.ValidationError as error:
        raise malformed(error, _INFO) from None
    return TokenPermit(
        owner=parse_address(message.from_, f"{_INFO}.from"),
        token=parse_address(message.asset, f"{_INFO}.asset"),
        spender=parse_address(message.spender, f"{_INFO}.spender"),
        value=parse_uint256(message.amount, f"{_INFO}.amount"),
        nonce=parse_uint256(message.nonce, f"{_INFO}.nonce"),
        deadline=parse_uint256(message.deadline, f"{_INFO}.deadline"),
        signature=parse_bytes(message.signature, 65, f"{_INFO}.signature"),
    )


def _read_approval(extensions: Mapping[str, Any] | None) -> SignedApproval | None:
    """The approval that came along; None also where a client only repeats what the 402 declared."""
    info = _info(extensions, ERC20_APPROVAL_GAS_SPONSORING)
    if "signedTransaction" not in info:
        return None
    path = f"extensions.{ERC20_APPROVAL_GAS_SPONSORING}.info"
    try:
        message = msgspec.convert(info, _ApprovalMessage)
    except msgspec.ValidationError as error:
        raise malformed(error, path) from None
    return SignedApproval(
        owner=parse_address(message.from_, f"{path}.from"),
        token=parse_address(message.asset, f"{path}.asset"),
        spender=parse_address(message.spender, f"{path}.spender"),
        amount=parse_uint256(message.amount, f"{path}.amount"),
        raw=parse_bytes_up_to(message.signed_transaction, SIGNATURE_BYTES_MAX, f"{path}.signedTransaction"),
    )


def _info(extensions: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    return as_object(as_object((extensions or {}).get(name)).get("info"))


def _convert(payload: dict[str, Any]) -> _PayloadMessage:
    try:
        return msgspec.convert(payload, _PayloadMessage)
    except msgspec.ValidationError as error:
        raise malformed(error, "payload") from None
