import asyncio
from dataclasses import replace
from typing import Any

import pytest
from chain_twin import CONTRACT_WALLET_SIGNATURE
from doubles import MUSIC, NETWORK, NOW_S, Payer
from marketplace import MIN_DEPOSIT, Marketplace, deposit_of, marketplace, signed

from tallystick import eip712
from tallystick.quantities import MAX_AMOUNT
from tallystick.reasons import Reason
from tallystick_aggregator.accounts.deposits import BALANCES_BURST, LANDINGS_BURST, Deposited
from tallystick_aggregator.chain.port import Block, DepositAuthorization
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.store.port import TransactionStatus

ALICE = Payer("alice")
ADDRESS = ALICE.signer.address
AMOUNT = 5_000


@pytest.fixture(autouse=True)
def _money(market: Marketplace) -> None:
    market.chain.balances[ADDRESS] = 2 * AMOUNT


def reason_of(answer: object) -> Reason:
    assert isinstance(answer, Refusal), answer
    return answer.reason


async def balance_of(market: Marketplace, signer: Payer = ALICE, **changes: Any) -> int | Refusal:
    account = replace(ALICE.config, **changes)
    call = signed(signer, eip712.hash_read_account(market.chain.account_id(account), NOW_S + 60))
    return await market.deposits.balance(NETWORK, account, call)


async def test_a_payer_learns_its_balance_before_its_first_deposit(market: Marketplace) -> None:
    assert await balance_of(market) == 2 * AMOUNT
    await market.deposits.deposit(NETWORK, deposit_of(ALICE, AMOUNT))
    assert await balance_of(market) == AMOUNT
    market.chain.balances.clear()
    assert await balance_of(market) == 0
    market.chain.balances[ADDRESS] = MAX_AMOUNT + 1
    assert await balance_of(market) == MAX_AMOUNT


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signer": Payer("stranger")}, Reason.CALL_SIGNATURE),
        ({"token": MUSIC}, Reason.TOKEN_UNSUPPORTED),
        ({"receiver_authorizer": MUSIC}, Reason.OPERATOR_MISMATCH),
        ({"withdraw_delay_s": 900}, Reason.WITHDRAW_DELAY_OUT_OF_RANGE),
    ],
)
async def test_a_balance_is_told_only_to_who_could_deposit_it_here(
    market: Marketplace, changes: dict[str, Any], reason: Reason
) -> None:
    market.chain.down = True  # what is refused asks the node nothing
    assert reason_of(await balance_of(market, **changes)) is reason


async def test_x10_one_wrong_answer_frees_no_authorization_that_was_used(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    nonce, unused, answers = b"\x01" * 32, b"\x02" * 32, [False]
    market.chain.used.add((ADDRESS, nonce))
    truth = market.chain.token.authorization_used

    async def wrong_once(authorizer: bytes, nonce: bytes, block: Block) -> bool:
        return answers.pop() if answers else await truth(authorizer, nonce, block)

    monkeypatch.setattr(market.chain.token, "authorization_used", wrong_once)
    told = await market.deposits.nonces_used(NETWORK, ALICE.config, [nonce, unused])
    assert not isinstance(told, Refusal)
    assert told[0] == [True, False], "its payer would spend again what was taken"


async def test_a_balance_on_an_unknown_network_is_refused(market: Marketplace) -> None:
    call = signed(ALICE, eip712.hash_read_account(ALICE.account_id, NOW_S + 60))
    answer = await market.deposits.balance("eip155:1", ALICE.config, call)
    assert reason_of(answer) is Reason.NETWORK_UNSUPPORTED


async def test_a_balance_that_the_chain_does_not_tell_may_be_asked_for_again(market: Marketplace) -> None:
    market.chain.down = True
    answer = await balance_of(market)
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.reason.retry) == (Reason.CHAIN_UNAVAILABLE, True)


async def test_balances_are_read_at_a_bounded_rate(market: Marketplace) -> None:
    answers = [await balance_of(market) for _ in range(2 * BALANCES_BURST)]
    assert answers[:BALANCES_BURST] == [2 * AMOUNT] * BALANCES_BURST
    assert reason_of(answers[-1]) is Reason.OVERLOADED


async def test_a_deposit_is_answered_when_the_ledger_has_credited_it(market: Marketplace) -> None:
    answer = await market.deposits.deposit(NETWORK, deposit_of(ALICE, AMOUNT))
    assert isinstance(answer, Deposited)
    assert len(answer.transaction) == 32
    assert market.account(ALICE).funds == market.account(ALICE).available == AMOUNT
    assert market.chain.balances[ADDRESS] == AMOUNT


