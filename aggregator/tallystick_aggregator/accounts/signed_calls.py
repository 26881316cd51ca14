"""What payers sign to be heard: EIP-712 under the escrow's domain, with a deadline, each kind of call its own type.

A signature is good for one kind of call with these very arguments, on one escrow, for minutes. The calls are
idempotent, so hearing one twice within its time changes nothing.
"""

from typing import Final, NamedTuple

from tallystick import eip712
from tallystick.eip712 import Domain
from tallystick.errors import InvalidSignatureError
from tallystick.hexadecimal import checksum
from tallystick.signatures import recover
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse

CALL_LIFETIME_S_MAX: Final = 300
"""How far ahead a call's deadline may lie, in seconds."""
CLOCK_SKEW_S_MAX: Final = 60
"""How far the caller's clock may be ahead of ours."""


class SignedCall(NamedTuple):
    """A payer's signature over a call, and until when (seconds since the epoch) the call may be taken."""

    deadline: int
    signature: bytes


def call_is_signed(
    domain: Domain, struct_hash: bytes, call: SignedCall, authorizer: bytes, now_s: int
) -> Refusal | None:
    """Check that `authorizer` signed the call, strictly (I5), and that its time is now."""
    latest = now_s + CALL_LIFETIME_S_MAX + CLOCK_SKEW_S_MAX
    if not now_s < call.deadline <= latest:
        problem = "has passed" if call.deadline <= now_s else "is too far ahead"
        return refuse(
            Why.CALL_OUT_OF_TIME,
            call.deadline,
            f"after {now_s}, at most {now_s + CALL_LIFETIME_S_MAX}",
            problem=problem,
        )
    return signature_is(authorizer, eip712.digest(domain, struct_hash), call.signature, "authorization.signature")


def signature_is(authorizer: bytes, digest: bytes, signature: bytes, field: str) -> Refusal | None:
    """Check that `authorizer` signed this digest, strictly (I5)."""
    try:
        signer = recover(digest, signature)
    except InvalidSignatureError as error:
        return refuse(Why.CALL_SIGNATURE, "", "r, s, v", field=field, problem=error.problem)
    if signer != authorizer:
        return refuse(
            Why.CALL_SIGNED_BY_ANOTHER,
            f"a signature of {checksum(signer)}",
            f"one of {checksum(authorizer)}",
            field=field,
        )
    return None
