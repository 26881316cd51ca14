import asyncio
from dataclasses import replace
from typing import Any

import pytest
from chain_twin import CONTRACT_WALLET_SIGNATURE
from doubles import MUSIC, NEWS, NOW_S, Payer
from marketplace import EXACT_TERMS, PRICE, Marketplace, marketplace, transfer_of

from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick.x402 import ExactAuthorization, Network
from tallystick_aggregator.chain.port import Block
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact.authorizations import ERC6492_SUFFIX
from tallystick_aggregator.schemes.exact.payments import SENDING_AT_ONCE, VERIFIES_MAX
from tallystick_aggregator.store.port import TransactionStatus

ALICE = Payer("alice")
ADDRESS = ALICE.signer.address


@pytest.fixture(autouse=True)
def _money(market: Marketplace) -> None:
    market.chain.balances[ADDRESS] = 1_000


def reason_of(answer: object) -> Reason:
    assert isinstance(answer, Refusal), answer
    return answer.reason


async def test_verify_accepts_what_would_settle_and_sends_nothing(market: Marketplace) -> None:
    assert await market.exact.verify(EXACT_TERMS, transfer_of(ALICE)) == Verified(ADDRESS)
    assert market.chain.simulated == 1
    assert not market.chain.sent


async def test_settle_transfers_and_names_the_transaction(market: Marketplace) -> None:
    answer = await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))
    assert isinstance(answer, Settled)
    assert (answer.payer, answer.amount, len(answer.transaction), answer.replayed) == (ADDRESS, PRICE, 32, False)
    assert market.chain.balances == {ADDRESS: 900, NEWS: 100}


async def test_a_payment_settled_twice_is_sent_once_and_answered_alike(market: Marketplace) -> None:
    first = await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))
    again = await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))
    assert isinstance(first, Settled)
    assert again == replace(first, replayed=True)
    assert await market.exact.verify(EXACT_TERMS, transfer_of(ALICE)) == Verified(ADDRESS, replayed=True)
    assert len(market.chain.sent) == 1


async def test_twenty_settlements_at_once_send_one_transaction_and_one_of_them_is_the_first(
    market: Marketplace,
) -> None:
    answers = await asyncio.gather(*(market.exact.settle(EXACT_TERMS, transfer_of(ALICE)) for _ in range(20)))
    assert all(isinstance(answer, Settled) for answer in answers)
    assert [answer.replayed for answer in answers if isinstance(answer, Settled)].count(False) == 1
    assert len(market.chain.sent) == 1
    assert market.chain.balances[NEWS] == PRICE


async def test_a_settlement_is_known_after_a_restart(market: Marketplace) -> None:
    await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))
    async with marketplace(market.disk) as restarted:
        answer = await restarted.exact.settle(EXACT_TERMS, transfer_of(ALICE))
        assert isinstance(answer, Settled)
        assert answer.replayed
        assert not restarted.chain.sent


@pytest.mark.parametrize(
    ("terms", "changes", "reason", "field"),
    [
        (replace(EXACT_TERMS, network=Network(1)), {}, Reason.NETWORK_UNSUPPORTED, "network"),
        (replace(EXACT_TERMS, asset=MUSIC), {}, Reason.TOKEN_UNSUPPORTED, "token"),
        (EXACT_TERMS, {"to": MUSIC}, Reason.RECEIVER_MISMATCH, "receiver"),
        (EXACT_TERMS, {"value": PRICE - 1}, Reason.AMOUNT_MISMATCH, "amount"),
        (EXACT_TERMS, {"value": PRICE + 1}, Reason.AMOUNT_MISMATCH, "amount"),
        (EXACT_TERMS, {"valid_after": NOW_S + 1}, Reason.EXACT_NOT_YET_VALID, "valid_after"),
        (EXACT_TERMS, {"valid_before": NOW_S + 5}, Reason.EXACT_EXPIRED, "valid_before"),
        (EXACT_TERMS, {"value": PRICE}, None, ""),
    ],
)
async def test_verify_and_settle_ask_the_same(
    market: Marketplace, terms: object, changes: dict[str, object], reason: Reason | None, field: str
) -> None:
    transfer = transfer_of(ALICE, **changes)
    verified = await market.exact.verify(terms, transfer)  # type: ignore[arg-type]
    settled = await market.exact.settle(terms, transfer)  # type: ignore[arg-type]
    if reason is None:
        assert isinstance(verified, Verified)
        assert isinstance(settled, Settled)
        return
    assert verified == settled
    assert isinstance(verified, Refusal)
    assert (verified.reason, verified.field) == (reason, field)
    assert not market.chain.sent