async def test_the_same_authorization_again_is_sent_once_and_answered_alike(market: Marketplace) -> None:
    deposit = deposit_of(ALICE, AMOUNT)
    answers = await asyncio.gather(*(market.deposits.deposit(NETWORK, deposit) for _ in range(10)))
    answers.append(await market.deposits.deposit(NETWORK, deposit))
    assert {answer.transaction for answer in answers if isinstance(answer, Deposited)} == {
        market.chain.sent[0].attempts[0].transaction_hash
    }
    assert len(market.chain.sent) == 1
    assert market.account(ALICE).funds == AMOUNT


async def test_a_deposit_is_known_after_a_restart_even_when_its_window_has_closed(market: Marketplace) -> None:
    deposit = deposit_of(ALICE, AMOUNT)
    first = await market.deposits.deposit(NETWORK, deposit)
    assert isinstance(first, Deposited)
    async with marketplace(market.disk) as restarted:
        restarted.deposits._clock_s = lambda: NOW_S + 10_000  # type: ignore[method-assign]
        again = await restarted.deposits.deposit(NETWORK, deposit)
        assert isinstance(again, Deposited)
        assert again.transaction == first.transaction


async def test_a_deposit_that_somebody_else_landed_has_landed(market: Marketplace) -> None:
    deposit = deposit_of(ALICE, AMOUNT)
    market.chain.land(deposit)
    answer = await market.deposits.deposit(NETWORK, deposit)
    assert isinstance(answer, Deposited)
    assert (answer.transaction, market.account(ALICE).funds) == (b"", AMOUNT)
    assert not market.chain.sent


async def test_a_cancelled_authorization_is_no_deposit(market: Marketplace) -> None:
    deposit = deposit_of(ALICE, AMOUNT)
    market.chain.used.add((ADDRESS, market.chain.deposit_token_nonce(deposit)))
    assert reason_of(await market.deposits.deposit(NETWORK, deposit)) is Reason.DEPOSIT_AUTHORIZATION


@pytest.mark.parametrize(
    ("deposit", "reason", "field"),
    [
        (deposit_of(ALICE, MIN_DEPOSIT - 1), Reason.DEPOSIT_BELOW_MINIMUM, "amount"),
        (deposit_of(ALICE, AMOUNT, valid_after=NOW_S), Reason.DEPOSIT_AUTHORIZATION, "valid_after"),
        (deposit_of(ALICE, AMOUNT, valid_before=NOW_S + 10), Reason.DEPOSIT_AUTHORIZATION, "valid_before"),
        (deposit_of(ALICE, 3 * AMOUNT), Reason.INSUFFICIENT_BALANCE, "amount"),
        (
            deposit_of(ALICE, AMOUNT, account=replace(ALICE.config, receiver_authorizer=MUSIC)),
            Reason.OPERATOR_MISMATCH,
            "config.receiver_authorizer",
        ),
        (
            deposit_of(ALICE, AMOUNT, account=replace(ALICE.config, token=MUSIC)),
            Reason.TOKEN_UNSUPPORTED,
            "token",
        ),
        (
            deposit_of(ALICE, AMOUNT, account=replace(ALICE.config, withdraw_delay_s=900)),
            Reason.WITHDRAW_DELAY_OUT_OF_RANGE,
            "config.withdraw_delay_s",
        ),
        (replace(deposit_of(ALICE, AMOUNT), signature=bytes(65)), Reason.DEPOSIT_AUTHORIZATION, "signature"),
        (replace(deposit_of(ALICE, AMOUNT), amount=AMOUNT - 1), Reason.DEPOSIT_AUTHORIZATION, "signature"),
    ],
)
async def test_a_deposit_that_cannot_work_is_refused_before_anything_is_sent(
    market: Marketplace, deposit: DepositAuthorization, reason: Reason, field: str
) -> None:
    answer = await market.deposits.deposit(NETWORK, deposit)
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.field) == (reason, field)
    assert not market.chain.sent


async def test_an_unknown_network_is_refused(market: Marketplace) -> None:
    assert reason_of(await market.deposits.deposit("eip155:1", deposit_of(ALICE, AMOUNT))) is Reason.NETWORK_UNSUPPORTED


