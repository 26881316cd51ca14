"""Payers that are contract wallets without code yet (ERC-6492): what their signature wraps, and whether that is taken.

Such a wallet's address is known before it exists, and can hold tokens. The payer wraps its signature together with the
call of a factory that deploys the wallet: abi.encode(factory, factoryCalldata, signature), then the magic suffix. The
deployment and the transfer are one transaction. Only factories that the operator lists are called (threat 21).
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from tallystick.hexadecimal import checksum
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.chain.multicall import MULTICALL3_ADDRESS
from tallystick_aggregator.chain.port import Block, Chain
from tallystick_aggregator.chain.token_port import Deployment
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.exact.authorizations import (
    ERC6492_SUFFIX,
    TransferToken,
    is_signed_by_key,
    with_canonical_v,
)

_WRAPPED: Final = ("address", "bytes", "bytes")


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A payment with the signature that the wallet itself reads, and the deployment that may be due before."""

    payment: ExactAuthorization
    deployment: Deployment | None


def unwrap(token: TransferToken, payment: ExactAuthorization) -> Unwrapped | Refusal:
    """Take the wrapper off a signature, if there is one.

    A wallet is never deployed for a payer whose own key signed: the transfer needs none.
    """
    if not payment.signature.endswith(ERC6492_SUFFIX):
        return Unwrapped(payment, None)
    try:
        factory, data, signature = decode(_WRAPPED, payment.signature[: -len(ERC6492_SUFFIX)])
    except (DecodingError, OverflowError):
        return refuse(Why.EXACT_WRAPPER, f"{len(payment.signature)} bytes", "(factory, factoryCalldata, signature)")
    inner = with_canonical_v(token, replace(payment, signature=signature))
    deployment = None if is_signed_by_key(token, inner) else Deployment(bytes.fromhex(factory[2:]), data)
    return Unwrapped(inner, deployment)


async def deployment_refusal(
    chain: Chain, deployment: Deployment, factories: Collection[bytes], block: Block
) -> Refusal | None:
    """Check that the operator lists the factory, and that the chain has what makes both calls one transaction."""
    if deployment.factory not in factories:
        listed = ", ".join(map(checksum, sorted(factories)))
        return refuse(Why.EXACT_FACTORY, checksum(deployment.factory), listed)
    if not await chain.code(MULTICALL3_ADDRESS, block):
        allowed = f"a deployed wallet: {chain.network} has no Multicall3"
        return refuse(Why.EXACT_UNDEPLOYED, "an ERC-6492 wrapper", allowed)
    return None
