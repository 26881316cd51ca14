import asyncio

import pytest
from doubles import NEWS, Payer, PureLedger
from hypothesis import given
from hypothesis import strategies as st
from running import running

from tallystick_aggregator.api.grpc.charge import Backpressure, ChargeLimits, ChargeService
from tallystick_aggregator.auth.credentials import Principal, Principals, Scope
from tallystick_aggregator.charging import UncheckedPayment


async def test_room_is_given_in_the_order_in_which_it_was_asked_for() -> None:
    room = Backpressure(10)
    await room.take(10)
    order: list[int] = []

    async def ask(number: int, count: int) -> None:
        await room.take(count)
        order.append(number)

    waiting = [asyncio.create_task(ask(number, count)) for number, count in enumerate((8, 1, 1))]
    await asyncio.sleep(0)
    room.give(2)
    await asyncio.sleep(0)
    assert order == []  # the first waits for more, and nobody overtakes it
    room.give(8)
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2]
    assert room.left == 0


async def test_one_who_goes_away_leaves_no_gap() -> None:
    room = Backpressure(4)
    await room.take(4)
    first, second = asyncio.create_task(room.take(4)), asyncio.create_task(room.take(4))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    room.give(4)
    await second
    assert room.left == 0
    room.give(4)
    assert room.left == 4


async def test_one_who_goes_away_after_its_turn_came_gives_it_back() -> None:
    room = Backpressure(1)
    await room.take(1)
    waiting = asyncio.create_task(room.take(1))
    await asyncio.sleep(0)
    room.give(1)  # its turn, which it does not know of yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert room.left == 1


@given(st.lists(st.tuples(st.integers(1, 7), st.booleans()), max_size=40))
async def test_room_is_neither_lost_nor_made(askers: list[tuple[int, bool]]) -> None:
    room = Backpressure(7)

    async def use(count: int) -> None:
        await room.take(count)
        try:
            assert room.left >= 0
            await asyncio.sleep(0)
        finally:
            room.give(count)

    tasks = [asyncio.create_task(use(count)) for count, _ in askers]
    await asyncio.sleep(0)
    for task, (_, leaves) in zip(tasks, askers, strict=True):
        if leaves:
            task.cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert room.left == 7


async def test_a_stream_that_hangs_up_keeps_its_room_until_the_intake_is_done_with_it() -> None:
    """Else those that send and hang up would fill the batcher past the streams' share of it."""
    books, alice = PureLedger(), Payer("alice")
    books.fund(alice, 10**9)
    key = alice.spend_key()
    books.register(alice, key)
    numbers = iter(range(1_000))

    def batch() -> list[UncheckedPayment]:
        return [alice.payment(next(numbers), 1, ceiling=10_000, key=key) for _ in range(10)]

    async with running(books) as shop:
        principal = Principal("news", frozenset({NEWS}), frozenset({Scope.CHARGE}))
        service = ChargeService(Principals(lambda _: principal), shop.batcher, shop.writer, ChargeLimits())
        room = service._room.left
        shop.journal.hold()
        first = await service.start_batch("token", batch())
        await shop.journal.appending.wait()
        under_way = await service.start_batch("token", batch())
        await shop.settle_down()
        waiting = await service.start_batch("token", batch()[:5])

        under_way.cancel()
        waiting.cancel()
        await shop.settle_down()
        assert room - service._room.left == shop.batcher.inside == 25

        shop.journal.let_go()
        await first
        await shop.settle_down()
        assert (service._room.left, shop.batcher.inside) == (room, 0)