async def test_a_payer_without_money_is_refused_with_what_it_has(market: Marketplace) -> None:
    market.chain.balances[ADDRESS] = PRICE - 1
    answer = await market.exact.verify(EXACT_TERMS, transfer_of(ALICE))
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.got, answer.allowed) == (Reason.INSUFFICIENT_BALANCE, "100", "at most 99")


def _unsigned(transfer: ExactAuthorization) -> ExactAuthorization:
    return replace(transfer, signature=b"")


def _by_another(transfer: ExactAuthorization) -> ExactAuthorization:
    other = transfer_of(Payer("mallory"), from_=transfer.from_)
    return replace(transfer, signature=other.signature)


def _altered(transfer: ExactAuthorization) -> ExactAuthorization:
    return replace(transfer, nonce=bytes(32))


def _high_s(transfer: ExactAuthorization) -> ExactAuthorization:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    r, s, v = transfer.signature[:32], int.from_bytes(transfer.signature[32:64], "big"), transfer.signature[64]
    return replace(transfer, signature=r + (order - s).to_bytes(32, "big") + bytes([55 - v]))


def _not_deployed(transfer: ExactAuthorization) -> ExactAuthorization:
    return replace(transfer, signature=transfer.signature + ERC6492_SUFFIX)


@pytest.mark.parametrize("spoil", [_unsigned, _by_another, _altered, _high_s, _not_deployed])
async def test_a_signature_that_the_token_would_not_take_is_refused(market: Marketplace, spoil: object) -> None:
    transfer = spoil(transfer_of(ALICE))  # type: ignore[operator]
    assert reason_of(await market.exact.verify(EXACT_TERMS, transfer)) is Reason.EXACT_SIGNATURE
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer)) is Reason.EXACT_SIGNATURE
    assert not market.chain.sent


async def test_a_deployed_contract_wallet_may_pay_by_its_own_signature(market: Marketplace) -> None:
    market.chain.contract_wallets.add(ADDRESS)
    transfer = replace(transfer_of(ALICE), signature=CONTRACT_WALLET_SIGNATURE)
    assert isinstance(await market.exact.verify(EXACT_TERMS, transfer), Verified)
    assert isinstance(await market.exact.settle(EXACT_TERMS, transfer), Settled)


async def test_an_authorization_spent_elsewhere_between_verify_and_settle_is_told(market: Marketplace) -> None:
    transfer = transfer_of(ALICE)
    assert isinstance(await market.exact.verify(EXACT_TERMS, transfer), Verified)
    market.chain.used.add((ADDRESS, transfer.nonce))
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer)) is Reason.EXACT_NONCE_USED
    assert reason_of(await market.exact.verify(EXACT_TERMS, transfer)) is Reason.EXACT_NONCE_USED


async def test_an_authorization_spent_elsewhere_while_it_is_being_sent_is_told(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer, send = transfer_of(ALICE), market.chain.send

    async def spent_first(*arguments: object, **rest: object) -> object:
        market.chain.used.add((ADDRESS, transfer.nonce))
        return await send(*arguments, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(market.chain, "send", spent_first)
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer)) is Reason.EXACT_NONCE_USED


async def test_a_transfer_that_reverts_on_chain_is_told_and_never_sent_again(market: Marketplace) -> None:
    market.chain.fate = TransactionStatus.REVERTED
    first = await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))
    assert reason_of(first) is Reason.TRANSACTION_FAILED
    market.chain.fate = TransactionStatus.MINED
    assert await market.exact.settle(EXACT_TERMS, transfer_of(ALICE)) == first
    assert reason_of(await market.exact.verify(EXACT_TERMS, transfer_of(ALICE))) is Reason.TRANSACTION_FAILED
    assert len(market.chain.sent) == 1


async def test_unknown_is_not_failed_and_the_same_payment_learns_its_fate(market: Marketplace) -> None:
    market.chain.held = True
    answer = await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.reason.retry) == (Reason.TRANSACTION_PENDING, True)
    market.chain.held = False
    settled = await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))
    assert isinstance(settled, Settled)
    assert len(market.chain.sent) == 1


async def test_a_transaction_whose_nonce_another_one_used_is_sent_anew(market: Marketplace) -> None:
    market.chain.fate = TransactionStatus.SUPERSEDED
    assert reason_of(await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))) is Reason.TRANSACTION_PENDING
    market.chain.fate = TransactionStatus.MINED
    assert isinstance(await market.exact.verify(EXACT_TERMS, transfer_of(ALICE)), Verified)
    settled = await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))
    assert isinstance(settled, Settled)
    assert not settled.replayed
    assert market.chain.balances[NEWS] == PRICE


async def test_a_chain_that_cannot_be_reached_is_told_as_such(market: Marketplace) -> None:
    market.chain.down = True
    for answer in (
        await market.exact.verify(EXACT_TERMS, transfer_of(ALICE)),
        await market.exact.settle(EXACT_TERMS, transfer_of(ALICE)),
    ):
        assert reason_of(answer) is Reason.CHAIN_UNAVAILABLE


