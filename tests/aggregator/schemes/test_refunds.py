import asyncio
from hashlib import sha256

import pytest
from doubles import ESCROW_REF, NEWS, NOW_S, Payer
from failing_disk import CrashedError, Fault, MemoryDisk, Operation
from marketplace import MIN_DEPOSIT, Marketplace, marketplace, signed

from tallystick import eip712
from tallystick.reasons import Reason
from tallystick_aggregator.accounts.refunds import REFUND_BURST, Refunded
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.store.port import TransactionStatus

ALICE = Payer("alice")
FUNDS = 10_000


def refund_id(number: int = 0) -> bytes:
    return sha256(b"refund %d" % number).digest()


async def refund(
    market: Marketplace, amount: int = 0, number: int = 0, payer: Payer = ALICE, signer: Payer | None = None
) -> Refunded | Refusal:
    struct = eip712.hash_request_refund(payer.account_id, refund_id(number), amount, NOW_S + 60)
    return await market.refunds.refund(payer.account_id, refund_id(number), amount, signed(signer or payer, struct))


async def end(market: Marketplace, number: int = 0) -> None:
    """As the watcher does when the refund's nonce has passed in a final block."""
    await market.writer.run(lambda draft, _l, _m: accounts.end_refund(draft, ALICE.account_id, refund_id(number)))


def reason_of(answer: object) -> Reason:
    assert isinstance(answer, Refusal), answer
    return answer.reason


async def test_a_refund_returns_all_that_is_not_owed(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS, NEWS)
    await market.charge(ALICE, 300, ceiling=300)
    answer = await refund(market)
    assert isinstance(answer, Refunded)
    assert (answer.amount, len(answer.transaction)) == (FUNDS - 300, 32)
    assert market.chain.balances[ALICE.config.payer] == FUNDS - 300
    assert market.chain.escrowed[ALICE.account_id].balance == 300
    assert market.account(ALICE).funds == 300


async def test_the_same_refund_id_gets_the_same_answer(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS)
    answers = await asyncio.gather(*(refund(market, 4_000) for _ in range(5)))
    await end(market)
    answers.append(await refund(market, 4_000))
    assert {(answer.transaction, answer.amount) for answer in answers if isinstance(answer, Refunded)} == {
        (market.chain.sent[0].attempts[0].transaction_hash, 4_000)
    }
    assert len(market.chain.sent) == 1


async def test_the_same_refund_id_with_another_amount_is_refused(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS)
    assert isinstance(await refund(market, 4_000), Refunded)
    assert reason_of(await refund(market, 4_001)) is Reason.AMOUNT_MISMATCH


async def test_two_accounts_may_choose_the_same_refund_id(market: Marketplace) -> None:
    bob = Payer("bob")
    await market.fund(ALICE, FUNDS)
    await market.fund(bob, 2 * FUNDS)
    first, second = await refund(market), await refund(market, payer=bob)
    assert isinstance(first, Refunded)
    assert isinstance(second, Refunded)
    assert (first.amount, second.amount) == (FUNDS, 2 * FUNDS)


async def test_a_refund_asked_for_by_someone_else_is_refused(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS)
    assert reason_of(await refund(market, signer=Payer("mallory"))) is Reason.CALL_SIGNATURE
    assert not market.chain.sent


async def test_a_refund_beyond_what_is_available_is_refused(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS, NEWS)
    await market.charge(ALICE, 300, ceiling=300)
    answer = await refund(market, FUNDS - 299)
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.allowed) == (Reason.REFUND_EXCEEDS_AVAILABLE, f"at most {FUNDS - 300}")


async def test_a_second_refund_waits_until_the_first_has_ended(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS)
    assert isinstance(await refund(market, 1_000), Refunded)
    assert reason_of(await refund(market, 1_000, number=1)) is Reason.REFUND_PENDING
    await end(market)
    assert isinstance(await refund(market, 1_000, number=1), Refunded)


