"""P4: request bodies are read only where they must be known, within limits of size, of memory and of time."""

import asyncio
from typing import Any

import pytest

from tallystick.errors import MalformedError
from tallystick_client import Rule
from tallystick_client.seller.paywall.bodies import Backpressure, Incoming
from tallystick_client.seller.paywall.steps import RoomFullError

PAGE = "/articles/1"


def chunk(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def upload(exchange: Any, shop: Any, headers: dict[str, str], *, sent: bytes, length: int) -> Any:
    """A POST of which only the beginning has come."""
    one = exchange(shop.paywall, PAGE, {**headers, "content-length": str(length)}, method="POST")
    one.incoming.get_nowait()
    one.incoming.put_nowait(chunk(sent, more=len(sent) < length))
    return one


@pytest.mark.parametrize(
    "headers",
    [{}, {"payment-signature": "junk"}, {"payment-signature": "e30="}, {"payment-signature": "A" * 20_000}],
)
async def test_p4_a_body_is_not_read_for_what_is_no_payment(
    open_shop: Any, exchange: Any, headers: dict[str, str]
) -> None:
    shop = open_shop()
    one = await upload(exchange, shop, headers, sent=b"x" * 1_000, length=1_000)
    await one.run()
    assert (one.status, one.incoming.qsize()) == (400 if headers else 402, 1)


async def test_p4_a_body_is_not_read_for_a_payment_that_meets_no_offer(open_shop: Any, exchange: Any) -> None:
    cheap = open_shop(rules=[Rule(path="*", price="0.0009 USDC")])
    payment = cheap.buyer.deferred(await cheap.offer(PAGE), PAGE, method="POST", body=b"x" * 1_000)
    one = await upload(exchange, open_shop(), payment, sent=b"x" * 1_000, length=1_000)
    await one.run()
    assert (one.status, one.incoming.qsize()) == (402, 1)


async def test_p4_no_price_function_reads_a_body_for_what_is_no_payment(open_shop: Any, exchange: Any) -> None:
    shop = open_shop(rules=[Rule(path="*", price=lambda request: f"0.{len(request.body):03} USDC")])
    one = await upload(exchange, shop, {"payment-signature": "junk"}, sent=b"x" * 500, length=500)
    await one.run()
    assert (one.status, one.incoming.qsize()) == (400, 1)
    assert b"PAYMENT-SIGNATURE: got 3 bytes" in one.body


async def test_p4_the_bodies_of_many_connections_take_no_more_memory_than_they_may(
    open_shop: Any, exchange: Any, until: Any
) -> None:
    shop = open_shop(max_body_bytes=100, buffer_bodies_bytes=1_000)
    room: Backpressure = shop.paywall.room
    offer = await shop.offer(PAGE)
    taken: list[int] = []
    waiting: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    for _ in range(200):
        payment = shop.buyer.deferred(offer, PAGE, method="POST", body=b"x" * 100)
        one = await upload(exchange, shop, payment, sent=b"x" * 90, length=100)
        waiting.append(one)
        tasks.append(asyncio.create_task(one.run()))
        await asyncio.sleep(0)
        taken.append(room.bytes_taken)
    await until(lambda: sum(one.status == 503 for one in waiting) == 189)
    assert max(taken) <= 1_000
    refused = next(one for one in waiting if one.status == 503)
    assert (b"retry-after", b"2") in refused.sent[0]["headers"]
    # Who was let in is served, one after the other as there is room.
    for one in waiting:
        if one.status is None:
            one.incoming.put_nowait(chunk(b"x" * 10, more=False))
            await until(lambda one=one: one.status is not None)
    await asyncio.gather(*tasks)
    assert sorted({one.status for one in waiting}) == [200, 503]
    assert sum(one.status == 200 for one in waiting) == 11
    assert room.bytes_taken == 0


async def test_p4_a_body_that_does_not_come_in_time_is_given_up(open_shop: Any, exchange: Any, fake: Any) -> None:
    shop = open_shop(body_patience_s=0.01)
    payment = shop.buyer.deferred(await shop.offer(PAGE), PAGE, method="POST", body=b"x" * 100)
    one = await upload(exchange, shop, payment, sent=b"x" * 90, length=100)
    await one.run()
    assert (one.status, shop.served, fake.calls) == (408, [], ["Supported"])
    assert shop.paywall.room.bytes_taken == 0


@pytest.mark.parametrize("ends", ["disconnect", "hand-over"])
async def test_p4_what_a_body_takes_is_given_back(ends: str) -> None:
    room = Backpressure(10)
    queue: asyncio.Queue[Any] = asyncio.Queue()
    request = Incoming(queue.get, room)
    queue.put_nowait(chunk(b"abc", more=True))
    queue.put_nowait(chunk(b"defg", more=False))
    await request.read_ahead(100)
    assert room.bytes_taken == 7
    with pytest.raises(RoomFullError):
        room.take(4)
    if ends == "hand-over":
        assert (await request.receive())["body"] == b"abcdefg"
        assert room.bytes_taken == 0
    await request.close()
    assert room.bytes_taken == 0


@pytest.mark.parametrize(("name", "value"), [("buffer_bodies_bytes", 9), ("buffer_bodies_bytes", "1")])
def test_p4_memory_for_less_than_one_body_is_refused(open_shop: Any, name: str, value: Any) -> None:
    with pytest.raises(MalformedError, match=rf"^{name}: got .*, allowed an integer of at least 10"):
        open_shop(max_body_bytes=10, **{name: value})


def test_p4_a_body_must_have_some_time_to_arrive(open_shop: Any) -> None:
    with pytest.raises(MalformedError, match=r"^body_patience_s: got 0, allowed more than 0 seconds"):
        open_shop(body_patience_s=0)
