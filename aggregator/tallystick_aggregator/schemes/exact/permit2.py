"""What must hold for a payment by Permit2 beside what holds for every transfer: spender, facilitator, allowance.

Where the payer lets Permit2 take too little, an EIP-2612 permit that came along may raise it, in the same transaction
(eip2612_gas_sponsoring.md). The proxy takes a permit over exactly the payment's maximum, and goes on where the permit
fails: somebody may have landed it before. A transaction that approves (erc20_gas_sponsoring.md) is paid for in a bundle
only (module `approvals`): else the payer would be sent gas money that it can run away with.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeGuard

from tallystick import eip712
from tallystick.eip712 import EXACT_PERMIT2_PROXY_ADDRESS, PERMIT2_ADDRESS, UPTO_PERMIT2_PROXY_ADDRESS
from tallystick.errors import InvalidSignatureError
from tallystick.facilitator import Kind
from tallystick.hexadecimal import checksum
from tallystick.signatures import recover
from tallystick.tokens import Token
from tallystick.x402 import (
    ASSET_TRANSFER_METHOD,
    ASSET_TRANSFER_PERMIT2,
    EIP2612_GAS_SPONSORING,
    ERC20_APPROVAL_GAS_SPONSORING,
    PaymentTerms,
    Permit2Authorization,
    TokenPermit,
)
from tallystick_aggregator.accounts.offers import token_is
from tallystick_aggregator.chain.port import Block, Chain
from tallystick_aggregator.chain.token_port import Permit2Token
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.exact.authorizations import Authorization

PERMIT_MARGIN_S: Final = 6
"""How long a permit must still be valid to be sent, in seconds: as the official facilitator has it."""


def find_permit2_token(chain: Chain, terms: PaymentTerms, payment: Permit2Authorization) -> Permit2Token | Refusal:
    """Return the token as Permit2 moves it, or why this payment is not one for it; needs no chain and no clock."""
    token = chain.permit2_tokens.get(terms.asset)
    if token is None:
        served = " or ".join(map(checksum, chain.permit2_tokens)) or "a payment by ERC-3009"
        return refuse(Why.PERMIT2_OFF, checksum(terms.asset), served)
    proxy = EXACT_PERMIT2_PROXY_ADDRESS if payment.facilitator is None else UPTO_PERMIT2_PROXY_ADDRESS
    if payment.spender != proxy:
        return refuse(Why.PERMIT2_SPENDER, checksum(payment.spender), checksum(proxy))
    if payment.facilitator not in {None, token.facilitator}:
        return refuse(Why.UPTO_FACILITATOR, checksum(payment.facilitator or b""), checksum(token.facilitator))
    return token_is(terms, payment.token) or token


def permit2_kinds(
    scheme: str,
    chain: Chain,
    offered: Mapping[bytes, Token],
    extra: Mapping[str, Any] | None = None,
    *,
    with_approvals: bool = False,
) -> list[Kind]:
    """Return what a scheme moves by Permit2: one kind for tokens whose permits are landed, one for the others.

    `with_approvals`: signed approvals are paid for, too, where there is a builder.
    """
    found = list[Kind]()
    method = {ASSET_TRANSFER_METHOD: ASSET_TRANSFER_PERMIT2, **(extra or {})}
    for sponsored in (True, False):
        tokens = [offered[one.address] for one in chain.permit2_tokens.values() if one.sponsors_permits is sponsored]
        extensions = (EIP2612_GAS_SPONSORING,) if sponsored else ()
        if with_approvals and chain.bundles is not None:
            extensions = (*extensions, ERC20_APPROVAL_GAS_SPONSORING)
        if tokens:
            found.append(
                Kind(scheme, chain.network, tokens, extra=method, signers=(chain.sender,), extensions=extensions)
            )
    return found


def without_unsponsored(token: Permit2Token, payment: Permit2Authorization) -> Permit2Authorization:
    """Return the payment as it is sent: a permit that is not landed here is left out."""
    return payment if token.sponsors_permits else replace(payment, permit=None)


def brings_approval(payment: Authorization, chain: Chain) -> TypeGuard[Permit2Authorization]:
    """Whether a signed approval came along, and is paid for here. Payments of `upto` name another sender than ours of
    bundles, and a permit is cheaper.
    """
    if not isinstance(payment, Permit2Authorization) or chain.bundles is None:
        return False
    return payment.approval is not None and payment.permit is None and payment.facilitator is None


async def approval_refusal(
    chain: Chain, token: Permit2Token, payment: Permit2Authorization, block: Block, now_s: int
) -> Refusal | None:
    """Check that Permit2 may take the payment's maximum, or will by its permit or its approval."""
    allowance = await token.allowance(payment.from_, block)
    if allowance >= payment.value or brings_approval(payment, chain):
        return None
    if payment.permit is None:
        beside = ""
        if payment.offers_approval:
            beside = ", and this aggregator sends no signed approvals (erc20ApprovalGasSponsoring)"
        return refuse(Why.PERMIT2_ALLOWANCE, allowance, f"at least {payment.value}", beside=beside)
    refusal = _is_for(payment.permit, payment, now_s)
    if refusal is not None:
        return refusal
    nonce = await token.permit_nonce(payment.from_, block)
    if payment.permit.nonce != nonce:
        return refuse(Why.PERMIT_NONCE, payment.permit.nonce, nonce)
    return _is_signed(token, payment.permit)


def _is_for(permit: TokenPermit, payment: Permit2Authorization, now_s: int) -> Refusal | None:
    path = Why.PERMIT_OF_ANOTHER.field
    for name, got, allowed in (
        ("from", permit.owner, payment.from_),
        ("asset", permit.token, payment.token),
        ("spender", permit.spender, PERMIT2_ADDRESS),
    ):
        if got != allowed:
            return refuse(Why.PERMIT_OF_ANOTHER, checksum(got), checksum(allowed), field=f"{path}.{name}")
    if permit.value != payment.permitted:
        return refuse(Why.PERMIT_OF_ANOTHER, permit.value, payment.permitted, field=f"{path}.amount")
    if permit.deadline < now_s + PERMIT_MARGIN_S:
        return refuse(Why.PERMIT_TOO_LATE, permit.deadline, f"at least {now_s + PERMIT_MARGIN_S}")
    return None


def _is_signed(token: Permit2Token, permit: TokenPermit) -> Refusal | None:
    signature = permit.signature
    canonical = signature[:64] + bytes((signature[64] + 27,)) if signature[64] < 2 else signature
    try:
        signer = recover(eip712.digest(token.permit_domain, permit.struct_hash()), canonical)
    except InvalidSignatureError as error:
        return refuse(Why.PERMIT_SIGNATURE, f"one that does not count: {error.problem}", "65 bytes (r, s, v)")
    if signer != permit.owner:
        return refuse(Why.PERMIT_SIGNATURE, f"one by {checksum(signer)}", f"one by {checksum(permit.owner)}")
    return None
