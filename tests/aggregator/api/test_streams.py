import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import pytest
from doubles import MUSIC, NEWS, Payer
from marketplace import PRICE
from serving_twin import Edge, charge_of

from tallystick.amounts import decode_amount
from tallystick.reasons import Reason
from tallystick.v1 import charge_pb2
from tallystick_aggregator.api.grpc.charge import ChargeLimits
from tallystick_aggregator.auth.credentials import Scope

ALICE = Payer("alice")
KEY = ALICE.spend_key()


def batch(seq: int, numbers: Sequence[int], receiver: bytes = NEWS) -> charge_pb2.StreamChargesRequest:
    """Payments by spend key; the first batch raises the ceiling."""
    payments = [ALICE.payment(n, PRICE, ceiling=10**9, key=KEY, receiver=receiver) for n in numbers]
    return charge_pb2.StreamChargesRequest(seq=seq, charges=[charge_of(payment) for payment in payments])


async def fund(edge: Edge) -> None:
    await edge.market.fund(ALICE, 10**9, NEWS, MUSIC)
    from tallystick_aggregator.ledger import accounts  # noqa: PLC0415

    await edge.market.writer.run(
        lambda draft, _, moment: accounts.register_spend_key(draft, ALICE.account_id, KEY, moment, edge.market.rules)
    )