async def test_a_contract_wallet_may_deposit_by_its_own_signature(market: Marketplace) -> None:
    market.chain.contract_wallets.add(ADDRESS)
    deposit = replace(deposit_of(ALICE, AMOUNT), signature=CONTRACT_WALLET_SIGNATURE)
    assert isinstance(await market.deposits.deposit(NETWORK, deposit), Deposited)


async def test_signatures_that_only_the_chain_can_check_are_tried_at_a_bounded_rate(market: Marketplace) -> None:
    garbage = [replace(deposit_of(ALICE, AMOUNT, number), signature=b"garbage") for number in range(40)]
    reasons = [reason_of(await market.deposits.deposit(NETWORK, deposit)) for deposit in garbage]
    assert reasons.count(Reason.DEPOSIT_AUTHORIZATION) <= 12
    assert reasons[-1] is Reason.OVERLOADED
    assert isinstance(await market.deposits.deposit(NETWORK, deposit_of(ALICE, AMOUNT)), Deposited)


async def test_what_nobody_signed_takes_nothing_from_honest_deposits_and_asks_the_node_little(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    head = market.chain.head

    async def counted() -> Block:
        nonlocal asked
        asked += 1
        return await head()

    monkeypatch.setattr(market.chain, "head", counted)
    for number in range(300):
        forged = replace(deposit_of(ALICE, AMOUNT, number), signature=deposit_of(ALICE, AMOUNT, -1).signature)
        assert isinstance(await market.deposits.deposit(NETWORK, forged), Refusal)
    assert asked <= 20
    assert isinstance(await market.deposits.deposit(NETWORK, deposit_of(ALICE, AMOUNT)), Deposited)


async def test_a_deposit_is_credited_only_when_it_is_final(market: Marketplace) -> None:
    market.chain.confirmations = 3
    deposit = deposit_of(ALICE, AMOUNT)
    answer = await market.deposits.deposit(NETWORK, deposit)
    assert reason_of(answer) is Reason.TRANSACTION_PENDING
    market.chain.number += 3
    assert isinstance(await market.deposits.deposit(NETWORK, deposit), Deposited)
    assert len(market.chain.sent) == 1


async def test_a_mirror_that_lags_is_waited_for_and_then_told(market: Marketplace) -> None:
    market.chain.mirroring = False
    deposit = deposit_of(ALICE, AMOUNT)
    assert reason_of(await market.deposits.deposit(NETWORK, deposit)) is Reason.TRANSACTION_PENDING
    market.chain.mirroring = True
    assert isinstance(await market.deposits.deposit(NETWORK, deposit), Deposited)


async def test_r8_a_deposit_that_is_not_credited_yet_is_not_called_deposited(market: Marketplace) -> None:
    """While one of two endpoints is down the mirror reaches the block and counts nothing more."""
    market.chain.confirming = False
    deposit = deposit_of(ALICE, AMOUNT)
    answer = await market.deposits.deposit(NETWORK, deposit)
    assert reason_of(answer) is Reason.TRANSACTION_PENDING, "the payer was told to go on, with nothing to spend"
    assert market.account(ALICE).funds == 0
    market.chain.confirming = True
    assert isinstance(await market.deposits.deposit(NETWORK, deposit), Deposited)
    assert market.account(ALICE).funds == AMOUNT
    assert len(market.chain.sent) == 1


async def test_a_deposit_that_reverts_on_chain_is_told(market: Marketplace) -> None:
    market.chain.fate = TransactionStatus.REVERTED
    assert reason_of(await market.deposits.deposit(NETWORK, deposit_of(ALICE, AMOUNT))) is Reason.TRANSACTION_FAILED


async def test_a_chain_that_cannot_be_reached_refuses_deposits(market: Marketplace) -> None:
    market.chain.down = True
    assert reason_of(await market.deposits.deposit(NETWORK, deposit_of(ALICE, AMOUNT))) is Reason.CHAIN_UNAVAILABLE


async def test_deposits_come_at_a_bounded_rate(market: Marketplace) -> None:
    dust = [deposit_of(ALICE, 3 * AMOUNT, number) for number in range(100)]
    reasons = [reason_of(await market.deposits.deposit(NETWORK, deposit)) for deposit in dust]
    assert 64 <= reasons.count(Reason.INSUFFICIENT_BALANCE) < 90
    assert reasons[-1] is Reason.OVERLOADED


async def test_a_deposit_into_an_account_that_was_too_small_to_keep_is_not_lost_to_sight(market: Marketplace) -> None:
    market.chain.finds_accounts = False
    assert reason_of(await market.deposits.deposit(NETWORK, deposit_of(ALICE, AMOUNT))) is Reason.TRANSACTION_PENDING
    assert market.chain.tracked == [ALICE.config]
    answer = await market.deposits.deposit(NETWORK, deposit_of(ALICE, AMOUNT))
    assert isinstance(answer, Deposited)
    assert market.account(ALICE).funds == AMOUNT
    assert len(market.chain.sent) == 1


async def topped_up(market: Marketplace) -> DepositAuthorization:
    """An account that is there already, and a further deposit that is not made yet."""
    assert isinstance(await market.deposits.deposit(NETWORK, deposit_of(ALICE, AMOUNT)), Deposited)
    return deposit_of(ALICE, AMOUNT - 1, 1)


def told(answer: object) -> str:
    assert isinstance(answer, Refusal), answer
    assert (answer.reason, answer.field) == (Reason.DEPOSIT_AUTHORIZATION, "salt")
    return answer.message


async def test_a8_a_cancelled_top_up_is_no_deposit(market: Marketplace) -> None:
    """Its account is there, and its nonce is used: what counts is the event of the transaction that used it."""
    top_up = await topped_up(market)
    market.chain.used.add((ADDRESS, market.chain.deposit_token_nonce(top_up)))
    assert "nothing was deposited" in told(await market.deposits.deposit(NETWORK, top_up))
    assert market.account(ALICE).funds == AMOUNT


async def test_a8_a_top_up_that_is_cancelled_while_ours_waits_is_no_deposit_also_after_a_restart(
    market: Marketplace,
) -> None:
    """Our own transaction succeeds and does nothing."""
    top_up = await topped_up(market)
    market.chain.held = True
    assert reason_of(await market.deposits.deposit(NETWORK, top_up)) is Reason.TRANSACTION_PENDING
    market.chain.used.add((ADDRESS, market.chain.deposit_token_nonce(top_up)))
    market.chain.held = False
    assert "nothing was deposited" in told(await market.deposits.deposit(NETWORK, top_up))
    assert market.chain.sent[-1].status is TransactionStatus.PENDING, "as it was when it was sent"
    async with marketplace(market.disk) as restarted:
        restarted.chain.used.update(market.chain.used)
        assert "nothing was deposited" in told(await restarted.deposits.deposit(NETWORK, top_up))
        assert not restarted.chain.sent


async def test_a8_a_top_up_that_somebody_else_lands_while_ours_waits_is_a_deposit(market: Marketplace) -> None:
    top_up = await topped_up(market)
    market.chain.held = True
    assert reason_of(await market.deposits.deposit(NETWORK, top_up)) is Reason.TRANSACTION_PENDING
    market.chain.land(top_up)
    market.chain.held = False
    assert await market.deposits.deposit(NETWORK, top_up) == Deposited(b"")
    assert market.account(ALICE).funds == 2 * AMOUNT - 1


async def test_a8_a_deposit_of_ours_is_told_from_the_outbox_without_looking_back(market: Marketplace) -> None:
    top_up = await topped_up(market)
    answer = await market.deposits.deposit(NETWORK, top_up)
    async with marketplace(market.disk) as restarted:
        assert await restarted.deposits.deposit(NETWORK, top_up) == answer
        assert (market.chain.looked_back, restarted.chain.looked_back) == (0, 0)


async def test_a8_a_nonce_that_was_used_longer_ago_than_is_looked_for_is_called_neither_deposit_nor_cancelled(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    top_up = await topped_up(market)
    market.chain.used.add((ADDRESS, market.chain.deposit_token_nonce(top_up)))

    async def not_found(_deposit: DepositAuthorization) -> None:
        return None

    monkeypatch.setattr(market.chain, "deposit_landing", not_found)
    assert "read from the account what it holds" in told(await market.deposits.deposit(NETWORK, top_up))


async def test_a8_looking_back_is_bounded(market: Marketplace) -> None:
    """Each asks for the events of many blocks, and an authorization that was used is public."""
    top_up = await topped_up(market)
    market.chain.used.add((ADDRESS, market.chain.deposit_token_nonce(top_up)))
    answers = [await market.deposits.deposit(NETWORK, top_up) for _ in range(3 * LANDINGS_BURST)]
    assert reason_of(answers[-1]) is Reason.OVERLOADED
    assert market.chain.looked_back <= LANDINGS_BURST + 3
