"""`upto`: verified for the maximum, settled for what was used."""

import asyncio
from dataclasses import replace

import pytest
from chain_twin import CONTRACT_WALLET_SIGNATURE, SENDER, Permit2TokenTwin
from doubles import MUSIC, NEWS, NOW_S, Payer
from marketplace import EXACT_TERMS, PRICE, Marketplace, transfer_of
from permit2_payments import UPTO_TERMS, permit_of, upto_of

from tallystick.eip712 import EXACT_PERMIT2_PROXY_ADDRESS
from tallystick.facilitator import Settled, Verified
from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick.x402 import PaymentTerms
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact.claims import NAMED_MAX, Claims
from tallystick_aggregator.schemes.port import Caller

ALICE, MALLORY = Payer("alice"), Payer("mallory")
ADDRESS = ALICE.signer.address
MINE, OTHER = Caller("news", bytes(16), bytes(32)), Caller("news", bytes([1]) * 16, bytes(32))


@pytest.fixture(autouse=True)
def permit2(market: Marketplace) -> Permit2TokenTwin:
    """Permit2 on the market's chain; Alice has money and has approved it."""
    market.chain.balances[ADDRESS] = 1_000
    market.chain.permit2_token = Permit2TokenTwin(market.chain)
    market.chain.permit2_token.allowances[ADDRESS] = 1_000
    return market.chain.permit2_token


def used(amount: int) -> PaymentTerms:
    """The terms of a settlement: what was used."""
    return replace(UPTO_TERMS, amount=amount)


def reason_of(answer: object) -> Reason:
    assert isinstance(answer, Refusal), answer
    return answer.reason


async def test_what_was_used_is_taken_and_no_more(market: Marketplace) -> None:
    assert await market.upto.verify(UPTO_TERMS, upto_of(ALICE)) == Verified(ADDRESS)
    settled = await market.upto.settle(used(30), upto_of(ALICE))
    assert isinstance(settled, Settled)
    assert (settled.payer, settled.amount, len(settled.transaction)) == (ADDRESS, 30, 32)
    assert market.chain.balances == {ADDRESS: 970, NEWS: 30}


@pytest.mark.parametrize("later", [30, 70, PRICE, 0])
async def test_settling_again_takes_nothing_more_and_tells_what_was_taken(market: Marketplace, later: int) -> None:
    first = await market.upto.settle(used(30), upto_of(ALICE), MINE)
    again = await market.upto.settle(used(later), upto_of(ALICE), MINE)
    assert again == first
    assert market.chain.balances[NEWS] == 30
    assert len(market.chain.sent) == 1


async def test_two_amounts_at_once_are_one_settlement(market: Marketplace) -> None:
    answers = await asyncio.gather(*(market.upto.settle(used(amount), upto_of(ALICE)) for amount in (30, 70, 0)))
    assert {answer.amount for answer in answers if isinstance(answer, Settled)} == {market.chain.balances[NEWS]}
    assert len(market.chain.sent) == 1


async def test_more_than_was_signed_is_refused(market: Marketplace) -> None:
    refusal = await market.upto.settle(used(PRICE + 1), upto_of(ALICE))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.allowed) == (Reason.UPTO_AMOUNT_EXCEEDED, "at most 100")
    assert not market.chain.sent


@pytest.mark.parametrize("amount", [PRICE - 1, PRICE + 1])
async def test_verify_is_for_the_very_maximum(market: Marketplace, amount: int) -> None:
    assert reason_of(await market.upto.verify(used(amount), upto_of(ALICE))) is Reason.AMOUNT_MISMATCH


async def test_nothing_used_is_settled_without_a_transaction(market: Marketplace) -> None:
    assert isinstance(await market.upto.verify(UPTO_TERMS, upto_of(ALICE), MINE), Verified)
    settled = await market.upto.settle(used(0), upto_of(ALICE), MINE)
    assert settled == Settled(ADDRESS, 0)
    assert await market.upto.settle(used(0), upto_of(ALICE), MINE) == settled
    assert reason_of(await market.upto.settle(used(0), upto_of(ALICE), OTHER)) is Reason.PAYMENT_USED
    assert not market.chain.sent


async def test_a_caller_without_attempts_hears_that_it_was_done_before(market: Marketplace) -> None:
    assert await market.upto.settle(used(0), upto_of(ALICE)) == Settled(ADDRESS, 0)
    assert await market.upto.settle(used(0), upto_of(ALICE)) == Settled(ADDRESS, 0, replayed=True)


async def test_what_was_settled_for_nothing_pays_for_nothing_else(market: Marketplace) -> None:
    await market.upto.settle(used(0), upto_of(ALICE), MINE)
    assert reason_of(await market.upto.settle(used(50), upto_of(ALICE), MINE)) is Reason.PAYMENT_USED
    assert reason_of(await market.upto.verify(UPTO_TERMS, upto_of(ALICE), OTHER)) is Reason.PAYMENT_USED
    another = upto_of(ALICE, valid_after=1)
    assert reason_of(await market.upto.settle(used(0), another)) is Reason.PAYMENT_USED
    assert not market.chain.sent


async def test_nothing_is_settled_of_what_nobody_signed(market: Marketplace) -> None:
    forged = upto_of(MALLORY, from_=ADDRESS)
    assert reason_of(await market.upto.settle(used(0), forged)) is Reason.EXACT_SIGNATURE
    assert isinstance(await market.upto.settle(used(30), upto_of(ALICE)), Settled)


async def test_a_contract_wallets_payment_is_settled_for_nothing_too(market: Marketplace) -> None:
    market.chain.contract_wallets.add(ADDRESS)
    payment = replace(upto_of(ALICE), signature=CONTRACT_WALLET_SIGNATURE)
    assert await market.upto.settle(used(0), payment) == Settled(ADDRESS, 0)