async def test_a_caller_that_goes_away_does_not_stop_its_settlement(market: Marketplace) -> None:
    settling = asyncio.create_task(market.exact.settle(EXACT_TERMS, transfer_of(ALICE)))
    while not market.chain.sent:  # noqa: ASYNC110 - the twin has no event for it
        await asyncio.sleep(0)
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    answer = await market.exact.settle(EXACT_TERMS, transfer_of(ALICE))
    assert isinstance(answer, Settled)
    assert answer.replayed


async def test_what_only_a_contract_can_check_asks_the_node_at_a_bounded_rate(market: Marketplace) -> None:
    wallet = Payer("wallet")
    market.chain.balances[wallet.signer.address] = 1_000
    market.chain.contract_wallets.add(wallet.signer.address)
    for number in range(200):
        forged = replace(transfer_of(wallet, number), signature=b"garbage")
        assert isinstance(await market.exact.verify(EXACT_TERMS, forged), Refusal)
    assert market.chain.simulated < 40
    forged = replace(transfer_of(wallet, 999), signature=b"garbage")
    assert reason_of(await market.exact.settle(EXACT_TERMS, forged)) is Reason.OVERLOADED
    assert isinstance(await market.exact.verify(EXACT_TERMS, transfer_of(ALICE)), Verified)


async def test_payments_being_verified_are_bounded(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = asyncio.Event()
    head = market.chain.head

    async def slow(*, fresh: bool = True) -> Block:
        del fresh
        await answering.wait()
        return await head()

    monkeypatch.setattr(market.chain, "head", slow)
    calls = [
        asyncio.create_task(market.exact.verify(EXACT_TERMS, transfer_of(ALICE, number)))
        for number in range(VERIFIES_MAX + 2)
    ]
    done, _ = await asyncio.wait(calls, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert {reason_of(call.result()) for call in done} == {Reason.OVERLOADED}
    answering.set()
    answers = await asyncio.gather(*calls)
    assert sum(isinstance(answer, Verified) for answer in answers) == VERIFIES_MAX
    assert isinstance(await market.exact.verify(EXACT_TERMS, transfer_of(ALICE)), Verified)


async def test_verify_takes_a_block_of_a_moment_ago_and_settle_asks_anew(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, asked = market.chain.head, []

    async def noted(*, fresh: bool = True) -> Block:
        asked.append(fresh)
        return await head()

    monkeypatch.setattr(market.chain, "head", noted)
    assert isinstance(await market.exact.verify(EXACT_TERMS, transfer_of(ALICE)), Verified)
    assert asked == [False]
    assert isinstance(await market.exact.settle(EXACT_TERMS, transfer_of(ALICE)), Settled)
    assert set(asked[1:]) == {True}


async def test_what_is_asked_of_the_chain_about_a_key_s_payment_is_asked_at_once(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering, simulating = asyncio.Event(), asyncio.Event()
    token = market.chain.tokens[EXACT_TERMS.asset]
    balance, simulate = type(token).balance, market.chain.simulate

    async def slow(*arguments: Any) -> int:
        await answering.wait()
        return await balance(*arguments)

    async def noted(*arguments: Any, **settings: Any) -> None:
        simulating.set()
        await simulate(*arguments, **settings)

    monkeypatch.setattr(type(token), "balance", slow)
    monkeypatch.setattr(market.chain, "simulate", noted)
    verifying = asyncio.create_task(market.exact.verify(EXACT_TERMS, transfer_of(ALICE)))
    async with asyncio.timeout(5):
        await simulating.wait()
    assert not verifying.done()
    answering.set()
    assert isinstance(await verifying, Verified)


async def test_settlements_take_turns_and_all_of_them_have_one(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = asyncio.Event()
    head, asked = market.chain.head, 0

    async def slow(*, fresh: bool = True) -> Block:
        del fresh
        nonlocal asked
        asked += 1
        await answering.wait()
        return await head()

    monkeypatch.setattr(market.chain, "head", slow)
    count = 2 * SENDING_AT_ONCE
    market.chain.balances[ADDRESS] = count * PRICE
    terms = replace(EXACT_TERMS, max_timeout_s=60)
    calls = [asyncio.create_task(market.exact.settle(terms, transfer_of(ALICE, number))) for number in range(count)]
    done, _ = await asyncio.wait(calls, timeout=0.1)
    assert (len(done), asked) == (0, SENDING_AT_ONCE), "nobody asks the chain out of turn"
    answering.set()
    answers = await asyncio.gather(*calls)
    assert [answer for answer in answers if not isinstance(answer, Settled)] == []
    assert len(market.chain.sent) == count