class Gate:
    """Lets a test hold the batcher, and see how many batches are in it."""

    def __init__(self, edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inside = 0
        self.open = asyncio.Event()
        self._charge: Callable[..., Awaitable[Any]] = edge.market.batcher.start
        monkeypatch.setattr(
            edge.market.batcher, "start", lambda *arguments: asyncio.create_task(self.charge(*arguments))
        )

    async def charge(self, payments: Sequence[Any], released: Callable[[], None]) -> Any:
        self.inside += 1
        try:
            await self.open.wait()
            return await self._charge(payments)
        finally:
            self.inside -= 1
            released()

    async def holds(self, count: int) -> None:
        """Wait until so many batches are inside, and no more come."""
        async with asyncio.timeout(5):
            while self.inside < count:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert self.inside == count


async def test_batches_are_answered_in_order_each_charge_in_its_place(edge: Edge) -> None:
    await fund(edge)
    stream = edge.charges.StreamCharges(metadata=edge.news)
    for seq in range(20):
        await stream.write(batch(1_000 + seq, range(seq * 10, seq * 10 + 10)))
    await stream.done_writing()
    answers = [answer async for answer in stream]
    assert [answer.seq for answer in answers] == list(range(1_000, 1_020))
    charged = [decode_amount(result.charged, "") for answer in answers for result in answer.results]
    assert charged == [PRICE * n for n in range(1, 201)]
    assert edge.market.channel(ALICE).charged == 200 * PRICE


async def test_each_charge_of_a_batch_stands_for_itself(edge: Edge) -> None:
    await fund(edge)
    request = batch(1, [1, 2, 3])
    request.charges[1].spend_proof.mac = bytes(32)
    request.charges.extend(batch(0, [4], MUSIC).charges)
    request.charges.extend(batch(0, [1]).charges)
    stream = edge.charges.StreamCharges(metadata=edge.news)
    await stream.write(request)
    answer = await stream.read()
    assert [result.accepted for result in answer.results] == [True, False, True, False, True]
    assert answer.results[1].refusal.reason == Reason.SPEND_KEY_PROOF
    assert answer.results[3].refusal.reason == Reason.CHANNEL_UNKNOWN
    assert answer.results[4].replayed
    await stream.done_writing()


async def test_a_malformed_batch_ends_the_stream_after_those_before_it_are_answered(edge: Edge) -> None:
    await fund(edge)
    stream = edge.charges.StreamCharges(metadata=edge.news)
    await stream.write(batch(1, [1]))
    bad = batch(2, [2, 3])
    bad.charges[1].payment_id = b"short"
    await stream.write(bad)
    assert (await stream.read()).seq == 1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stream.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(refused.value.details()).startswith("charges[1].payment_id: got ")
    assert edge.market.channel(ALICE).charged == PRICE


@pytest.mark.parametrize("count", [0, 257])
async def test_a_batch_of_none_or_too_many_is_malformed(edge: Edge, count: int) -> None:
    stream = edge.charges.StreamCharges(metadata=edge.news)
    await stream.write(batch(1, range(count)))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stream.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(refused.value.details()).startswith("charges: got ")


async def test_a_stream_is_not_read_beyond_its_unanswered_batches(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    await fund(edge)
    gate = Gate(edge, monkeypatch)
    stream = edge.charges.StreamCharges(metadata=edge.news)
    for seq in range(20):
        await stream.write(batch(seq, [seq]))
    await gate.holds(8)
    gate.open.set()
    assert [(await stream.read()).seq for _ in range(20)] == list(range(20))
    await stream.done_writing()


async def test_streams_share_what_the_intake_takes_and_wait_for_it_in_turn(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fund(edge)
    gate = Gate(edge, monkeypatch)
    edge.services.charge._room._left = 20
    first = edge.charges.StreamCharges(metadata=edge.news)
    second = edge.charges.StreamCharges(metadata=edge.news)
    await first.write(batch(1, range(16)))
    await gate.holds(1)
    await second.write(batch(2, range(16, 32)))
    await gate.holds(1)
    gate.open.set()
    assert len((await first.read()).results) == len((await second.read()).results) == 16
    await first.done_writing()
    await second.done_writing()
    assert await first.read() is await second.read() is grpc.aio.EOF
    assert edge.services.charge._room.left == 20


async def test_a_stream_that_is_cut_gives_its_room_and_its_place_back(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fund(edge)
    service, room = edge.services.charge, edge.services.charge._room.left
    gate = Gate(edge, monkeypatch)
    stream = edge.charges.StreamCharges(metadata=edge.news)
    for seq in range(12):
        await stream.write(batch(seq, [seq]))
    await gate.holds(8)
    stream.cancel()
    async with asyncio.timeout(5):
        while service._streams or service._room.left != room or gate.inside:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


async def test_streams_are_limited_per_seller_and_in_all(opened: Any) -> None:
    limits = ChargeLimits(streams_per_seller_max=2, streams_max=3)
    async with opened(limits) as edge:
        await fund(edge)

        async def use(metadata: Any, receiver: bytes = NEWS, number: int = 0) -> Any:
            stream = edge.charges.StreamCharges(metadata=metadata)
            await stream.write(batch(1, [number], receiver))
            await stream.read()
            return stream

        streams = [await use(edge.news, number=n) for n in range(2)]
        for metadata, sentence in ((edge.news, "at most 2 streams per token"),):
            with pytest.raises(grpc.aio.AioRpcError, match=sentence):
                await use(metadata)
        streams.append(await use(edge.music, MUSIC, 7))
        with pytest.raises(grpc.aio.AioRpcError, match="at most 3 streams in all") as refused:
            await use(edge.token("third", Scope.CHARGE))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await streams[0].done_writing()
        assert await streams[0].read() is grpc.aio.EOF
        assert await use(edge.news, number=9)


async def test_an_idle_stream_is_closed(opened: Any) -> None:
    async with opened(ChargeLimits(stream_idle_s=0.05)) as edge:
        stream = edge.charges.StreamCharges(metadata=edge.news)
        with pytest.raises(grpc.aio.AioRpcError) as closed:
            await asyncio.wait_for(stream.read(), 5)
        assert closed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "idle" in str(closed.value.details())


async def test_a_revoked_token_ends_its_open_streams(edge: Edge) -> None:
    await fund(edge)
    token = edge.token("passing", Scope.CHARGE)
    stream = edge.charges.StreamCharges(metadata=token)
    await stream.write(batch(1, [1]))
    assert (await stream.read()).results[0].accepted
    edge.credentials.revoke("passing")
    await stream.write(batch(2, [2]))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stream.read()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert edge.market.channel(ALICE).charged == PRICE


async def test_streams_end_with_the_server_when_what_they_sent_is_answered(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fund(edge)
    gate = Gate(edge, monkeypatch)
    busy, idle = (edge.charges.StreamCharges(metadata=edge.news) for _ in range(2))
    await busy.write(batch(1, [1]))
    await gate.holds(1)
    async with asyncio.timeout(5):
        while len(edge.services.charge._open) < 2:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)
    edge.services.charge.finish_streams()
    with pytest.raises(grpc.aio.AioRpcError, match="stopping"):
        await idle.read()
    gate.open.set()
    assert (await busy.read()).results[0].accepted
    with pytest.raises(grpc.aio.AioRpcError, match="stopping") as ended:
        await busy.read()
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