async def test_x1_nothing_is_settled_of_another_attempts_payment(market: Marketplace) -> None:
    assert isinstance(await market.upto.verify(UPTO_TERMS, upto_of(ALICE), MINE), Verified)
    assert reason_of(await market.upto.settle(used(0), upto_of(ALICE), OTHER)) is Reason.PAYMENT_PENDING
    assert reason_of(await market.upto.settle(used(30), upto_of(ALICE), OTHER)) is Reason.PAYMENT_PENDING
    assert isinstance(await market.upto.settle(used(30), upto_of(ALICE), MINE), Settled)
    assert reason_of(await market.upto.settle(used(30), upto_of(ALICE), OTHER)) is Reason.PAYMENT_USED


async def test_what_is_given_back_may_be_paid_with_again(market: Marketplace) -> None:
    assert isinstance(await market.upto.verify(UPTO_TERMS, upto_of(ALICE), MINE), Verified)
    assert isinstance(await market.upto.release(UPTO_TERMS, upto_of(ALICE), MINE), Settled)
    assert isinstance(await market.upto.verify(UPTO_TERMS, upto_of(ALICE), OTHER), Verified)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"facilitator": MUSIC}, Reason.UPTO_FACILITATOR_MISMATCH),
        ({"spender": EXACT_PERMIT2_PROXY_ADDRESS}, Reason.PERMIT2_SPENDER),
        ({"to": MUSIC}, Reason.RECEIVER_MISMATCH),
        ({"token": MUSIC}, Reason.TOKEN_MISMATCH),
        ({"deadline": NOW_S + 5}, Reason.EXACT_EXPIRED),
    ],
)
async def test_verify_and_settle_ask_the_same(market: Marketplace, changes: dict[str, object], reason: Reason) -> None:
    payment = upto_of(ALICE, **changes)
    verified = await market.upto.verify(UPTO_TERMS, payment)
    assert reason_of(verified) is reason
    assert verified == await market.upto.settle(used(PRICE), payment)


async def test_a_payment_of_upto_is_none_of_exact(market: Marketplace) -> None:
    read_as_exact = replace(upto_of(ALICE), facilitator=None)
    assert reason_of(await market.exact.verify(EXACT_TERMS, read_as_exact)) is Reason.PERMIT2_SPENDER


async def test_a_permit_over_the_maximum_serves_a_part_too(market: Marketplace, permit2: Permit2TokenTwin) -> None:
    permit2.allowances.clear()
    permit2.sponsors_permits = True
    payment = upto_of(ALICE, permit=permit_of(ALICE))
    assert isinstance(await market.upto.settle(used(30), payment), Settled)
    assert permit2.allowances[ADDRESS] == PRICE - 30


async def test_sellers_are_told_who_settles(market: Marketplace, permit2: Permit2TokenTwin) -> None:
    permit2.sponsors_permits = True
    (kind,) = await market.upto.kinds()
    assert (kind.scheme, kind.extensions) == ("upto", ("eip2612GasSponsoring",))
    assert kind.extra == {"assetTransferMethod": "permit2", "facilitatorAddress": checksum(SENDER)}
    market.chain.permit2_token = None
    assert await market.upto.kinds() == []


NAMED = replace(MINE, payment_id=b"n" * 32)


async def test_a_payments_identifier_names_one_payment(market: Marketplace) -> None:
    first = await market.upto.settle(used(30), upto_of(ALICE), NAMED)
    assert isinstance(first, Settled)
    assert market.chain.sent[0].payment_id == NAMED.payment_id
    assert await market.upto.settle(used(30), upto_of(ALICE), NAMED) == first
    for amount in (30, 0):
        assert reason_of(await market.upto.settle(used(amount), upto_of(ALICE, 1), NAMED)) is Reason.PAYMENT_ID_REUSED
    assert reason_of(await market.upto.verify(UPTO_TERMS, upto_of(ALICE, 1), NAMED)) is Reason.PAYMENT_ID_REUSED
    assert len(market.chain.sent) == 1


async def test_the_identifier_of_what_was_settled_for_nothing_names_that_payment_too(market: Marketplace) -> None:
    nothing = await market.upto.settle(used(0), upto_of(ALICE), NAMED)
    assert nothing == Settled(ADDRESS, 0)
    assert await market.upto.settle(used(0), upto_of(ALICE), NAMED) == nothing, "the same again is answered alike"
    for amount in (30, 0):
        assert reason_of(await market.upto.settle(used(amount), upto_of(ALICE, 1), NAMED)) is Reason.PAYMENT_ID_REUSED
    assert reason_of(await market.upto.verify(UPTO_TERMS, upto_of(ALICE, 1), NAMED)) is Reason.PAYMENT_ID_REUSED
    by_exact = await market.exact.settle(EXACT_TERMS, transfer_of(ALICE), NAMED)
    assert reason_of(by_exact) is Reason.PAYMENT_ID_REUSED, "whatever the other payment's scheme is"
    assert not market.chain.sent


async def test_of_identifiers_without_a_transaction_the_oldest_is_forgotten_first() -> None:
    claims = Claims(lambda: 0)
    for number in range(NAMED_MAX + 1):
        claims.name(number.to_bytes(4, "big"), b"slot")
    assert claims.named_otherwise(bytes(4), b"other") is None
    assert reason_of(claims.named_otherwise((1).to_bytes(4, "big"), b"other")) is Reason.PAYMENT_ID_REUSED
    claims.name(b"", b"slot")
    assert claims.named_otherwise(b"", b"other") is None, "no identifier is no name"
