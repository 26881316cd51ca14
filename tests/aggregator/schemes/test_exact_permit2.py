"""`exact` by Permit2: its own rules. What it shares with ERC-3009 is tested there."""

import asyncio
from dataclasses import replace

import pytest
from chain_twin import CONTRACT_WALLET_SIGNATURE, Permit2TokenTwin
from doubles import MUSIC, NEWS, NOW_S, TOKEN, Payer
from marketplace import EXACT_TERMS, PRICE, Marketplace, marketplace, transfer_of
from permit2_payments import UPTO_TERMS, exact_of, permit_of, upto_of

from tallystick.eip712 import UPTO_PERMIT2_PROXY_ADDRESS
from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.port import Caller

ALICE, MALLORY = Payer("alice"), Payer("mallory")
ADDRESS = ALICE.signer.address


@pytest.fixture(autouse=True)
def permit2(market: Marketplace) -> Permit2TokenTwin:
    """Permit2 on the market's chain; Alice has money and has approved it."""
    market.chain.balances[ADDRESS] = 1_000
    market.chain.permit2_token = Permit2TokenTwin(market.chain)
    market.chain.permit2_token.allowances[ADDRESS] = 1_000
    return market.chain.permit2_token


def refusal_of(answer: object) -> Refusal:
    assert isinstance(answer, Refusal), answer
    return answer


async def test_a_payment_by_permit2_is_verified_and_settled_once(market: Marketplace) -> None:
    assert await market.exact.verify(EXACT_TERMS, exact_of(ALICE)) == Verified(ADDRESS)
    first = await market.exact.settle(EXACT_TERMS, exact_of(ALICE))
    assert isinstance(first, Settled)
    assert (first.payer, first.amount, first.replayed) == (ADDRESS, PRICE, False)
    assert await market.exact.settle(EXACT_TERMS, exact_of(ALICE)) == replace(first, replayed=True)
    assert market.chain.balances[NEWS] == PRICE
    assert len(market.chain.sent) == 1


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"to": MUSIC}, Reason.RECEIVER_MISMATCH, "receiver"),
        ({"token": MUSIC}, Reason.TOKEN_MISMATCH, "token"),
        ({"permitted": PRICE + 1, "value": PRICE + 1}, Reason.AMOUNT_MISMATCH, "amount"),
        ({"permitted": PRICE - 1, "value": PRICE - 1}, Reason.AMOUNT_MISMATCH, "amount"),
        ({"spender": UPTO_PERMIT2_PROXY_ADDRESS}, Reason.PERMIT2_SPENDER, "spender"),
        ({"spender": NEWS}, Reason.PERMIT2_SPENDER, "spender"),
        ({"deadline": NOW_S + 5}, Reason.EXACT_EXPIRED, "valid_before"),
    ],
)
async def test_verify_and_settle_ask_the_same(
    market: Marketplace, changes: dict[str, object], reason: Reason, field: str
) -> None:
    payment = exact_of(ALICE, **changes)
    verified = refusal_of(await market.exact.verify(EXACT_TERMS, payment))
    assert verified == await market.exact.settle(EXACT_TERMS, payment)
    assert (verified.reason, verified.field) == (reason, field)
    assert not market.chain.sent


async def test_a_signature_of_somebody_else_is_refused(market: Marketplace) -> None:
    forged = exact_of(MALLORY, from_=ADDRESS)
    assert refusal_of(await market.exact.verify(EXACT_TERMS, forged)).reason is Reason.EXACT_SIGNATURE


async def test_a_recovery_id_for_v_is_taken(market: Marketplace) -> None:
    payment = exact_of(ALICE)
    low = replace(payment, signature=payment.signature[:64] + bytes((payment.signature[64] - 27,)))
    assert isinstance(await market.exact.settle(EXACT_TERMS, low), Settled)


async def test_a_contract_wallet_pays_by_its_own_signature(market: Marketplace) -> None:
    market.chain.contract_wallets.add(ADDRESS)
    payment = replace(exact_of(ALICE), signature=CONTRACT_WALLET_SIGNATURE)
    assert isinstance(await market.exact.settle(EXACT_TERMS, payment), Settled)