@pytest.mark.parametrize(("amount", "taken"), [(1, False), (MIN_DEPOSIT - 1, False), (MIN_DEPOSIT, True)])
async def test_a_refund_has_to_be_worth_its_transaction(market: Marketplace, amount: int, taken: bool) -> None:
    await market.fund(ALICE, FUNDS)
    answer = await refund(market, amount)
    assert isinstance(answer, Refunded) is taken
    if not taken:
        assert isinstance(answer, Refusal)
        assert (answer.reason, answer.field, answer.got) == (Reason.PAYLOAD_INVALID, "amount", str(amount))
        assert not market.chain.sent


@pytest.mark.parametrize("amount", [0, 10])
async def test_an_accounts_rest_is_returned_however_small(market: Marketplace, amount: int) -> None:
    await market.fund(ALICE, FUNDS, NEWS)
    await market.charge(ALICE, FUNDS - 10, ceiling=FUNDS)
    answer = await refund(market, amount)
    assert isinstance(answer, Refunded)
    assert answer.amount == 10


async def test_an_account_is_refunded_a_few_times_at_once_and_then_has_to_wait(market: Marketplace) -> None:
    await market.fund(ALICE, 10 * FUNDS)
    for number in range(REFUND_BURST):
        assert isinstance(await refund(market, 1_000, number), Refunded)
        await end(market, number)
    answer = await refund(market, 1_000, REFUND_BURST)
    assert reason_of(answer) is Reason.OVERLOADED
    assert market.account(ALICE).refund is None
    assert len(market.chain.sent) == REFUND_BURST
    assert isinstance(await refund(market, 1_000), Refunded)  # what was done is told as ever
    bob = Payer("bob")
    await market.fund(bob, FUNDS)
    assert isinstance(await refund(market, payer=bob), Refunded)


async def test_a_refund_that_did_not_begin_does_not_count(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS)
    market.chain.down = True
    for _ in range(2 * REFUND_BURST):
        assert reason_of(await refund(market, 1_000)) is Reason.CHAIN_UNAVAILABLE
    market.chain.down = False
    assert reason_of(await refund(market, FUNDS + 1)) is Reason.REFUND_EXCEEDS_AVAILABLE
    assert isinstance(await refund(market, 1_000), Refunded)


