"""The order of decisions: nothing that is screened faster overtakes an honest voucher until it counts as used."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from doubles import NEWS, Payer, PureLedger
from running import Scripted, running

from tallystick_aggregator.charging import UncheckedPayment
from tallystick_aggregator.charging.batcher import BATCH_MAX
from tallystick_aggregator.charging.signatures import AuthorizerKeys, SignatureCheck, check_signatures
from tallystick_aggregator.ledger.answers import Accepted, Held, Refusal
from tallystick_aggregator.ledger.ceilings import USED_CEILINGS_MAX
from tallystick_aggregator.ledger.commands import Rules

ALICE = Payer("alice")


class HeldBack:
    """Checks on the event loop, but a batch with one of these ceilings only when the test sets its event."""

    def __init__(self, *ceilings: int) -> None:
        self._keys = AuthorizerKeys()
        self.events = {ceiling: asyncio.Event() for ceiling in ceilings}

    async def check(self, checks: Sequence[SignatureCheck]) -> Sequence[bool]:
        for check in checks:
            if check.ceiling in self.events:
                await self.events[check.ceiling].wait()
        return check_signatures(checks, self._keys)

    def close(self) -> None:
        """Nothing to let go of."""


@pytest.fixture
async def shop() -> AsyncIterator[Scripted]:
    books = PureLedger(Rules(reservations_per_channel_max=1_000))
    books.fund(ALICE, 10**9, NEWS)
    async with running(books) as shop:
        yield shop


def hold_back(shop: Scripted, monkeypatch: pytest.MonkeyPatch, *ceilings: int) -> HeldBack:
    checker = HeldBack(*ceilings)
    monkeypatch.setattr(shop.batcher, "_signatures", checker)
    return checker


def payment(number: int) -> UncheckedPayment:
    return ALICE.payment(number, 1, ceiling=10_000 + number)


def unproven(number: int) -> UncheckedPayment:
    return payment(number)._replace(signature=bytes(65))


async def started(shop: Scripted, payments: Sequence[UncheckedPayment]) -> "asyncio.Future[list[Accepted | Refusal]]":
    answer = shop.batcher.start(payments)
    await shop.settle_down()
    return answer


async def test_a6_an_honest_voucher_is_not_taken_for_used_past_batches_with_nothing_proven(
    shop: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow batch, one with nothing proven, and then more vouchers than a channel remembers."""
    checker = hold_back(shop, monkeypatch, 10_000)
    first = await started(shop, [payment(0)])
    nothing = [await started(shop, [unproven(1_000 + at) for at in range(BATCH_MAX)]) for _ in range(2)]
    assert all(answer.done() for answer in nothing), "what is not proven is answered at once"
    later = [await started(shop, [payment(1 + at * BATCH_MAX + n) for n in range(BATCH_MAX)]) for at in range(2)]
    assert 2 * BATCH_MAX > USED_CEILINGS_MAX
    assert not any(answer.done() for answer in (first, *later))

    checker.events[10_000].set()

    assert await first == [Accepted(1, 1, replayed=False)]
    for answer in later:
        assert all(isinstance(one, Accepted) for one in await answer)


async def test_a6_turns_come_in_order_whichever_batch_is_screened_first(
    shop: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = [10_000, 10_000 + BATCH_MAX, 10_000 + 2 * BATCH_MAX]
    checker = hold_back(shop, monkeypatch, *slow)
    answers = [await started(shop, [payment(at * BATCH_MAX + n) for n in range(BATCH_MAX)]) for at in range(3)]
    for ceiling in reversed(slow):
        assert not shop.charges
        checker.events[ceiling].set()
        await shop.settle_down()
    for answer in answers:
        assert all(isinstance(one, Accepted) for one in await answer)
    assert [charge.used_ceiling for charge in shop.charges] == [10_000 + n for n in range(3 * BATCH_MAX)]


async def test_a6_reservations_do_not_overtake_a_charge_by_voucher(
    shop: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They came later, and are more than a channel remembers."""
    checker = hold_back(shop, monkeypatch, 10_000)
    first = await started(shop, [payment(0)])
    holding = [asyncio.create_task(shop.batcher.reserve(payment(1 + n))) for n in range(USED_CEILINGS_MAX + 1)]
    await shop.settle_down()
    assert not any(task.done() for task in holding)

    checker.events[10_000].set()

    assert await first == [Accepted(1, 1, replayed=False)]
    assert all(isinstance(answer, Held) for answer in await asyncio.gather(*holding))


async def test_a6_a_reservation_that_is_given_up_or_proves_nothing_passes_its_turn_on(
    shop: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    checker = hold_back(shop, monkeypatch, 10_000, 10_001)
    first = await started(shop, [payment(0)])
    given_up = asyncio.create_task(shop.batcher.reserve(payment(1)))
    await shop.settle_down()
    junk = asyncio.create_task(shop.batcher.reserve(unproven(2)))
    await shop.settle_down()
    held = asyncio.create_task(shop.batcher.reserve(payment(3)))
    await shop.settle_down()
    assert isinstance(await junk, Refusal)
    given_up.cancel()
    await shop.settle_down()
    assert not held.done(), "it still waits for the first"

    checker.events[10_000].set()

    assert await first == [Accepted(1, 1, replayed=False)]
    assert isinstance(await held, Held)
    assert given_up.cancelled()
