"""X1: an authorization pays one receiver for one request, whatever is pending, landed, lost or restarted."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from doubles import ESCROW_REF, MUSIC, NOW_S, TOKEN, Payer
from marketplace import EXACT_TERMS, OFFERS, PRICE, Marketplace, marketplace, transfer_of

from tallystick.errors import MalformedError
from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.chain.port import Call
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact import ExactPayments
from tallystick_aggregator.schemes.exact.claims import HOLD_S_MAX, Claims, claim_of
from tallystick_aggregator.schemes.port import Caller
from tallystick_aggregator.store.port import TransactionStatus

ALICE = Payer("alice")
ADDRESS = ALICE.signer.address
PAGE, OTHER_PAGE = bytes([1]) * 32, bytes([2]) * 32
FIRST = Caller("news", bytes([1]) * 16, PAGE)
SECOND = Caller("news", bytes([2]) * 16, PAGE)
ELSEWHERE = Caller("news", bytes([3]) * 16, OTHER_PAGE)
MUSIC_TERMS = replace(EXACT_TERMS, pay_to=MUSIC)


@pytest.fixture(autouse=True)
def _money(market: Marketplace) -> None:
    market.chain.balances[ADDRESS] = 1_000


def reason_of(answer: object) -> Reason:
    assert isinstance(answer, Refusal), answer
    return answer.reason


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda _: transfer_of(ALICE, to=MUSIC),
        lambda _: replace(transfer_of(ALICE, to=MUSIC), signature=b"junk"),
        lambda a: replace(a, to=MUSIC),
        lambda a: replace(a, to=MUSIC, value=5 * PRICE),
        lambda a: replace(a, signature=b"junk"),
        lambda a: replace(a, valid_before=NOW_S + 600),
    ],
)
async def test_x1_an_authorization_pays_one_receiver_and_what_else_has_its_nonce_is_refused(
    market: Marketplace, landed: bool, change: Callable[[ExactAuthorization], ExactAuthorization]
) -> None:
    market.chain.held = not landed
    paid = transfer_of(ALICE)
    first = await market.exact.settle(EXACT_TERMS, paid, FIRST)
    assert isinstance(first, Settled) if landed else reason_of(first) is Reason.TRANSACTION_PENDING
    other = change(paid)
    terms = replace(EXACT_TERMS, pay_to=other.to, amount=other.value)
    for caller in (Caller("music"), Caller("music", bytes(16), PAGE), Caller("news")):
        assert reason_of(await market.exact.verify(terms, other, caller)) is Reason.EXACT_NONCE_USED
        assert reason_of(await market.exact.settle(terms, other, caller)) is Reason.EXACT_NONCE_USED
    assert len(market.chain.sent) == 1
    assert MUSIC not in market.chain.balances


async def test_x1_while_a_transfer_is_pending_every_other_worker_is_told_so_and_afterwards_that_it_is_used(
    market: Marketplace,
) -> None:
    market.chain.held = True
    transfer = transfer_of(ALICE)
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer, FIRST)) is Reason.TRANSACTION_PENDING
    for caller in (SECOND, ELSEWHERE, Caller("other token", FIRST.attempt, PAGE), Caller("news")):
        assert reason_of(await market.exact.verify(EXACT_TERMS, transfer, caller)) is Reason.PAYMENT_PENDING
        assert reason_of(await market.exact.settle(EXACT_TERMS, transfer, caller)) is Reason.PAYMENT_PENDING
    market.chain.held = False
    settled = await market.exact.settle(EXACT_TERMS, transfer, FIRST)
    assert isinstance(settled, Settled)
    assert not settled.replayed
    for caller in (SECOND, ELSEWHERE, Caller("other token", FIRST.attempt, PAGE), Caller("news")):
        assert reason_of(await market.exact.verify(EXACT_TERMS, transfer, caller)) is Reason.PAYMENT_USED
        assert reason_of(await market.exact.settle(EXACT_TERMS, transfer, caller)) is Reason.PAYMENT_USED


async def test_x1_the_same_attempt_gets_its_first_answer_again(market: Marketplace) -> None:
    transfer = transfer_of(ALICE)
    verified = await market.exact.verify(EXACT_TERMS, transfer, FIRST)
    assert verified == Verified(ADDRESS, expires_at=transfer.valid_before)
    assert await market.exact.verify(EXACT_TERMS, transfer, FIRST) == verified
    settled = await market.exact.settle(EXACT_TERMS, transfer, FIRST)
    assert isinstance(settled, Settled)
    assert await market.exact.settle(EXACT_TERMS, transfer, FIRST) == settled
    again = await market.exact.verify(EXACT_TERMS, transfer, FIRST)
    assert isinstance(again, Verified)
    assert not again.replayed
    assert len(market.chain.sent) == 1


async def test_x1_a_verified_payment_is_held_for_its_attempt(market: Marketplace) -> None:
    transfer = transfer_of(ALICE)
    answers = await asyncio.gather(
        *(market.exact.verify(EXACT_TERMS, transfer, caller) for caller in (FIRST, SECOND, ELSEWHERE))
    )
    assert [type(answer) for answer in answers].count(Verified) == 1
    assert {reason_of(answer) for answer in answers if isinstance(answer, Refusal)} == {Reason.PAYMENT_PENDING}
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer, Caller("news"))) is Reason.PAYMENT_PENDING


async def test_x1_what_was_held_in_vain_is_given_back_and_open_to_all(market: Marketplace) -> None:
    transfer = transfer_of(ALICE)
    await market.exact.verify(EXACT_TERMS, transfer, FIRST)
    assert reason_of(await market.exact.release(EXACT_TERMS, transfer, SECOND)) is Reason.PAYMENT_PENDING
    assert await market.exact.release(EXACT_TERMS, transfer, FIRST) == Settled(ADDRESS, 0)
    assert await market.exact.release(EXACT_TERMS, transfer, FIRST) == Settled(ADDRESS, 0)
    assert isinstance(await market.exact.verify(EXACT_TERMS, transfer, ELSEWHERE), Verified)
    assert isinstance(await market.exact.settle(EXACT_TERMS, transfer, ELSEWHERE), Settled)
    with pytest.raises(MalformedError, match="attempt"):
        await market.exact.release(EXACT_TERMS, transfer, Caller("news"))


@pytest.mark.parametrize("landed", [True, False])
async def test_x4_what_was_sent_and_given_back_another_attempt_of_the_same_request_takes_over(
    market: Marketplace, landed: bool
) -> None:
    market.chain.held = not landed
    transfer = transfer_of(ALICE)
    first = await market.exact.settle(EXACT_TERMS, transfer, FIRST)
    await market.exact.release(EXACT_TERMS, transfer, FIRST)
    refused = Reason.PAYMENT_USED if landed else Reason.PAYMENT_PENDING
    assert reason_of(await market.exact.verify(EXACT_TERMS, transfer, ELSEWHERE)) is refused
    assert isinstance(await market.exact.verify(EXACT_TERMS, transfer, SECOND), Verified)
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer, FIRST)) is refused
    market.chain.held = False
    second = await market.exact.settle(EXACT_TERMS, transfer, SECOND)
    assert isinstance(second, Settled)
    assert first == second if landed else isinstance(first, Refusal)
    assert len(market.chain.sent) == 1


async def test_x4_who_gives_back_while_its_settle_is_under_way_does_not_deliver(market: Marketplace) -> None:
    market.chain.held = True
    transfer = transfer_of(ALICE)
    settling = asyncio.create_task(market.exact.settle(EXACT_TERMS, transfer, FIRST))
    while not market.chain.sent:  # noqa: ASYNC110 - the twin has no event for it
        await asyncio.sleep(0)
    await market.exact.release(EXACT_TERMS, transfer, FIRST)
    takeover = asyncio.create_task(market.exact.settle(EXACT_TERMS, transfer, SECOND))
    await asyncio.sleep(0)
    market.chain.held = False
    assert isinstance(await takeover, Settled)
    assert reason_of(await settling) in {Reason.PAYMENT_USED, Reason.PAYMENT_PENDING}


async def test_x1_who_owns_a_settlement_is_known_after_a_restart(market: Marketplace) -> None:
    transfer = transfer_of(ALICE)
    settled = await market.exact.settle(EXACT_TERMS, transfer, FIRST)
    async with marketplace(market.disk) as restarted:
        assert reason_of(await restarted.exact.settle(EXACT_TERMS, transfer, SECOND)) is Reason.PAYMENT_USED
        assert reason_of(await restarted.exact.verify(EXACT_TERMS, transfer, Caller("news"))) is Reason.PAYMENT_USED
        assert await restarted.exact.settle(EXACT_TERMS, transfer, FIRST) == settled
        stolen = replace(transfer, to=MUSIC)
        assert reason_of(await restarted.exact.settle(MUSIC_TERMS, stolen, SECOND)) is Reason.EXACT_NONCE_USED
        assert not restarted.chain.sent


async def test_x1_a_transfer_from_before_claims_were_written_pays_nobody_anew(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = transfer_of(ALICE)
    await market.exact.settle(EXACT_TERMS, transfer)
    (sent,) = market.chain.sent
    await market.outbox.update(replace(sent, status=TransactionStatus.MINED, memo=b""))
    later = ExactPayments({ESCROW_REF: market.chain}, OFFERS, market.outbox, lambda: NOW_S)
    # The twin's calldata is a label; the token's is the authorization itself.
    monkeypatch.setattr(market.chain.token, "transfer_call", lambda _: Call(TOKEN, sent.data))
    assert reason_of(await later.settle(EXACT_TERMS, transfer, FIRST)) is Reason.PAYMENT_USED
    settled = await later.settle(EXACT_TERMS, transfer)
    assert isinstance(settled, Settled)
    assert settled.replayed, "as it was answered then"
    monkeypatch.setattr(market.chain.token, "transfer_call", lambda _: Call(TOKEN, b"another transfer"))
    stolen = replace(transfer, to=MUSIC)
    assert reason_of(await later.settle(MUSIC_TERMS, stolen, FIRST)) is Reason.EXACT_NONCE_USED


async def test_x1_callers_without_attempts_share_what_their_principal_settled(market: Marketplace) -> None:
    transfer = transfer_of(ALICE)
    first = await market.exact.settle(EXACT_TERMS, transfer, Caller("news"))
    again = await market.exact.settle(EXACT_TERMS, transfer, Caller("news"))
    assert isinstance(first, Settled)
    assert again == replace(first, replayed=True)
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer, Caller("other"))) is Reason.PAYMENT_USED


async def test_x1_a_passing_trouble_keeps_the_hold_and_a_final_one_lets_go(market: Marketplace) -> None:
    transfer = transfer_of(ALICE)
    market.chain.down = True
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer, FIRST)) is Reason.CHAIN_UNAVAILABLE
    market.chain.down = False
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer, SECOND)) is Reason.PAYMENT_PENDING
    market.chain.used.add((ADDRESS, transfer.nonce))
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer, FIRST)) is Reason.EXACT_NONCE_USED
    market.chain.used.clear()
    assert isinstance(await market.exact.settle(EXACT_TERMS, transfer, SECOND), Settled)


def test_x1_a_seller_that_never_settles_holds_its_own_share_only() -> None:
    now = [NOW_S]
    claims = Claims(lambda: now[0], share_max=2)
    rogue = claim_of(bytes(32), transfer_of(ALICE), replace(FIRST, principal="rogue"))
    honest = claim_of(bytes(32), transfer_of(ALICE), replace(FIRST, principal="honest"))
    for slot in (b"1", b"2"):
        assert claims.take(slot, rogue, None, None, NOW_S + HOLD_S_MAX) is None
    refusal = claims.take(b"3", rogue, None, None, NOW_S + HOLD_S_MAX)
    assert refusal is not None
    assert (refusal.reason, refusal.allowed) == (Reason.OVERLOADED, "at most 2")
    assert claims.take(b"3", honest, None, None, NOW_S + HOLD_S_MAX) is None
    claims.drop(b"1", rogue)
    assert claims.take(b"4", rogue, None, None, NOW_S + HOLD_S_MAX) is None
    now[0] += HOLD_S_MAX
    assert claims.take(b"5", rogue, None, None, now[0] + 1) is None


async def test_x1_what_has_landed_takes_no_room_and_stays_its_owners(market: Marketplace) -> None:
    transfer = transfer_of(ALICE)
    for _ in range(2):
        assert isinstance(await market.exact.settle(EXACT_TERMS, transfer, FIRST), Settled)
        assert not market.exact._claims._held
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer, SECOND)) is Reason.PAYMENT_USED
    at_once = await asyncio.gather(*(market.exact.settle(EXACT_TERMS, transfer, FIRST) for _ in range(3)))
    assert all(isinstance(one, Settled) and not one.replayed for one in at_once)


def test_x1_claims_in_memory_are_bounded_and_expire() -> None:
    now = [NOW_S]
    claims = Claims(lambda: now[0], claims_max=2)
    mine = claim_of(bytes(32), transfer_of(ALICE), FIRST)
    other = claim_of(bytes(32), transfer_of(ALICE), SECOND)
    for slot in (b"1", b"2"):
        assert claims.take(slot, mine, None, None, NOW_S + HOLD_S_MAX) is None
    assert reason_of(claims.take(b"3", mine, None, None, NOW_S + 1)) is Reason.OVERLOADED
    assert reason_of(claims.take(b"1", other, None, None, NOW_S + 1)) is Reason.PAYMENT_PENDING
    now[0] += HOLD_S_MAX
    assert claims.take(b"3", mine, None, None, now[0] + 1) is None
    assert claims.take(b"1", other, None, None, now[0] + 1) is None
    assert claims.is_owner(b"1", other)
