"""The sellers' typed client: what it sends, what it makes of answers and of failures."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from tallystick import payment_ids
from tallystick.amounts import encode_amount
from tallystick.errors import MalformedError, RefusedError
from tallystick.reasons import Reason
from tallystick.v1 import settlement_pb2
from tallystick_client import Aggregator
from tallystick_client.rpc import AggregatorUnavailableError, CallRejectedError
from tallystick_client.seller import Charge, Charged, LeftOut, SettlementStatus


def charge(amount: int = 5, payment_id: bytes = b"") -> Charge:
    return Charge(bytes(32), payment_id or payment_ids.new(), amount, bytes(32))


async def test_it_connects_when_it_is_first_used(running: Any) -> None:
    client = running.client()
    assert client._connected is None
    supported = await client.supported()
    assert [kind.scheme for kind in supported.kinds] == ["exact", "deferred"]
    assert supported.kinds[1].assets[0].min_deposit == 100_000
    assert supported.limits.charges_per_batch_max == 4
    await client.close()
    await client.close()
    assert (await client.charge(charge())).charged == 5, "a closed client connects again when it is used again"
    await client.close()


def test_it_works_on_one_event_loop_after_another() -> None:
    client = Aggregator("127.0.0.1:1", token="t", timeout_s=0.5)

    async def ask() -> None:
        with pytest.raises(AggregatorUnavailableError):
            await client.supported()
        await client.close()

    async def ask_and_leave_open() -> None:
        with pytest.raises(AggregatorUnavailableError):
            await client.charge(charge())

    asyncio.run(ask_and_leave_open())
    asyncio.run(ask())


async def test_what_is_supported_is_asked_for_once_by_many(aggregator: Any, fake: Any) -> None:
    first, *others = await asyncio.gather(*(aggregator.supported() for _ in range(20)))
    assert all(other is first for other in others)
    assert fake.calls == ["Supported"]


async def test_what_is_supported_is_refreshed_in_the_background(running: Any, fake: Any, until: Any) -> None:
    async with running.client(supported_refresh_s=0.0) as aggregator:
        first = await aggregator.supported()
        fake.limits.reservation_s = 99
        assert await aggregator.supported() is first, "nobody waits for a refresh"
        await until(lambda: aggregator._supported is not first)
        assert (await aggregator.supported()).limits.reservation_s == 99


async def test_an_old_answer_serves_while_the_aggregator_is_away(running: Any, caplog: Any, until: Any) -> None:
    async with running.client(supported_refresh_s=0.0) as aggregator:
        first = await aggregator.supported()
        await running.stop()
        assert await aggregator.supported() is first
        await until(lambda: caplog.text)
        for _ in range(20):
            assert await aggregator.supported() is first
        assert aggregator._connected.refreshing is None
    assert caplog.text.count("asking the aggregator what it supports failed") == 1, "it is not asked at every request"


async def test_a_charge_is_taken_once_however_often_it_is_sent(aggregator: Any, fake: Any) -> None:
    one = charge(5)
    assert await aggregator.charge(one) == Charged(5, replayed=False)
    assert await aggregator.charge(one) == Charged(5, replayed=True)
    assert fake.tokens[-1] == "Bearer seller-token"


async def test_a_refused_charge_raises_its_reason(aggregator: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        await aggregator.charge(charge(666))
    assert caught.value.reason is Reason.INSUFFICIENT_FUNDS


async def test_an_aggregator_that_does_not_answer_in_time_is_unavailable(running: Any, fake: Any) -> None:
    fake.stream_gate = asyncio.Event()
    async with running.client(timeout_s=0.05) as client:
        with pytest.raises(AggregatorUnavailableError) as caught:
            await client.list_settlements()
    assert caught.value.status is grpc.StatusCode.DEADLINE_EXCEEDED


def settlement(number: int, status: int = 3) -> settlement_pb2.Settlement:
    return settlement_pb2.Settlement(
        id=number,
        network="eip155:1",
        transaction=bytes(32),
        status=status,  # type: ignore[arg-type]
        rows=2,
        payouts=[settlement_pb2.Payout(receiver=bytes(20), token=bytes(20), amount=encode_amount(1 << 100))],
    )


async def test_settlements_are_listed_in_pages(aggregator: Any, fake: Any) -> None:
    fake.settlements = [settlement(number) for number in (3, 2, 1)]
    listed = await aggregator.list_settlements(limit=2)
    assert [one.id for one in listed] == [3, 2]
    assert (listed[0].status, listed[0].payouts[0].amount) == (SettlementStatus.FINAL, 1 << 100)
    assert [one.id for one in await aggregator.list_settlements(before_id=2)] == [1]


async def test_a_status_of_a_newer_aggregator_is_unspecified(aggregator: Any, fake: Any) -> None:
    fake.settlements = [settlement(1, status=99)]
    assert (await aggregator.list_settlements())[0].status is SettlementStatus.UNSPECIFIED


async def test_settling_now_answers_settlements_or_raises(aggregator: Any, fake: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        await aggregator.settle_now()
    assert caught.value.reason is Reason.CHAIN_UNAVAILABLE
    fake.settlements = [settlement(1)]
    assert [one.id for one in await aggregator.settle_now()] == [1]


async def test_r12_what_a_settlement_left_out_is_told(aggregator: Any, fake: Any) -> None:
    fake.settlements = [settlement(1)]
    fake.left_out = [
        settlement_pb2.LeftOut(
            network="eip155:1",
            channel_id=b"c" * 32,
            receiver=b"r" * 20,
            token=b"t" * 20,
            amount=b"\x05",
            reason="ZeroAmount()",
        )
    ]
    settled = await aggregator.settle_now()
    assert [one.id for one in settled] == [1]
    assert settled.left_out == [LeftOut("eip155:1", b"c" * 32, b"r" * 20, b"t" * 20, 5, "ZeroAmount()")]


async def test_calls_without_permission_are_rejected(aggregator: Any, fake: Any) -> None:
    fake.settle_trouble = [grpc.StatusCode.PERMISSION_DENIED]
    with pytest.raises(CallRejectedError, match="scope settle is needed"):
        await aggregator.settle_now()


# Tokens.


def test_a_token_is_read_where_it_is_kept(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("SELLER_TOKEN", "from-env\n")
    (tmp_path / "token").write_text("from-file\n")
    metadata = [
        Aggregator("a:1", token=token)._metadata
        for token in ("literal", "env:SELLER_TOKEN", f"file:{tmp_path / 'token'}")
    ]
    assert [pairs[0][1] for pairs in metadata] == ["Bearer literal", "Bearer from-env", "Bearer from-file"]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("env:NOT_SET_ANYWHERE", "token: got the variable 'NOT_SET_ANYWHERE', which is not set"),
        ("file:/nowhere/token", "token: got the file '/nowhere/token', which cannot be read: FileNotFoundError"),
        ("", "token: got 0 bytes"),
        ("two words", "token: got 9 bytes"),
    ],
)
def test_a_token_that_is_not_there_is_told_and_never_shown(token: str, message: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Aggregator("a:1", token=token)
    assert str(caught.value).startswith(message)


def test_a_target_that_is_none_is_told() -> None:
    with pytest.raises(MalformedError, match="aggregator: got 'somewhere'"):
        Aggregator("somewhere", token="t")


def test_its_text_form_shows_no_token() -> None:
    client = Aggregator("a:1", token="secret-token")
    assert "secret" not in repr(client)
