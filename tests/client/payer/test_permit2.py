"""Payments by Permit2 on the payer's side: which offers are taken, what is signed, and the approval that they need."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode
from msgspec import structs

from anvil import CHAIN_ID, DELAY_S, Devnet
from tallystick import eip712
from tallystick.quantities import MAX_AMOUNT
from tallystick.signatures import Signer, recover
from tallystick.tokens import Permit2Approval, Token
from tallystick.x402 import (
    PAYMENT_RESPONSE_HEADER,
    ExactTerms,
    Network,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    SettleResponse,
    UptoTerms,
    decode_header,
    encode_header,
    permit_declaration,
    read_exact_permit2,
    read_upto,
)
from tallystick_aggregator.chain.escrow_calls import selector
from tallystick_client import Operator
from tallystick_client.payer.cli.onchain import approve_permit2
from tallystick_client.payer.errors import BudgetExceededError, ChainError, OfferNotAllowedError, Permit2ApprovalError
from tallystick_client.payer.policy.answers import Answer
from tallystick_client.payer.policy.offers import Echo, Offer, choose
from tallystick_client.payer.policy.operators import Asset
from tallystick_client.payer.wallet.permit_turns import PermitTurns
from tallystick_client.payer.wallet.schemes.exact import ExactScheme
from tallystick_client.payer.wallet.schemes.port import Order, OutgoingPayment, by_name
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

    def __init__(self, *schemes: Any, money: int = 10_000, approval: Permit2Approval | None = None) -> None:
        self.schemes = by_name(schemes)
        self.money = money
        self.approval = approval
        self.permit_turns = PermitTurns()

    async def permit2_approval(self, offer: Offer, host: str) -> Permit2Approval | None:
        del offer, host
        return self.approval

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


def sponsored(purse: Purse, requirements: PaymentRequirements) -> Offer:
    """The offer of a seller who has permits landed."""
    return replace(chosen(purse, requirements), echo=Echo(extensions=permit_declaration()))


async def sent(purse: Purse, offer: Offer) -> OutgoingPayment:
    order = Order("shop.example", bytes(32), lambda: NOW_S)
    return await purse.schemes[offer.terms.scheme].pay(purse, offer, order)  # type: ignore[arg-type]


@pytest.mark.parametrize("requirements", [BY_PERMIT2, METERED])
async def test_a_permit_over_the_amount_comes_along_where_permit2_is_not_approved(
    requirements: PaymentRequirements,
) -> None:
    purse = Purse(ExactScheme(permit2=SIGNER), UptoScheme(SIGNER), approval=Permit2Approval(999, 7))
    payment = await paid(purse, sponsored(purse, requirements))
    assert payment.extensions is not None
    declared = permit_declaration()["eip2612GasSponsoring"]
    assert payment.extensions["eip2612GasSponsoring"]["schema"] == declared["schema"], "what the 402 said is repeated"
    signed = read_upto(payment) if requirements is METERED else read_exact_permit2(payment)
    permit = signed.permit
    assert permit is not None
    assert (permit.owner, permit.token, permit.spender) == (SIGNER.address, TOKEN.address, eip712.PERMIT2_ADDRESS)
    assert (permit.value, permit.nonce, permit.deadline) == (1_000, 7, signed.deadline)
    assert recover(eip712.digest(TOKEN.domain(CHAIN_ID), permit.struct_hash()), permit.signature) == SIGNER.address


@pytest.mark.parametrize("approval", [None, Permit2Approval(1_000, 7), Permit2Approval(MAX_AMOUNT, None)])
async def test_no_permit_is_signed_where_permit2_may_move_enough_or_nobody_tells(
    approval: Permit2Approval | None,
) -> None:
    purse = Purse(UptoScheme(SIGNER), approval=approval)
    assert read_upto(await paid(purse, sponsored(purse, METERED))).permit is None


async def test_who_can_sign_no_permit_is_told_how_to_approve_and_nothing_is_signed() -> None:
    purse = Purse(UptoScheme(SIGNER), approval=Permit2Approval(200, 0))
    with pytest.raises(Permit2ApprovalError) as unsponsored:
        await paid(purse, chosen(purse, METERED))
    assert "got 0.001 PUSD, allowed at most 0.0002 PUSD" in str(unsponsored.value)
    assert "its seller does not offer to have a permit landed (eip2612GasSponsoring)" in str(unsponsored.value)
    assert str(unsponsored.value).endswith("tallystick wallet approve --rpc URL --token PUSD")
    purse.approval = Permit2Approval(200, None)
    with pytest.raises(Permit2ApprovalError, match="the aggregator lands no permits of PUSD"):
        await paid(purse, sponsored(purse, METERED))
    assert purse.money == 10_000


RECEIPT = encode_header(SettleResponse(success=True, transaction="0x01", network="eip155:31337", amount="1000"))
ANSWERS = {
    "paid": lambda payment: payment.answered(Answer(200, {PAYMENT_RESPONSE_HEADER: RECEIPT})),
    "refused": lambda payment: payment.answered(Answer(402, {})),
    "never sent": lambda payment: payment.not_taken(was_sent=False),
}


@pytest.mark.parametrize("end", ANSWERS.values(), ids=ANSWERS)
async def test_payments_with_permits_of_one_token_go_one_after_the_other(end: Any) -> None:
    purse = Purse(ExactScheme(permit2=SIGNER), UptoScheme(SIGNER), approval=Permit2Approval(0, 0))
    first = await sent(purse, sponsored(purse, METERED))
    second = asyncio.create_task(sent(purse, sponsored(purse, BY_PERMIT2)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.shield(second)
    assert purse.money == 9_000
    purse.approval = Permit2Approval(0, 1)
    end(first)
    payment = decode_header((await second).header, PaymentPayload, "payment")
    permit = read_exact_permit2(payment).permit
    assert permit is not None
    assert permit.nonce == 1, "the nonce was asked for before the payment before was decided"


async def test_a_permit_that_may_still_be_landed_keeps_its_turn_until_it_expires() -> None:
    purse = Purse(UptoScheme(SIGNER), approval=Permit2Approval(0, 0))
    payment = await sent(purse, sponsored(purse, METERED))
    payment.lost()
    payment.not_taken(was_sent=True)
    payment.answered(Answer(503, {"retry-after": "1"}))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await purse.permit_turns.take(sponsored(purse, METERED).seller("").asset, 60)
    turns = PermitTurns()
    asset = Asset(f"eip155:{CHAIN_ID}", TOKEN.address)
    async with asyncio.timeout(10):
        await turns.take(asset, 0.01)
        assert not (await turns.take(asset, 60)).is_over


async def test_a_payment_that_the_budgets_refuse_gives_its_turn_back() -> None:
    purse = Purse(UptoScheme(SIGNER), money=999, approval=Permit2Approval(0, 0))
    for _ in range(2):
        async with asyncio.timeout(10):
            with pytest.raises(BudgetExceededError):
                await paid(purse, sponsored(purse, METERED))


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
