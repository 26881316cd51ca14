"""Payments by Permit2 on the payer's side: which offers are taken, what is signed, and the approval that they need."""

from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode
from msgspec import structs

from anvil import CHAIN_ID, DELAY_S, Devnet
from tallystick import eip712
from tallystick.signatures import Signer, recover
from tallystick.tokens import Token
from tallystick.x402 import (
    ExactTerms,
    Network,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    UptoTerms,
    decode_header,
    read_exact_permit2,
    read_upto,
)
from tallystick_aggregator.chain.escrow_calls import selector
from tallystick_client import Operator
from tallystick_client.payer.cli.onchain import approve_permit2
from tallystick_client.payer.errors import BudgetExceededError, ChainError, OfferNotAllowedError
from tallystick_client.payer.policy.offers import Offer, choose
from tallystick_client.payer.wallet.schemes.exact import ExactScheme
from tallystick_client.payer.wallet.schemes.port import Order, by_name
from tallystick_client.payer.wallet.schemes.upto import UptoScheme

SIGNER = Signer(bytes([7]) * 32)
TOKEN = Token(bytes([0x70]) * 20, "PUSD", 6, "Permit Dollar", "1")
OPERATOR = Operator(
    Network(CHAIN_ID), "127.0.0.1:1", bytes([9]) * 20, bytes([0xE5]) * 20, DELAY_S, (TOKEN,), insecure=True
)
SELLER, FACILITATOR = bytes([0x5E]) * 20, bytes([0xFA]) * 20
NOW_S = 1_800_000_000


class Purse:
    """As much of a wallet as schemes that pay by themselves need."""

    allows_exact = True
    operators = (OPERATOR,)

    def __init__(self, *schemes: Any, money: int = 10_000) -> None:
        self.schemes = by_name(schemes)
        self.money = money

    def can_defer(self, operator: Operator, token: Token) -> bool:
        del operator, token
        return False

    async def spend(self, offer: Offer, host: str) -> None:
        del host
        if offer.terms.amount > self.money:
            raise BudgetExceededError("per_day", offer.terms.amount, self.money, 6, "PUSD")
        self.money -= offer.terms.amount


def requirements(scheme: str, extra: dict[str, Any]) -> PaymentRequirements:
    return PaymentRequirements(
        scheme=scheme,
        network=f"eip155:{CHAIN_ID}",
        amount="1000",
        asset="0x" + TOKEN.address.hex(),
        pay_to="0x" + SELLER.hex(),
        max_timeout_seconds=60,
        extra=extra,
    )


BY_PERMIT2 = requirements("exact", ExactTerms("Permit Dollar", "1", "permit2").extra())
METERED = requirements("upto", UptoTerms(FACILITATOR, "Permit Dollar", "1").extra())


def chosen(purse: Purse, *offers: PaymentRequirements) -> Offer:
    return choose(PaymentRequired(accepts=[*offers]), purse)  # type: ignore[arg-type]


async def paid(purse: Purse, offer: Offer) -> PaymentPayload:
    order = Order("shop.example", bytes(32), lambda: NOW_S)
    payment = await purse.schemes[offer.terms.scheme].pay(purse, offer, order)  # type: ignore[arg-type]
    return decode_header(payment.header, PaymentPayload, "payment")


async def test_both_are_signed_for_their_proxy_and_counted() -> None:
    purse = Purse(ExactScheme(permit2=SIGNER), UptoScheme(SIGNER))
    exact = read_exact_permit2(await paid(purse, chosen(purse, BY_PERMIT2)))
    upto = read_upto(await paid(purse, chosen(purse, METERED)))
    assert (exact.spender, upto.spender) == (eip712.EXACT_PERMIT2_PROXY_ADDRESS, eip712.UPTO_PERMIT2_PROXY_ADDRESS)
    assert (exact.facilitator, upto.facilitator) == (None, FACILITATOR)
    for signed in (exact, upto):
        assert (signed.from_, signed.to, signed.token, signed.permitted) == (
            SIGNER.address,
            SELLER,
            TOKEN.address,
            1_000,
        )
        assert signed.valid_after < NOW_S < signed.deadline == NOW_S + 60
        digest = eip712.digest(eip712.permit2_domain(CHAIN_ID), signed.struct_hash())
        assert recover(digest, signed.signature) == SIGNER.address
    assert exact.nonce != upto.nonce
    assert purse.money == 8_000


async def test_nothing_is_signed_beyond_the_budget() -> None:
    purse = Purse(UptoScheme(SIGNER), money=999)
    with pytest.raises(BudgetExceededError):
        await paid(purse, chosen(purse, METERED))


def test_offers_by_permit2_are_not_taken_unless_the_wallet_has_been_given_its_key_for_them() -> None:
    with pytest.raises(OfferNotAllowedError, match="assetTransferMethod: got 'permit2', allowed eip3009"):
        chosen(Purse(ExactScheme()), BY_PERMIT2)
    with pytest.raises(OfferNotAllowedError, match="scheme: got 'upto'"):
        chosen(Purse(ExactScheme()), METERED)


@pytest.mark.parametrize("offer", [BY_PERMIT2, METERED])
def test_the_token_is_the_allow_lists_to_the_letter(offer: PaymentRequirements) -> None:
    purse = Purse(ExactScheme(permit2=SIGNER), UptoScheme(SIGNER))
    other = structs.replace(offer, extra={**offer.extra, "version": "2"})
    with pytest.raises(OfferNotAllowedError, match="version: got '2', allowed 1"):
        chosen(purse, other)


def test_a_wallet_that_pays_from_its_deposit_only_takes_neither() -> None:
    purse = Purse(ExactScheme(permit2=SIGNER), UptoScheme(SIGNER))
    purse.allows_exact = False
    with pytest.raises(OfferNotAllowedError):
        chosen(purse, BY_PERMIT2, METERED)


async def test_permit2_is_approved_in_a_transaction_of_the_payers(devnet: Devnet) -> None:
    token, payer = devnet.put_permit2(), devnet.payer()
    devnet.anvil.set_ether(payer.signer.address, 10**18)
    operator = replace(OPERATOR, tokens=(replace(TOKEN, address=token),))
    transaction = await approve_permit2(devnet.anvil.url, operator, payer.signer, token, 5_000)
    assert len(transaction) == 32
    question = encode(["address", "address"], [payer.signer.address, eip712.PERMIT2_ADDRESS])
    assert int.from_bytes(devnet.anvil.call(token, selector("allowance(address,address)") + question), "big") == 5_000


async def test_a_chain_without_permit2_is_told(devnet: Devnet) -> None:
    with pytest.raises(ChainError, match="there is no Permit2 at 0x000000000022D473030F116dDEE9F6B43aC78BA3"):
        await approve_permit2(devnet.anvil.url, OPERATOR, devnet.payer().signer, devnet.token, 5_000)
