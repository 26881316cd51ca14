"""What strangers may make the operator spend: a share for each payer, a budget for each kind, no free refunds."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256

import pytest
from doubles import NETWORK, NEWS, NOW_S, Payer
from marketplace import EXACT_TERMS, Marketplace, deposit_of, marketplace, signed, transfer_of

from tallystick import eip712
from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick_aggregator.accounts.deposits import Deposited
from tallystick_aggregator.accounts.refunds import Refunded
from tallystick_aggregator.auth.limits import STRANGERS_PERCENT, GasLimits
from tallystick_aggregator.chain.port import ChainUnavailableError, Send
from tallystick_aggregator.chain.sending.gas_meter import HOUR_S, GasMeter
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.store.port import TransactionKind

ALICE = Payer("alice")
AMOUNT = 5_000
EACH = 90_000
"""What a transaction of the twin takes."""


@pytest.fixture
async def market() -> AsyncIterator[Marketplace]:
    async with marketplace(gas=GasLimits(deposits_per_payer_hour_max=3, refunds_per_payer_hour_max=2)) as opened:
        yield opened


async def deposit(market: Marketplace, payer: Payer = ALICE, number: int = 0) -> Deposited | Refusal:
    market.chain.balances[payer.signer.address] = AMOUNT
    return await market.deposits.deposit(NETWORK, deposit_of(payer, AMOUNT, number))


async def refund(market: Marketplace, payer: Payer = ALICE, number: int = 0, amount: int = 1_000) -> Refunded | Refusal:
    refund_id = sha256(b"refund %d" % number).digest()
    struct = eip712.hash_request_refund(payer.account_id, refund_id, amount, NOW_S + 60)
    return await market.refunds.refund(payer.account_id, refund_id, amount, signed(payer, struct))


async def paid(market: Marketplace, payer: Payer = ALICE) -> None:
    """Have an account that has paid for something."""
    await market.fund(payer, 10 * AMOUNT, NEWS)
    await market.charge(payer, 10, ceiling=10)


def spent(answer: object) -> Refusal:
    assert isinstance(answer, Refusal), answer
    assert answer.reason is Reason.GAS_BUDGET_SPENT
    assert answer.reason.retry
    assert 0 < answer.retry_after_s <= HOUR_S + 1
    assert str(answer.retry_after_s) in answer.message
    return answer


async def test_g1_a_payer_has_a_few_gasless_deposits_an_hour_under_whatever_salt(market: Marketplace) -> None:
    for number in range(3):
        assert isinstance(await deposit(market, number=number), Deposited)
    refused = spent(await deposit(market, number=3))
    assert (refused.field, refused.got, refused.allowed) == ("deposits", "4 in an hour", "at most 3 for each payer")
    assert len(market.chain.sent) == 3
    assert isinstance(await deposit(market, number=1), Deposited), "what was sent is told as ever"
    assert isinstance(await deposit(market, Payer("bob")), Deposited)
    market.chain.now_s += refused.retry_after_s
    assert isinstance(await deposit(market, number=4), Deposited)


async def test_g1_deposits_at_once_do_not_get_past_the_share(market: Marketplace) -> None:
    market.chain.balances[ALICE.signer.address] = 10 * AMOUNT
    deposits = [deposit_of(ALICE, AMOUNT, number) for number in range(10)]
    answers = await asyncio.gather(*(market.deposits.deposit(NETWORK, one) for one in deposits))
    assert sum(isinstance(answer, Deposited) for answer in answers) == 3
    assert len(market.chain.sent) == 3


async def test_g1_a_restart_forgets_nothing_of_what_was_spent(market: Marketplace) -> None:
    for number in range(3):
        await deposit(market, number=number)
    async with marketplace(market.disk, gas=GasLimits(deposits_per_payer_hour_max=3)) as restarted:
        spent(await deposit(restarted, number=3))


async def test_g1_what_was_sent_anew_hides_nothing_that_is_older_after_a_restart(market: Marketplace) -> None:
    """A superseded transaction keeps its place in the outbox when it is sent again, and is its youngest then."""
    for number in range(2):
        await deposit(market, number=number)
    first = await market.outbox.by_reference(TransactionKind.DEPOSIT, market.chain.sent[0].reference)
    assert first is not None
    await market.outbox.update(replace(first, created_at=NOW_S + 600))
    meter = GasMeter(lambda: NOW_S + 700)
    await meter.load(market.outbox, NETWORK)
    assert meter.spent(TransactionKind.DEPOSIT) == 2 * EACH
    meter._clock = lambda: NOW_S + HOUR_S
    assert meter.spent(TransactionKind.DEPOSIT) == EACH, "an hour later the other one still counted"


async def test_g1_an_account_that_never_paid_is_told_to_withdraw_on_chain(market: Marketplace) -> None:
    await market.fund(ALICE, AMOUNT, NEWS)
    held = await market.batcher.reserve(ALICE.payment(1, 10, ceiling=10))
    assert not isinstance(held, Refusal)
    answer = await refund(market)
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.field, answer.got) == (Reason.REFUND_WITHOUT_PAYMENT, "account_id", "charged 0")
    assert "initiateWithdraw" in answer.message
    assert market.account(ALICE).refund is None
    assert not market.chain.sent
    await market.charge(ALICE, 1, ceiling=11)
    assert isinstance(await refund(market), Refunded), "whoever has paid is refunded"


async def test_g1_deposit_refund_and_a_new_salt_in_a_loop_costs_the_operator_little() -> None:
    """The attack: the same money goes round. Without payments there is no refund, with them there is an end."""
    async with marketplace(gas=GasLimits()) as market:
        for number in range(50):
            await deposit(market, ALICE, number)
            await refund(market, ALICE, number)
        limits = market.budget.limits
        assert len(market.chain.sent) <= limits.deposits_per_payer_hour_max + limits.refunds_per_payer_hour_max
        assert market.chain.gas.spent(TransactionKind.REFUND) == 0


async def test_g1_a_payer_has_a_few_refunds_an_hour_over_all_of_its_accounts(market: Marketplace) -> None:
    await paid(market)
    assert isinstance(await refund(market, number=0), Refunded)
    for number in (1, 2):
        on_chain = market.chain.escrowed[ALICE.account_id]
        await market.writer.run(_end)
        assert on_chain.refund_nonce == number
        answer = await refund(market, number=number)
        assert isinstance(answer, Refunded) == (number < 2)
    refused = spent(answer)
    assert (refused.field, refused.allowed) == ("refunds", "at most 2 for each payer")
    assert market.account(ALICE).refund is None, "nothing is journaled that would have to be sent"
    bob = Payer("bob")
    await paid(market, bob)
    assert isinstance(await refund(market, bob), Refunded)


def _end(draft: Draft, _ledger: Ledger, _moment: DecisionContext) -> None:
    """End what is under way, as the watcher does when it is final."""
    account = draft.account(ALICE.account_id)
    assert account is not None
    if account.refund is not None:
        accounts.end_refund(draft, ALICE.account_id, account.refund.refund_id)


async def test_g1_strangers_use_up_their_part_of_the_budget_and_leave_the_rest_to_who_has_paid(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "tallystick.alarm")
    budget = 1_000_000
    async with marketplace(gas=GasLimits(deposit_gas_per_hour_max=budget)) as market:
        await paid(market)
        answers = [await deposit(market, Payer(f"stranger {number}")) for number in range(20)]
        refused = spent(answers[-1])
        assert refused.field == "deposit_gas"
        assert refused.allowed == f"at most {budget * STRANGERS_PERCENT // 100} for accounts that have not paid yet"
        used = market.chain.gas.spent(TransactionKind.DEPOSIT)
        assert used <= budget * STRANGERS_PERCENT // 100
        alarms = [record.getMessage() for record in caplog.records if record.name == "tallystick.alarm"]
        assert len(alarms) == 1, "once, not for each that is refused"
        assert str(used) in alarms[0]
        assert str(budget) in alarms[0]
        assert list(market.budget.problems()) == alarms
        assert isinstance(await deposit(market, ALICE), Deposited), "an account that pays is topped up"

        market.chain.now_s += HOUR_S
        assert not market.budget.problems()
        assert isinstance(await deposit(market, Payer("stranger 30")), Deposited)


async def test_g1_the_budget_holds_for_whoever_pays_too_and_for_refunds() -> None:
    async with marketplace(gas=GasLimits(refund_gas_per_hour_max=400_000)) as market:
        payers = [Payer(f"payer {number}") for number in range(8)]
        for payer in payers:
            await paid(market, payer)
        answers = [await refund(market, payer) for payer in payers]
        assert sum(isinstance(answer, Refunded) for answer in answers) == 4
        assert market.chain.gas.spent(TransactionKind.REFUND) == 4 * EACH
        assert spent(answers[-1]).field == "refund_gas"
        assert isinstance(await deposit(market, payers[-1]), Deposited), "each kind has its own"


@pytest.mark.parametrize("by", ["the payer, who asks again", "the timer"])
async def test_g1_what_was_journaled_is_sent_whatever_the_budget_says(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """A refund that was started counts as `refunding` until it lands: leaving it would lock the payer's money."""

    async def unavailable(*_arguments: object, **_keywords: object) -> None:
        raise ChainUnavailableError("no endpoint answers")

    async with marketplace(gas=GasLimits(refund_gas_per_hour_max=150_000)) as market:
        await paid(market)
        with monkeypatch.context() as patched:
            patched.setattr(market.chain, "send", unavailable)
            assert isinstance(await refund(market), Refusal)
        assert market.account(ALICE).refunding == 1_000
        bob, carol = Payer("bob"), Payer("carol")
        for payer in (bob, carol):
            await paid(market, payer)
        assert isinstance(await refund(market, bob), Refunded)
        assert spent(await refund(market, carol)).allowed == "at most 150000"
        if by == "the timer":
            await market.refunds.resume()
        assert isinstance(await refund(market), Refunded)
        assert len(market.chain.sent) == 2


