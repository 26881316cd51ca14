"""Strangers' calls take few seats and little time, whatever they do; sellers pass."""

import asyncio
from typing import Any

import grpc
import pytest
from doubles import NEWS
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from marketplace import PRICE
from serving_twin import Edge, Metadata, charge_of
from wire import ALICE

from tallystick.v1 import account_pb2, charge_pb2
from tallystick_aggregator.api.grpc import concurrency_limits

SEATS = 4
CHARGE = "/tallystick.v1.ChargeService/Charge"


@pytest.fixture(autouse=True)
def _few_seats(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STRANGERS_MAX", "PROBES_MAX", "WATCHES_MAX"):
        monkeypatch.setattr(concurrency_limits, name, SEATS)


async def must_charge(edge: Edge, number: int = 1) -> None:
    request = charge_pb2.ChargeRequest(charge=charge_of(ALICE.payment(number, PRICE, ceiling=number * PRICE)))
    assert (await edge.charges.Charge(request, metadata=edge.news, timeout=5)).result.accepted


async def code_of(call: Any) -> grpc.StatusCode:
    return await asyncio.wait_for(call.code(), 5)


async def watch(edge: Edge) -> Any:
    call = health_pb2_grpc.HealthStub(edge.channel).Watch(health_pb2.HealthCheckRequest())
    await call.read()
    return call


def open_and_say_nothing(edge: Edge, method: str, metadata: Metadata = ()) -> Any:
    """What a library for unary calls would not do: send the headers and no request."""
    return edge.channel.stream_unary(method)(metadata=metadata)


async def test_watches_and_reflections_take_a_few_seats_and_leave_the_rest(edge: Edge) -> None:
    await edge.market.fund(ALICE, 10_000, NEWS)
    watches = [await watch(edge) for _ in range(SEATS)]
    one_more = health_pb2_grpc.HealthStub(edge.channel).Watch(health_pb2.HealthCheckRequest())
    assert await code_of(one_more) is grpc.StatusCode.RESOURCE_EXHAUSTED
    reflecting = reflection_pb2_grpc.ServerReflectionStub(edge.channel).ServerReflectionInfo()
    assert await code_of(reflecting) is grpc.StatusCode.RESOURCE_EXHAUSTED
    await must_charge(edge)
    watches.pop().cancel()
    await asyncio.sleep(0.1)  # the server hears of it
    await watch(edge)


async def test_a_watch_ends_and_may_be_called_again(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency_limits, "WATCH_S_MAX", 0.05)
    for _ in range(2 * SEATS):
        assert await code_of(await watch(edge)) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer nobody"),)])
async def test_a_stranger_that_opens_calls_and_says_nothing_takes_few_seats_and_loses_them(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, metadata: Metadata
) -> None:
    monkeypatch.setattr(concurrency_limits, "REQUEST_S_MAX", 0.3)
    await edge.market.fund(ALICE, 10_000, NEWS)
    silent = [open_and_say_nothing(edge, CHARGE, metadata) for _ in range(SEATS + 3)]
    codes = [await code_of(call) for call in silent]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3
    assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) == SEATS
    await must_charge(edge)


async def test_a_seller_that_opens_calls_and_says_nothing_takes_few_seats_and_still_charges(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency_limits, "REQUEST_S_MAX", 0.3)
    monkeypatch.setattr(concurrency_limits, "SILENT_MAX", SEATS)
    monkeypatch.setattr(concurrency_limits, "SELLER_CALLS_MAX", SEATS)
    await edge.market.fund(ALICE, 10_000, NEWS)
    await must_charge(edge)
    endless = [open_and_say_nothing(edge, CHARGE, edge.news) for _ in range(SEATS)]
    await asyncio.sleep(0.1)
    silent = [open_and_say_nothing(edge, CHARGE, edge.news) for _ in range(SEATS + 3)]
    codes = [await code_of(call) for call in silent]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3
    assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) == SEATS
    assert not any(call.done() for call in endless), "what was let pass cannot be taken back"
    await must_charge(edge, 2)
    for call in endless:
        call.cancel()


async def test_a_seller_may_open_any_number_of_calls_that_say_what_they_want(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency_limits, "SILENT_MAX", 1)
    monkeypatch.setattr(concurrency_limits, "SELLER_CALLS_MAX", 0)
    await edge.market.fund(ALICE, 10_000, NEWS)
    for number in range(1, 2 * SEATS):
        await must_charge(edge, number)


async def test_a_silent_watch_loses_its_seat(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency_limits, "REQUEST_S_MAX", 0.1)
    call = edge.channel.stream_stream("/grpc.health.v1.Health/Watch")()
    assert await code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_payers_and_probes_are_answered_as_ever(edge: Edge) -> None:
    for _ in range(2 * SEATS):
        checked = await health_pb2_grpc.HealthStub(edge.channel).Check(health_pb2.HealthCheckRequest())
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await edge.accounts.GetAccount(account_pb2.GetAccountRequest())
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        ended = open_and_say_nothing(edge, "/tallystick.v1.AccountService/GetAccount")
        await ended.done_writing()
        assert await code_of(ended) is grpc.StatusCode.INVALID_ARGUMENT
    await reflects(edge)


async def reflects(edge: Edge) -> None:
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answers = [
        answer async for answer in reflection_pb2_grpc.ServerReflectionStub(edge.channel).ServerReflectionInfo(requests)
    ]
    assert len(answers) == 1
