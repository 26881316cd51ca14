"""Charges over one stream: batched, bounded, matched, and sent again when the stream breaks."""

import asyncio
import logging
from typing import Any

import pytest

from tallystick import payment_ids
from tallystick.errors import MalformedError, RefusedError
from tallystick_client.rpc import AggregatorUnavailableError, CallRejectedError
from tallystick_client.seller import Charge, Charged, ChargeStream


def charge(amount: int = 5, payment_id: bytes = b"") -> Charge:
    return Charge(bytes(32), payment_id or payment_ids.new(), amount, bytes(32))


async def test_many_charges_share_a_stream_and_travel_in_batches(aggregator: Any, fake: Any) -> None:
    async with aggregator.stream_charges() as stream:
        charged = await asyncio.gather(*(stream.charge(charge()) for _ in range(50)))
    assert sorted(one.charged for one in charged) == [5 * n for n in range(1, 51)]
    assert fake.open_streams == 1
    assert max(len(batch.charges) for batch in fake.batches) == 4, "as many as the aggregator allows"
    assert len(fake.batches) < 50


async def test_each_charge_gets_its_own_answer(aggregator: Any) -> None:
    async with aggregator.stream_charges() as stream:
        once = charge(7)
        results = await asyncio.gather(
            stream.charge(charge(666)), stream.charge(once), stream.charge(once), return_exceptions=True
        )
    assert isinstance(results[0], RefusedError)
    assert results[1:] == [Charged(7, replayed=False), Charged(7, replayed=True)]


async def test_no_more_batches_are_unanswered_than_the_aggregator_allows(
    aggregator: Any, fake: Any, until: Any
) -> None:
    fake.stream_gate = asyncio.Event()
    async with aggregator.stream_charges() as stream:
        calls = [asyncio.create_task(stream.charge(charge())) for _ in range(40)]
        await until(lambda: len(fake.batches) == 2)
        await aggregator.charge(charge())  # a whole call later
        assert len(stream._unanswered) == len(fake.batches) == 2
        fake.stream_gate.set()
        await asyncio.gather(*calls)


async def test_charges_wait_outside_when_the_stream_is_full(fake: Any, running: Any, until: Any) -> None:
    async with running.client() as client:
        whole = client.stream_charges()
        stream = ChargeStream(whole._open_stream, whole._limits, timeout_s=2.0, waiting_max=3)
        fake.stream_gate = asyncio.Event()
        async with stream:
            calls = [asyncio.create_task(stream.charge(charge())) for _ in range(10)]
            await until(lambda: fake.batches)
            inside = len(stream._waiting) + sum(len(batch.charges) for batch in stream._unanswered.values())
            assert inside == 3
            fake.stream_gate.set()
            await asyncio.gather(*calls)


@pytest.mark.parametrize("how", ["before", "after", "end"])
async def test_a_broken_stream_is_opened_again_and_unanswered_charges_are_sent_again(
    aggregator: Any, fake: Any, how: str
) -> None:
    fake.stream_breaks = ["", how, how]
    async with aggregator.stream_charges() as stream:
        assert await stream.charge(charge()) == Charged(5, replayed=False)
        again = await stream.charge(charge())
    assert again == Charged(10, replayed=how != "before", resent=True)
    assert fake.charged[bytes(32)] == 10, "nothing is charged twice"
    assert fake.open_streams == 3


async def test_a_restarted_aggregator_is_found_again(
    running: Any, fake: Any, restart: Any, until: Any, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "tallystick.seller")
    async with running.client(timeout_s=1.0) as client, client.stream_charges() as stream:
        await stream.charge(charge())
        await running.stop()
        waiting = asyncio.create_task(stream.charge(charge()))
        await until(lambda: "is opened again" in caplog.text)
        again = await restart(fake, running.port)
        async with asyncio.timeout(10):
            assert (await waiting).charged == 10
        await again.stop()


async def test_a_silent_stream_counts_as_broken(running: Any, fake: Any) -> None:
    fake.stream_breaks = ["silent"]
    async with running.client(timeout_s=0.1) as client, client.stream_charges() as stream:
        charged = await stream.charge(charge())
    assert (charged.charged, charged.resent) == (5, True)


async def test_an_idle_stream_does_not(running: Any, fake: Any) -> None:
    async with running.client(timeout_s=0.5) as client, client.stream_charges() as stream:
        await stream.charge(charge())
        idle_since = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < idle_since + 0.8:
            await client.charge(charge())
        await stream.charge(charge())
    assert fake.open_streams == 1


async def test_patience_ends(running: Any) -> None:
    async with running.client(timeout_s=0.2) as client:
        await client.supported()
        await running.stop()
        whole = client.stream_charges()
        impatient = ChargeStream(whole._open_stream, whole._limits, timeout_s=0.2, patience_s=0.2, backoff_s=(0.01,))
        async with impatient as stream:
            with pytest.raises(AggregatorUnavailableError):
                await stream.charge(charge())
            with pytest.raises(AggregatorUnavailableError):
                await stream.charge(charge())


@pytest.mark.parametrize(
    ("how", "message"),
    [("denied", "not yours"), ("short", "fewer or more charges than were sent")],
)
async def test_what_cannot_get_better_ends_the_stream(aggregator: Any, fake: Any, how: str, message: str) -> None:
    fake.stream_breaks = [how] * 10  # gRPC loses the status where a write fails first; then the stream is tried again
    async with aggregator.stream_charges() as stream:
        calls = [asyncio.create_task(stream.charge(charge())) for _ in range(10)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, CallRejectedError) and message in str(result) for result in results)
        with pytest.raises(CallRejectedError):
            await stream.charge(charge())


async def test_an_answer_that_is_no_amount_fails_its_own_charge_only(aggregator: Any, fake: Any) -> None:
    fake.stream_breaks = ["not an amount"]
    async with aggregator.stream_charges() as stream:
        results = await asyncio.gather(*(stream.charge(charge()) for _ in range(3)), return_exceptions=True)
    assert isinstance(results[0], MalformedError)
    assert [result.charged for result in results[1:]] == [10, 15]  # type: ignore[union-attr]


async def test_a_caller_that_gives_up_is_not_charged_for_what_was_not_sent(
    aggregator: Any, fake: Any, until: Any
) -> None:
    fake.stream_gate = asyncio.Event()
    async with aggregator.stream_charges() as stream:
        calls = [asyncio.create_task(stream.charge(charge())) for _ in range(12)]
        await until(lambda: len(stream._unanswered) == 2)
        unsent = [call for call in calls if not call.done()][8:]
        for call in unsent:
            call.cancel()
        fake.stream_gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, Charged) for result in results) == 8
    assert fake.charged[bytes(32)] == 40


async def test_closing_fails_what_waits(aggregator: Any, fake: Any, until: Any) -> None:
    fake.stream_gate = asyncio.Event()
    async with aggregator.stream_charges() as stream:
        calls = [asyncio.create_task(stream.charge(charge())) for _ in range(10)]
        await until(lambda: fake.batches)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, AggregatorUnavailableError) for result in results)
    with pytest.raises(AggregatorUnavailableError, match="closed"):
        await stream.charge(charge())
    fake.stream_gate.set()