async def test_g1_exact_payments_have_a_budget_that_verify_knows_of() -> None:
    async with marketplace(gas=GasLimits(exact_gas_per_hour_max=300_000)) as market:
        market.chain.balances[ALICE.signer.address] = 10_000
        assert await market.exact.is_offered(NETWORK)
        settled = [await market.exact.settle(EXACT_TERMS, transfer_of(ALICE, number)) for number in range(5)]
        assert [isinstance(answer, Settled) for answer in settled] == [True, True, True, False, False]
        assert spent(settled[-1]).field == "exact_gas"
        spent(await market.exact.verify(EXACT_TERMS, transfer_of(ALICE, 7)))
        assert not await market.exact.is_offered(NETWORK), "no seller is told to ask for it"
        assert isinstance(await market.exact.settle(EXACT_TERMS, transfer_of(ALICE, 1)), Settled), "told as ever"
        market.chain.now_s += HOUR_S
        assert isinstance(await market.exact.verify(EXACT_TERMS, transfer_of(ALICE, 7)), Verified)


async def test_g1_claims_are_counted_and_stopped_by_nothing() -> None:
    async with marketplace(gas=GasLimits(200_000, 200_000, 200_000)) as market:
        for number in range(5):
            call = market.chain._call(NEWS, lambda: 0, NEWS)
            sent = await market.chain.send(Send(TransactionKind.CLAIM, b"%d" % number, call))
            await market.chain.wait(sent, timeout_s=1)
        assert market.chain.gas.spent(TransactionKind.CLAIM) == 5 * EACH
        assert not market.budget.problems()
