"""Payments through the whole batcher: charged exactly once, in any order, at once or in batches."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from doubles import MUSIC, NEWS, OTHER_PAGE, Payer, PureLedger
from running import Scripted

from tallystick.reasons import Reason
from tallystick_aggregator.charging import UncheckedPayment
from tallystick_aggregator.charging.batcher import BatcherSettings
from tallystick_aggregator.charging.signatures import SignatureCheck, SignatureChecker
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.answers import Accepted, Done, Held, Refusal

TIMES = 50


class SlowSignatures:
    """Checks as another does, but those with one ceiling only once `go_on` is set."""

    def __init__(self, checker: SignatureChecker, slow_ceiling: int) -> None:
        self._checker = checker
        self._slow_ceiling = slow_ceiling
        self.go_on = asyncio.Event()

    async def check(self, checks: Sequence[SignatureCheck]) -> Sequence[bool]:
        if any(check.ceiling == self._slow_ceiling for check in checks):
            await self.go_on.wait()
        return await self._checker.check(checks)

    def close(self) -> None:
        self._checker.close()


def payment_of(payer: Payer, number: int = 1, amount: int = 10) -> UncheckedPayment:
    key = payer.spend_key() if payer.name == "bob" else None
    return payer.payment(number, amount, ceiling=1_000 + number, key=key)


async def test_a_batch_is_answered_in_order_and_committed_once(shop: Scripted, alice: Payer) -> None:
    commits = len(shop.journal.commits)

    answers = await shop.batcher.charge([payment_of(alice, number, amount=number) for number in range(1, 6)])

    assert answers == [Accepted(n, n * (n + 1) // 2, replayed=False) for n in range(1, 6)]
    assert len(shop.journal.commits) == commits + 1


async def test_an_empty_batch_is_answered_by_nothing(shop: Scripted) -> None:
    assert await shop.batcher.charge([]) == []


@pytest.mark.parametrize("who", ["alice", "bob"])
async def test_a_payment_id_sent_many_times_at_once_is_charged_exactly_once(shop: Scripted, who: str) -> None:
    payment = payment_of(Payer(who))

    answers = [answer for (answer,) in await asyncio.gather(*(shop.batcher.charge([payment]) for _ in range(TIMES)))]

    assert answers.count(Accepted(10, 10, replayed=False)) == 1
    assert answers.count(Accepted(10, 10, replayed=True)) == TIMES - 1
    assert len(shop.charges) == 1


@pytest.mark.parametrize("who", ["alice", "bob"])
@pytest.mark.parametrize("batch", [5, 25, TIMES])
async def test_so_it_is_in_batches(shop: Scripted, who: str, batch: int) -> None:
    payment = payment_of(Payer(who))

    batches = await asyncio.gather(*(shop.batcher.charge([payment] * batch) for _ in range(TIMES // batch)))

    answers = [answer for answers in batches for answer in answers]
    assert answers.count(Accepted(10, 10, replayed=False)) == 1
    assert answers.count(Accepted(10, 10, replayed=True)) == TIMES - 1
    assert len(shop.charges) == 1


async def test_duplicates_that_arrive_while_the_first_is_being_stored_get_its_answer(
    shop: Scripted, alice: Payer
) -> None:
    payment = payment_of(alice)
    shop.journal.hold()
    first = asyncio.create_task(shop.batcher.charge([payment]))
    await shop.journal.appending.wait()
    later = [asyncio.create_task(shop.batcher.charge([payment])) for _ in range(TIMES)]
    await shop.settle_down()
    assert not any(task.done() for task in [first, *later])

    shop.journal.let_go()

    assert await first == [Accepted(10, 10, replayed=False)]
    assert await asyncio.gather(*later) == [[Accepted(10, 10, replayed=True)]] * TIMES
    assert len(shop.charges) == 1


@pytest.mark.parametrize("who", ["alice", "bob"])
async def test_a_payment_sent_many_times_to_be_reserved_is_held_once_under_one_handle(shop: Scripted, who: str) -> None:
    payer = Payer(who)

    answers = await asyncio.gather(*(shop.batcher.reserve(payment_of(payer)) for _ in range(TIMES)))

    held = [answer for answer in answers if isinstance(answer, Held) and not answer.replayed]
    assert len(held) == 1
    assert answers.count(Held(b"", 0, replayed=True)) == TIMES - 1
    assert shop.ledger.channels[payer.channel_id()].reserved == 10

    assert await shop.batcher.capture(held[0].handle, 7) == Accepted(7, 7, replayed=False)
    captures = await asyncio.gather(*(shop.batcher.capture(held[0].handle, 7) for _ in range(TIMES)))
    assert captures == [Accepted(7, 7, replayed=True)] * TIMES
    assert await shop.batcher.reserve(payment_of(payer)) == Accepted(7, 7, replayed=True)


async def test_of_a_capture_and_a_release_at_once_one_wins(shop: Scripted, alice: Payer) -> None:
    held = await shop.batcher.reserve(payment_of(alice))
    assert isinstance(held, Held)

    captured, released = await asyncio.gather(shop.batcher.capture(held.handle, 10), shop.batcher.release(held.handle))

    assert captured == Accepted(10, 10, replayed=False)
    assert isinstance(released, Refusal)
    assert await shop.batcher.release(held.handle) == released


async def test_handles_cannot_be_guessed_from_one_another(shop: Scripted, alice: Payer) -> None:
    handles = set()
    for number in range(20):
        held = await shop.batcher.reserve(payment_of(alice, number))
        assert isinstance(held, Held)
        handles.add(held.handle[48:])
        assert len(held.handle) == 64
        assert await shop.batcher.release(held.handle) == Done(replayed=False)

    assert len(handles) == 20


@pytest.mark.parametrize("who", ["alice", "bob"])
@pytest.mark.parametrize("seed", range(3))
async def test_requests_in_flight_in_any_order_all_succeed(shop: Scripted, who: str, seed: int) -> None:
    """64 of a channel are in flight, and of another channel of the same account too, each signed for on its own."""
    payer = Payer(who)
    key = payer.spend_key() if who == "bob" else None
    payments = [
        payer.payment(number, 5, ceiling=64 * 5 + number, key=key, receiver=receiver)
        for receiver in (NEWS, MUSIC)
        for number in range(64)
    ]
    shuffled = random.Random(seed)
    shuffled.shuffle(payments)

    async def send(payment: UncheckedPayment) -> Accepted | Refusal:
        for _ in range(shuffled.randrange(5)):
            await asyncio.sleep(0)
        (answer,) = await shop.batcher.charge([payment])
        return answer

    answers = await asyncio.gather(*map(send, payments))

    assert all(isinstance(answer, Accepted) and not answer.replayed for answer in answers)
    assert {shop.ledger.channels[payer.channel_id(receiver)].charged for receiver in (NEWS, MUSIC)} == {320}
    assert len({answer.charged for answer in answers if isinstance(answer, Accepted)}) == 64


async def test_what_comes_during_a_commit_shares_the_next(shop: Scripted, alice: Payer) -> None:
    shop.journal.hold()
    tasks = [asyncio.create_task(shop.batcher.charge([payment_of(alice, 0)]))]
    await shop.journal.appending.wait()
    commits = len(shop.journal.commits)
    tasks += [asyncio.create_task(shop.batcher.charge([payment_of(alice, number)])) for number in range(1, 40)]
    await shop.settle_down()
    shop.journal.let_go()
    await asyncio.gather(*tasks)

    assert len(shop.charges) == 40
    assert len(shop.journal.commits) - commits == 2, "few wait, and go on together"


@pytest.mark.parametrize("batching", [BatcherSettings(batch_max=2)])  # so that one starts beside another
async def test_batches_are_decided_in_their_order_also_past_one_with_nothing_to_decide(
    shop: Scripted, alice: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, first, later = (payment_of(alice, number) for number in range(3))
    await shop.batcher.charge([known])
    slow = SlowSignatures(shop.batcher._signatures, first.ceiling)
    monkeypatch.setattr(shop.batcher, "_signatures", slow)
    tasks = []
    for payment in (first, known, later):
        tasks.append(asyncio.create_task(shop.batcher.charge([payment])))
        await shop.settle_down()
    assert tasks[1].done(), "a replay needs no decision"
    assert len(shop.charges) == 1, "the later one waits for the first"

    slow.go_on.set()

    assert await tasks[0] == [Accepted(10, 20, replayed=False)]
    assert await tasks[2] == [Accepted(10, 30, replayed=False)]


async def test_the_same_payment_for_another_request_buys_nothing(shop: Scripted, alice: Payer, bob: Payer) -> None:
    """Threat 33: also when both come at once, and when the spend proof is made out for the other request."""
    for payer in (alice, bob):
        first = payment_of(payer)
        key = bob.spend_key() if payer is bob else None
        other = payer.payment(1, 10, ceiling=1_001, key=key, request=OTHER_PAGE)

        answers = await shop.batcher.charge([first, other])
        (again,) = await shop.batcher.charge([other])
        reserved = await shop.batcher.reserve(other)

        assert answers[0] == Accepted(10, 10, replayed=False)
        for refused in (answers[1], again, reserved):
            assert isinstance(refused, Refusal)
            assert (refused.reason, refused.field) == (Reason.PAYMENT_ID_REUSED, "request_hash")
    assert len(shop.charges) == 2


async def test_one_deposit_is_not_spent_twice_by_requests_at_once(shop: Scripted) -> None:
    """Threat 2, over channels and batches that are screened side by side."""
    carol = Payer("carol")
    books = PureLedger()
    books.ledger = shop.ledger
    books.fund(carol, 100, NEWS, MUSIC)
    shop.journal.commits.append(tuple(books.events))

    answers = await asyncio.gather(
        *(
            shop.batcher.charge([carol.payment(number, 9, ceiling=900 + number, receiver=(NEWS, MUSIC)[number % 2])])
            for number in range(30)
        )
    )

    assert sum(isinstance(answer, Accepted) for (answer,) in answers) == 11
    assert shop.ledger.accounts[carol.account_id].committed == 99
    refused = [answer.reason for (answer,) in answers if isinstance(answer, Refusal)]
    assert set(refused) == {Reason.INSUFFICIENT_FUNDS}


async def test_good_and_bad_of_one_batch_are_answered_each(shop: Scripted, alice: Payer, bob: Payer) -> None:
    good = payment_of(alice, 1)
    junk = payment_of(alice, 2)._replace(signature=bytes(65))
    stranger = payment_of(Payer("mallory"), 3)
    key = payment_of(bob, 4)

    answers = await shop.batcher.charge([junk, good, stranger, key])

    assert [type(answer) for answer in answers] == [Refusal, Accepted, Refusal, Accepted]
    assert len(shop.charges) == 2


async def test_a_burst_on_one_channel_journals_its_ceiling_once(shop: Scripted, bob: Payer) -> None:
    key = bob.spend_key()
    payments = [bob.payment(number, 1, ceiling=100 + number, key=key) for number in range(50)]

    assert all(isinstance(answer, Accepted) for answer in await shop.batcher.charge(payments))

    raised = [event for event in shop.journal.events if isinstance(event, ev.CeilingRaised)]
    assert [event.ceiling for event in raised] == [149]
    assert raised[0].signature == bob.voucher(149).signature
