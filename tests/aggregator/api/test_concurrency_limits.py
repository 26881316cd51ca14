"""Strangers' calls take few seats and little time, whatever they do; sellers pass."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from doubles import NEWS
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from marketplace import PRICE
from serving_twin import Edge, Metadata, charge_of, serving
from wire import ALICE

from tallystick.v1 import account_pb2, charge_pb2
from tallystick_aggregator.api.grpc.concurrency_limits import CallLimits

SEATS = 4
FEW = CallLimits(strangers_max=SEATS, probes_max=SEATS, watches_max=SEATS)
CHARGE = "/tallystick.v1.ChargeService/Charge"


@pytest.fixture
def call_limits() -> CallLimits:
    return FEW


@pytest.fixture
async def edge(tmp_path: Path, call_limits: CallLimits) -> AsyncIterator[Edge]:
    """A server with few seats for strangers."""
    async with serving(tmp_path, call_limits=call_limits) as opened:
        yield opened


async def must_charge(edge: Edge, number: int = 1) -> None:
    request = charge_pb2.ChargeRequest(charge=charge_of(ALICE.payment(number, PRICE, ceiling=number * PRICE)))
    assert (await edge.charges.Charge(request, metadata=edge.news, timeout=5)).result.accepted


async def code_of(call: Any) -> grpc.StatusCode:
    return await asyncio.wait_for(call.code(), 5)


async def watch(edge: Edge) -> Any:
    """Watch the health; None where all seats are taken."""
    call = health_pb2_grpc.HealthStub(edge.channel).Watch(health_pb2.HealthCheckRequest())
    return call if await call.read() is not grpc.aio.EOF else None


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
    async with asyncio.timeout(5):
        while await watch(edge) is None:  # the server has to hear of it first
            pass


@pytest.mark.parametrize("call_limits", [replace(FEW, watch_s_max=0.05)])
async def test_a_watch_ends_and_may_be_called_again(edge: Edge) -> None:
    for _ in range(2 * SEATS):
        assert await code_of(await watch(edge)) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("call_limits", [replace(FEW, request_s_max=0.3)])
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer nobody"),)])
async def test_a_stranger_that_opens_calls_and_says_nothing_takes_few_seats_and_loses_them(
    edge: Edge, metadata: Metadata
) -> None:
    await edge.market.fund(ALICE, 10_000, NEWS)
    silent = [open_and_say_nothing(edge, CHARGE, metadata) for _ in range(SEATS + 3)]
    codes = [await code_of(call) for call in silent]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3
    assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) == SEATS
    await must_charge(edge)


@pytest.mark.parametrize("call_limits", [replace(FEW, request_s_max=0.3, silent_max=SEATS, seller_calls_max=SEATS)])
async def test_a_seller_that_opens_calls_and_says_nothing_takes_few_seats_and_still_charges(edge: Edge) -> None:
    await edge.market.fund(ALICE, 10_000, NEWS)
    await must_charge(edge)
    endless = [open_and_say_nothing(edge, CHARGE, edge.news) for _ in range(SEATS)]
    async with asyncio.timeout(5):
        while edge.server.limits.silent["news"] < SEATS:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
    silent = [open_and_say_nothing(edge, CHARGE, edge.news) for _ in range(SEATS + 3)]
    codes = [await code_of(call) for call in silent]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3
    assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) == SEATS
    assert not any(call.done() for call in endless), "what was let pass cannot be taken back"
    await must_charge(edge, 2)
    for call in endless:
        call.cancel()


@pytest.mark.parametrize("call_limits", [replace(FEW, silent_max=1, seller_calls_max=0)])
async def test_a_seller_may_open_any_number_of_calls_that_say_what_they_want(edge: Edge) -> None:
    await edge.market.fund(ALICE, 10_000, NEWS)
    for number in range(1, 2 * SEATS):
        await must_charge(edge, number)


@pytest.mark.parametrize("call_limits", [replace(FEW, request_s_max=0.1)])
async def test_a_silent_watch_loses_its_seat(edge: Edge) -> None:
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
