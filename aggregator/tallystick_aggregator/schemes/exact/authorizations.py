"""What the payer of a transfer signed: its digest, its forms of signature, and the time in which it counts."""

from dataclasses import replace
from typing import Final, TypeAlias, TypeVar

from tallystick import eip712
from tallystick.eip712 import PERMIT2_ADDRESS
from tallystick.errors import InvalidSignatureError
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum
from tallystick.signatures import recover
from tallystick.x402 import ExactAuthorization, Permit2Authorization
from tallystick_aggregator.chain.token_port import Permit2Token, Token
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse

Authorization: TypeAlias = ExactAuthorization | Permit2Authorization
"""What a payer signs for one transfer, by either way to move a token."""
TransferToken: TypeAlias = Token | Permit2Token
"""The token in the way in which it is moved."""
A = TypeVar("A", bound=Authorization)

WINDOW_MARGIN_S: Final = 6
"""How long an authorization must still be valid to be sent, in seconds: as the official facilitator has it."""
GRACE_S: Final = 5
"""For so long at most an authorization is waited for that is not valid yet, and a block in which it is."""
ERC6492_SUFFIX: Final = bytes.fromhex("6492" * 16)
_DELEGATION: Final = bytes.fromhex("ef0100")
"""EIP-7702: the code of an account that lets a contract act for it is this and the contract's address."""


def transfer_digest(token: TransferToken, payment: Authorization) -> bytes:
    """Return what the payer signs: the token's TransferWithAuthorization, or Permit2's PermitWitnessTransferFrom."""
    return eip712.digest(token.domain, payment.struct_hash())


def transfer_slot(network: str, token: bytes, payment: Authorization) -> bytes:
    """Return what is taken once (threat 22): it names the transfer in the outbox, so that one is sent.

    The token takes each nonce of its own authorizations once; Permit2 takes each of its own once, for all tokens.
    """
    taker = PERMIT2_ADDRESS if isinstance(payment, Permit2Authorization) else token
    return keccak256(network.encode() + taker + payment.from_ + payment.nonce)


def with_canonical_v(token: TransferToken, payment: A) -> A:
    """Return the payment with the `v` that tokens take, 27 or 28, where the payer's own key signed it with 0 or 1.

    Some libraries write the recovery id. Any other signature stays as it is: a contract wallet's means what its
    contract reads in it.
    """
    signature = payment.signature
    if len(signature) != 65 or signature[64] > 1:
        return payment
    canonical = replace(payment, signature=signature[:64] + bytes((signature[64] + 27,)))
    return canonical if is_signed_by_key(token, canonical) else payment


def is_signed_by_key(token: TransferToken, payment: Authorization) -> bool:
    """Whether the payer's own key signed it, in the form that tokens take."""
    try:
        return recover(transfer_digest(token, payment), payment.signature) == payment.from_
    except InvalidSignatureError:
        return False


def window_is_open(payment: Authorization, now_s: int, *, grace_s: int = 0) -> Refusal | None:
    """Check that the authorization is valid now, or so many seconds later, and for long enough to be mined."""
    if payment.valid_after > now_s + grace_s:
        return refuse(Why.EXACT_TOO_EARLY, payment.valid_after, f"at most {now_s}")
    if payment.valid_before < now_s + WINDOW_MARGIN_S:
        return refuse(Why.EXACT_TOO_LATE, payment.valid_before, f"at least {now_s + WINDOW_MARGIN_S}")
    return None


def signature_may_count(payment: Authorization) -> Refusal | None:
    """Refuse what no token takes from anybody."""
    if not payment.signature:
        return refuse(Why.EXACT_UNSIGNED, "nothing", "a signature")
    if payment.signature.endswith(ERC6492_SUFFIX):
        return refuse(Why.EXACT_UNDEPLOYED, "an ERC-6492 wrapper", "a key's signature, or a deployed contract wallet's")
    return None


def not_by_the_key(token: TransferToken, payment: Authorization) -> Refusal:
    """Refuse the signature of a payer that has no code: only its key could have signed, and did not."""
    try:
        signer = recover(transfer_digest(token, payment), payment.signature)
        got = f"one by {checksum(signer)}"
    except InvalidSignatureError as error:
        got = f"one that does not count: {error.problem}"
    return refuse(
        Why.EXACT_SIGNED_BY_ANOTHER,
        got,
        "65 bytes (r, s, v) of the payer's key, s in the lower half",
        payer=checksum(payment.from_),
    )


def describe_code(payer: bytes, code: bytes) -> str:
    """Name the contract that speaks for a payer."""
    if len(code) == 23 and code.startswith(_DELEGATION):
        return f"the contract {checksum(code[3:])}, to which {checksum(payer)} delegates (EIP-7702),"
    return f"the contract at {checksum(payer)}"