async def test_a_payer_that_has_not_approved_permit2_is_told_so(market: Marketplace, permit2: Permit2TokenTwin) -> None:
    permit2.allowances[ADDRESS] = PRICE - 1
    refusal = refusal_of(await market.exact.verify(EXACT_TERMS, exact_of(ALICE)))
    assert (refusal.reason, refusal.got, refusal.allowed) == (Reason.PERMIT2_ALLOWANCE_REQUIRED, "99", "at least 100")
    assert refusal.reason.retry
    assert not market.chain.simulated


async def test_a_signed_approval_is_not_sent_and_that_is_said(market: Marketplace, permit2: Permit2TokenTwin) -> None:
    permit2.allowances.clear()
    refusal = refusal_of(await market.exact.settle(EXACT_TERMS, exact_of(ALICE, offers_approval=True)))
    assert refusal.reason is Reason.PERMIT2_ALLOWANCE_REQUIRED
    assert "erc20ApprovalGasSponsoring" in refusal.message
    assert not market.chain.sent


async def test_a_permit_is_landed_with_the_payment_where_that_is_sponsored(
    market: Marketplace, permit2: Permit2TokenTwin
) -> None:
    permit2.allowances.clear()
    payment = exact_of(ALICE, permit=permit_of(ALICE))
    refused = refusal_of(await market.exact.verify(EXACT_TERMS, payment))
    assert refused.reason is Reason.PERMIT2_ALLOWANCE_REQUIRED
    permit2.sponsors_permits = True
    assert isinstance(await market.exact.verify(EXACT_TERMS, payment), Verified)
    assert isinstance(await market.exact.settle(EXACT_TERMS, payment), Settled)
    assert permit2.permits == {ADDRESS: 1}
    assert permit2.allowances[ADDRESS] == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"owner": MUSIC}, "info.from"),
        ({"token": MUSIC}, "info.asset"),
        ({"spender": MUSIC}, "info.spender"),
        ({"value": 2**256 - 1}, "info.amount"),
        ({"value": PRICE - 1}, "info.amount"),
        ({"deadline": NOW_S + 5}, "info.deadline"),
        ({"nonce": 1}, "info.nonce"),
    ],
)
async def test_a_permit_that_would_not_help_is_refused_with_its_field(
    market: Marketplace, permit2: Permit2TokenTwin, changes: dict[str, object], field: str
) -> None:
    permit2.allowances.clear()
    permit2.sponsors_permits = True
    payment = exact_of(ALICE, permit=permit_of(ALICE, **changes))
    refusal = refusal_of(await market.exact.verify(EXACT_TERMS, payment))
    assert refusal.reason is Reason.PERMIT2_PERMIT
    assert refusal.field.endswith(field)


async def test_a_permit_by_another_key_is_refused(market: Marketplace, permit2: Permit2TokenTwin) -> None:
    permit2.allowances.clear()
    permit2.sponsors_permits = True
    payment = exact_of(ALICE, permit=permit_of(MALLORY, owner=ADDRESS))
    refusal = refusal_of(await market.exact.verify(EXACT_TERMS, payment))
    assert (refusal.reason, refusal.field[-9:]) == (Reason.PERMIT2_PERMIT, "signature")
    junk = exact_of(ALICE, permit=replace(permit_of(ALICE), signature=bytes(65)))
    assert refusal_of(await market.exact.verify(EXACT_TERMS, junk)).reason is Reason.PERMIT2_PERMIT


async def test_a_stale_permit_does_no_harm_where_the_allowance_suffices(
    market: Marketplace, permit2: Permit2TokenTwin
) -> None:
    permit2.sponsors_permits = True
    payment = exact_of(ALICE, permit=permit_of(ALICE, nonce=7))
    assert isinstance(await market.exact.settle(EXACT_TERMS, payment), Settled)