async def test_the_refund_is_journaled_before_the_operator_signs(
    market: Marketplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await market.fund(ALICE, FUNDS)
    refunding: list[int] = []
    sign = market.chain.refund_call

    def watched(*arguments: object) -> object:
        refunding.append(market.account(ALICE).refunding)
        return sign(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(market.chain, "refund_call", watched)
    assert isinstance(await refund(market, 4_000), Refunded)
    assert refunding == [4_000]


async def test_a_refund_that_was_started_and_not_sent_is_sent_after_a_restart() -> None:
    fault = Fault.NONE
    disk = MemoryDisk(plan=lambda operation: fault if operation is Operation.OUTBOX else Fault.NONE)
    async with marketplace(disk) as market:
        await market.fund(ALICE, FUNDS)
        before = market.chain
        fault = Fault.CRASH_BEFORE
        with pytest.raises(CrashedError):
            await refund(market, 4_000)
    fault = Fault.NONE
    async with marketplace(disk) as market:
        market.chain.continue_from(before)
        assert market.account(ALICE).refunding == 4_000
        await market.refunds.resume()
        assert len(market.chain.sent) == 1
        answer = await refund(market, 4_000)
        assert isinstance(answer, Refunded)
        assert (answer.amount, len(market.chain.sent)) == (4_000, 1)


async def test_resuming_sends_nothing_twice_and_survives_a_chain_that_is_down(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS)
    assert isinstance(await refund(market, 1_000), Refunded)
    market.chain.down = True
    await market.refunds.resume()
    market.chain.down = False
    await market.refunds.resume()
    assert len(market.chain.sent) == 1


async def test_a_refund_that_reverted_is_sent_again_because_its_nonce_lets_it_happen_once(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS)
    market.chain.fate = TransactionStatus.REVERTED
    assert reason_of(await refund(market, 1_000)) is Reason.TRANSACTION_FAILED
    market.chain.fate = TransactionStatus.MINED
    assert isinstance(await refund(market, 1_000), Refunded)
    assert market.chain.balances[ALICE.config.payer] == 1_000


async def test_a_refund_that_somebody_else_landed_has_happened(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS)
    market.chain.held = True
    assert reason_of(await refund(market, 1_000)) is Reason.TRANSACTION_PENDING
    market.chain._effects[market.chain.sent[0].data]()
    market.chain.held = False
    answer = await refund(market, 1_000)
    assert isinstance(answer, Refunded)
    assert (answer.transaction, answer.amount) == (b"", 1_000)


async def test_what_is_being_refunded_cannot_be_spent(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS, NEWS)
    market.chain.held = True
    assert reason_of(await refund(market, FUNDS)) is Reason.TRANSACTION_PENDING
    (answer,) = await market.batcher.charge([ALICE.payment(1, 1, ceiling=1)])
    assert reason_of(answer) is Reason.INSUFFICIENT_FUNDS


async def test_an_unknown_account_and_a_stale_mirror_get_no_refund(market: Marketplace) -> None:
    assert reason_of(await refund(market)) is Reason.ACCOUNT_UNKNOWN
    await market.fund(ALICE, FUNDS)
    market.stale.add(ESCROW_REF)
    assert reason_of(await refund(market)) is Reason.CHAIN_STALE


async def test_a_store_that_cannot_be_written_refunds_nothing() -> None:
    broken = False
    disk = MemoryDisk(plan=lambda _: Fault.REFUSED if broken else Fault.NONE)
    async with marketplace(disk) as market:
        await market.fund(ALICE, FUNDS)
        broken = True
        assert reason_of(await refund(market)) is Reason.STORE_UNAVAILABLE
        assert not market.chain.sent
        assert market.account(ALICE).refunding == 0


async def test_a7_a_refund_is_told_as_the_escrow_paid_it_and_alike_when_it_is_asked_for_again(
    market: Marketplace,
) -> None:
    """The account lost some of its money between the journal and the block: the escrow pays what is left."""
    await market.fund(ALICE, FUNDS)
    market.chain.held = True
    assert reason_of(await refund(market, 4_000)) is Reason.TRANSACTION_PENDING
    market.chain.escrowed[ALICE.account_id].balance = 2_500
    market.chain.held = False
    answer = await refund(market, 4_000)
    assert isinstance(answer, Refunded)
    assert (answer.asked, answer.amount, market.chain.balances[ALICE.config.payer]) == (4_000, 2_500, 2_500)
    await end(market)
    again = await refund(market, 4_000)
    assert isinstance(again, Refunded)
    assert (again.transaction, again.amount) == (answer.transaction, 2_500)
    assert reason_of(await refund(market, 2_500)) is Reason.AMOUNT_MISMATCH, "its id stands for what was asked for"
    assert (market.account(ALICE).funds, market.account(ALICE).refunding) == (0, 0)
    async with marketplace(market.disk) as restarted:
        restarted.chain.continue_from(market.chain)
        told = await refund(restarted, 4_000)
        assert isinstance(told, Refunded)
        assert (told.transaction, told.amount) == (answer.transaction, 2_500)


async def test_a7_a_refund_that_somebody_else_landed_is_told_as_it_was_paid(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS)
    market.chain.held = True
    assert reason_of(await refund(market, 4_000)) is Reason.TRANSACTION_PENDING
    market.chain.escrowed[ALICE.account_id].balance = 3_000
    market.chain._effects[market.chain.sent[0].data]()  # somebody saw it and was first: ours will revert
    market.chain.held = False
    answer = await refund(market, 4_000)
    assert isinstance(answer, Refunded)
    assert (answer.transaction, answer.asked, answer.amount) == (b"", 4_000, 3_000)


async def test_a7_a_refund_that_is_not_found_is_not_made_up(market: Marketplace) -> None:
    await market.fund(ALICE, FUNDS)
    market.chain.held = True
    assert reason_of(await refund(market, 4_000)) is Reason.TRANSACTION_PENDING
    market.chain.escrowed[ALICE.account_id].refund_nonce = 1  # long ago
    market.chain.held = False
    answer = await refund(market, 4_000)
    assert reason_of(answer) is Reason.TRANSACTION_FAILED
    assert "Refunded event" in answer.message  # type: ignore[union-attr]
