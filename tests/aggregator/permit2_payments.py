"""Signed payments by Permit2 for the market in memory."""

from dataclasses import replace
from hashlib import sha256
from typing import Final

from chain_twin import SENDER, TOKEN_DOMAIN
from doubles import NEWS, NOW_S, TOKEN, Payer
from marketplace import EXACT_TERMS, PRICE

from tallystick import eip712
from tallystick.eip712 import (
    EXACT_PERMIT2_PROXY_ADDRESS,
    PERMIT2_ADDRESS,
    UPTO_PERMIT2_PROXY_ADDRESS,
    permit2_domain,
)
from tallystick.x402 import SCHEME_UPTO, Permit2Authorization, TokenPermit

UPTO_TERMS: Final = replace(EXACT_TERMS, scheme=SCHEME_UPTO)


def exact_of(payer: Payer, number: int = 0, **changes: object) -> Permit2Authorization:
    """The payer's `exact` payment of PRICE to NEWS with this number; `changes` are made before it is signed."""
    payment = Permit2Authorization(
        from_=payer.signer.address,
        to=NEWS,
        token=TOKEN,
        permitted=PRICE,
        value=PRICE,
        spender=EXACT_PERMIT2_PROXY_ADDRESS,
        valid_after=0,
        deadline=NOW_S + 60,
        nonce=sha256(b"payment %d" % number).digest(),
        signature=b"",
    )
    payment = replace(payment, **changes)  # type: ignore[arg-type]
    digest = eip712.digest(permit2_domain(31337), payment.struct_hash())
    return replace(payment, signature=payer.signer.sign(digest))


def upto_of(payer: Payer, number: int = 0, **changes: object) -> Permit2Authorization:
    """The same of `upto`: up to PRICE."""
    return exact_of(payer, number, **{"spender": UPTO_PERMIT2_PROXY_ADDRESS, "facilitator": SENDER, **changes})


def permit_of(payer: Payer, **changes: object) -> TokenPermit:
    """The payer's permit to Permit2 over PRICE; `changes` are made before it is signed."""
    permit = TokenPermit(payer.signer.address, TOKEN, PERMIT2_ADDRESS, PRICE, 0, NOW_S + 60, b"")
    permit = replace(permit, **changes)  # type: ignore[arg-type]
    return replace(permit, signature=payer.signer.sign(eip712.digest(TOKEN_DOMAIN, permit.struct_hash())))