async def test_a_nonce_that_permit2_has_taken_is_refused(market: Marketplace, permit2: Permit2TokenTwin) -> None:
    permit2.used.add((ADDRESS, exact_of(ALICE).nonce))
    assert refusal_of(await market.exact.verify(EXACT_TERMS, exact_of(ALICE))).reason is Reason.EXACT_NONCE_USED


async def test_a_payer_without_money_is_refused(market: Marketplace) -> None:
    market.chain.balances[ADDRESS] = PRICE - 1
    assert refusal_of(await market.exact.verify(EXACT_TERMS, exact_of(ALICE))).reason is Reason.INSUFFICIENT_BALANCE


async def test_a_token_that_is_not_moved_by_permit2_is_told(market: Marketplace) -> None:
    market.chain.permit2_token = None
    refusal = refusal_of(await market.exact.verify(EXACT_TERMS, exact_of(ALICE)))
    assert (refusal.reason, refusal.field) == (Reason.TOKEN_UNSUPPORTED, "payload")


async def test_a_token_that_is_moved_by_permit2_only_is_told(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(market.chain.token), "by_eip3009", False)
    refusal = refusal_of(await market.exact.verify(EXACT_TERMS, transfer_of(ALICE)))
    assert (refusal.reason, refusal.allowed) == (Reason.TOKEN_UNSUPPORTED, "permit2")
    (kind,) = await market.exact.kinds()
    assert kind.extra == {"assetTransferMethod": "permit2"}


async def test_both_ways_are_told_to_sellers_with_the_extension(market: Marketplace, permit2: Permit2TokenTwin) -> None:
    own, proxied = await market.exact.kinds()
    assert (own.extra, own.extensions) == ({}, ())
    assert (proxied.extra, proxied.extensions) == ({"assetTransferMethod": "permit2"}, ())
    assert [token.address for token in proxied.assets] == [TOKEN]
    permit2.sponsors_permits = True
    _, proxied = await market.exact.kinds()
    assert proxied.extensions == ("eip2612GasSponsoring",)


@pytest.mark.parametrize("first", ["exact", "upto"])
async def test_x1_one_nonce_of_permit2_pays_one_payment_whatever_the_scheme(market: Marketplace, first: str) -> None:
    nonce = exact_of(ALICE).nonce
    ways = [
        lambda: market.exact.settle(EXACT_TERMS, exact_of(ALICE, nonce=nonce)),
        lambda: market.upto.settle(UPTO_TERMS, upto_of(ALICE, nonce=nonce)),
        lambda: market.exact.settle(replace(EXACT_TERMS, pay_to=MUSIC), exact_of(ALICE, nonce=nonce, to=MUSIC)),
    ]
    if first == "upto":
        ways.reverse()
    answers = await asyncio.gather(*(way() for way in ways))
    assert [isinstance(answer, Settled) for answer in answers].count(True) == 1
    refused = [answer.reason for answer in answers if isinstance(answer, Refusal)]
    assert refused == [Reason.EXACT_NONCE_USED] * 2
    assert len(market.chain.sent) == 1


async def test_x1_a_payment_is_one_attempts_also_after_a_restart(market: Marketplace) -> None:
    mine, other = Caller("news", bytes(16), bytes(32)), Caller("news", bytes([1]) * 16, bytes(32))
    assert isinstance(await market.exact.verify(EXACT_TERMS, exact_of(ALICE), mine), Verified)
    assert refusal_of(await market.exact.settle(EXACT_TERMS, exact_of(ALICE), other)).reason is Reason.PAYMENT_PENDING
    settled = await market.exact.settle(EXACT_TERMS, exact_of(ALICE), mine)
    assert isinstance(settled, Settled)
    async with marketplace(market.disk) as restarted:
        restarted.chain.permit2_token = Permit2TokenTwin(restarted.chain)
        refusal = refusal_of(await restarted.exact.settle(EXACT_TERMS, exact_of(ALICE), other))
        assert refusal.reason is Reason.PAYMENT_USED
        assert await restarted.exact.settle(EXACT_TERMS, exact_of(ALICE), mine) == settled
        assert not restarted.chain.sent
