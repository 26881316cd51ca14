"""Sales by `batch-settlement`: the aggregator manages the vouchers, the paywall passes payments on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from batch_shop import SCHEME, BatchAggregator, BatchShop, correction_of
from seller_fakes import OPERATOR, FakeAggregator, Running
from seller_shop import Buyer, Exchange, Message, Shop

from batch_facilitator import refused
from tallystick.hexadecimal import checksum, to_hex
from tallystick.reasons import Reason
from tallystick.v1 import common_pb2
from tallystick.x402.batch_settlement import BatchSettlementCode, read_settlement
from tallystick_client import Aggregator, Rule

MISMATCH = BatchSettlementCode.CUMULATIVE_AMOUNT_MISMATCH
Open = Callable[..., BatchShop]


@pytest.fixture
async def batch(restart: Any) -> AsyncIterator[Running]:
    started: Running = await restart(BatchAggregator(), 0)
    yield started
    await started.stop()


@pytest.fixture
async def aggregator(batch: Running) -> AsyncIterator[Aggregator]:
    async with batch.client(timeout_s=2.0, chain_timeout_s=2.0) as client:
        yield client


@pytest.fixture
def fake(batch: Running) -> FakeAggregator:
    return batch.fake


@pytest.fixture
def open_batch(open_shop: Callable[..., Shop], fake: BatchAggregator) -> Open:
    return lambda *handler, **settings: BatchShop(open_shop(*handler, **settings), fake)


@pytest.fixture
async def shop(open_batch: Open) -> BatchShop:
    """A shop whose payer has a channel, on which 1,000 of 100,000 were charged."""
    shop = open_batch()
    await shop.open()
    return shop


async def test_offers_name_who_claims_the_token_and_the_deposit(open_batch: Open) -> None:
    offer = await open_batch().offer()
    assert offer.extra == {
        "receiverAuthorizer": checksum(OPERATOR),
        "withdrawDelay": 86_400,
        "name": "USD Coin",
        "version": "2",
        "minDeposit": "100000",
        "voucherManager": "facilitator",
    }


async def test_a_402_with_these_offers_alone_requires_no_payment_id(open_batch: Open, fake: BatchAggregator) -> None:
    fake.kinds = [kind for kind in fake.kinds if kind.scheme == SCHEME]
    required = Buyer.required(await open_batch().http.get("/articles/1"))
    assert required.extensions is not None
    assert required.extensions["payment-identifier"]["info"] == {"required": False}


async def test_an_aggregator_that_manages_no_vouchers_is_not_offered(open_batch: Open, fake: BatchAggregator) -> None:
    fake.kinds[-1].extra = b'{"receiverAuthorizer":"0x0000000000000000000000000000000000000009"}'
    required = Buyer.required(await open_batch().http.get("/articles/1"))
    assert SCHEME not in [offer.scheme for offer in required.accepts]


async def test_the_first_payment_deposits_and_pays(open_batch: Open, fake: BatchAggregator) -> None:
    shop = open_batch()
    response = await shop.buy("/articles/1", 1_000, deposit=100_000)
    assert (response.status_code, response.text) == (200, "hello")
    receipt = Buyer.receipt(response)
    assert receipt.success
    assert receipt.amount == "100000", "what moved is the deposit"
    assert receipt.transaction != ""
    settlement = read_settlement(receipt.extra or {})
    assert settlement.charged == 1_000
    assert (settlement.state.balance, settlement.state.charged) == (100_000, 1_000)
    assert fake.calls == ["Supported", "Verify", "Settle"]
    assert fake.payloads[0].keys() >= {"type", "deposit"}
    assert "pendingId" not in fake.payloads[0]
    assert fake.payloads[1] == fake.payloads[0] | {"pendingId": "pending-1"}


async def test_a_voucher_is_charged_and_no_amount_moves(shop: BatchShop) -> None:
    response = await shop.buy("/articles/2", 2_000)
    assert response.status_code == 200
    receipt = Buyer.receipt(response)
    assert (receipt.amount, receipt.transaction) == ("", "")
    settlement = read_settlement(receipt.extra or {})
    assert (settlement.charged, settlement.charge_count) == (1_000, 2)
    assert settlement.state.charged == shop.charged == 2_000
    assert receipt.payer == to_hex(shop.buyer.signer.address)


async def test_the_handler_takes_less(open_batch: Open) -> None:
    async def handler(scope: Message, _receive: Any, send: Any) -> None:
        scope["tallystick"].capture(400)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"short"})

    shop = open_batch(handler)
    response = await shop.buy("/articles/1", 1_000, deposit=100_000)
    assert (Buyer.receipt(response).extra or {})["chargedAmount"] == "400"
    assert (await shop.buy("/articles/2", 1_400)).status_code == 200, "the next step is over what was charged"


@pytest.mark.parametrize("more", [1_000, -1_000])
async def test_a_voucher_over_another_total_is_corrected(shop: BatchShop, more: int) -> None:
    response = await shop.buy("/articles/2", 2_000 + more)
    error, correction = correction_of(response)
    assert error == MISMATCH, "official clients compare it as a whole"
    state, newest = correction
    assert (state.charged, state.channel_id) == (1_000, shop.buyer.id)
    assert (newest.signed_max_claimable, newest.signature) == (1_000, shop.buyer.voucher(1_000).signature)
    others = [offer for offer in Buyer.required(response).accepts if offer.scheme != SCHEME]
    assert others
    assert not any("channelState" in offer.extra for offer in others)
    assert shop.shop.served == []
    assert "cumulative_amount_mismatch: No." in response.json()["message"]


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("pendingId", "pending-1", BatchSettlementCode.UNEXPECTED_PENDING_ID),
        ("cancel", True, BatchSettlementCode.UNEXPECTED_CANCEL),
    ],
)
async def test_what_is_the_servers_to_write_is_refused_of_clients(
    shop: BatchShop, field: str, value: object, code: str
) -> None:
    response = await shop.buy("/articles/2", 2_000, change=lambda payload: payload.update({field: value}))
    assert Buyer.required(response).error == code
    assert shop.fake.calls == []


@pytest.mark.parametrize("kind", ["claim", "settle"])
async def test_payloads_of_servers_are_no_payments(shop: BatchShop, kind: str) -> None:
    offer = await shop.offer()
    receiver = {"receiver": checksum(OPERATOR), "token": checksum(OPERATOR)}
    claim = {"voucher": {"channel": {}, "maxClaimableAmount": "1"}, "signature": "0x", "totalClaimed": "1"}
    payload = {"type": kind, **receiver} if kind == "settle" else {"type": kind, "claims": [claim]}
    response = await shop.http.get("/articles/1", headers=Buyer.header(offer, payload, None))
    assert response.status_code == 400
    assert "payload" in response.json()["message"]


async def test_a_price_that_has_changed_is_told_and_nobody_is_asked(shop: BatchShop) -> None:
    offer = await shop.offer()
    dearer = {**shop.buyer.pay(offer, 2_000)}
    cheaper = type(offer)(**{name: getattr(offer, name) for name in offer.__struct_fields__} | {"amount": "1500"})
    for headers in (shop.buyer.pay(cheaper, 2_500), dearer | shop.buyer.pay(cheaper, 2_500)):
        response = await shop.http.get("/articles/2", headers=headers)
        assert (Buyer.required(response).error or "").startswith("amount_mismatch: ")
    assert shop.fake.calls == []


async def test_a_handler_that_fails_frees_the_channel(open_batch: Open) -> None:
    status = 500

    async def handler(_scope: Message, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"?"})

    shop = open_batch(handler)
    shop.fake.channels.balance = 10**9
    response = await shop.buy("/articles/1", 1_000, deposit=100_000)
    assert response.status_code == 500
    assert (Buyer.receipt(response).extra or {})["chargedAmount"] == "0"
    assert shop.fake.calls[-1] == "Release"
    assert shop.fake.channels.channel.lock is None
    assert (shop.charged, shop.fake.channels.channel.balance) == (0, 0), "no deposit for a page that there is not"
    status = 200
    assert (await shop.buy("/articles/1", 1_000, deposit=100_000)).status_code == 200, "the same step again"


async def test_a_client_that_leaves_frees_the_channel(
    shop: BatchShop, exchange: Callable[..., Exchange], until: Any
) -> None:
    headers = shop.buyer.pay(await shop.offer(), 2_000)
    asked = exchange(shop.shop.paywall, "/articles/2", headers)
    asked.incoming.put_nowait({"type": "http.disconnect"})
    await asked.run()
    await until(lambda: "Release" in shop.fake.calls)
    assert (asked.status, shop.charged, shop.fake.channels.channel.lock) == (None, 1_000, None)


async def test_a_refund_is_settled_without_the_handler(shop: BatchShop) -> None:
    headers = shop.buyer.refund(await shop.offer(), 1_000, 500)
    response = await shop.http.get("/articles/1", headers=headers)
    assert response.json() == {"message": "Refund acknowledged", "channelId": to_hex(shop.buyer.id)}
    receipt = Buyer.receipt(response)
    assert (receipt.success, receipt.amount) == (True, "500")
    assert "chargedAmount" not in (receipt.extra or {})
    assert read_settlement(receipt.extra or {}).state.balance == 99_500
    assert shop.shop.served == []
    assert "no-store" in response.headers.get("cache-control", "") or "private" in response.headers["cache-control"]
    assert (await shop.buy("/articles/2", 2_000)).status_code == 200, "the channel is free"


async def test_a_refund_over_another_total_is_corrected(shop: BatchShop) -> None:
    response = await shop.http.get("/articles/1", headers=shop.buyer.refund(await shop.offer(), 900))
    error, (state, _) = correction_of(response)
    assert (error, state.charged) == (MISMATCH, 1_000)


# Once only.


async def test_the_same_payment_for_the_same_request_gets_its_answer_again(shop: BatchShop) -> None:
    headers = shop.buyer.pay(await shop.offer(), 2_000)
    first = await shop.http.get("/articles/2", headers=headers)
    again = await shop.http.get("/articles/2", headers=headers)
    assert (again.status_code, again.text) == (200, first.text)
    assert again.headers["payment-response"] == first.headers["payment-response"]
    assert shop.shop.served == ["/articles/2"]
    assert shop.charged == 2_000


@pytest.mark.parametrize("other", ["request", "identifier"])
async def test_a_kept_answer_is_nobody_elses(shop: BatchShop, other: str) -> None:
    offer = await shop.offer()
    await shop.http.get("/articles/2", headers=shop.buyer.pay(offer, 2_000, identifier="a" * 16))
    identifier = "b" * 16 if other == "identifier" else "a" * 16
    target = "/articles/3" if other == "request" else "/articles/2"
    response = await shop.http.get(target, headers=shop.buyer.pay(offer, 2_000, identifier=identifier))
    assert Buyer.required(response).error == MISMATCH
    assert shop.shop.served == ["/articles/2"]


async def test_a_settlement_whose_answer_was_lost_is_found_and_charged_once(shop: BatchShop) -> None:
    shop.fake.settle_trouble = [("after", grpc.StatusCode.UNAVAILABLE)]
    response = await shop.buy("/articles/2", 2_000)
    assert response.status_code == 200
    assert (Buyer.receipt(response).extra or {})["chargedAmount"] == "1000"
    assert shop.fake.calls.count("Settle") == 2
    assert shop.charged == 2_000


async def test_a_settlement_that_is_not_known_in_time_is_paid_for_by_the_same_payment(
    open_batch: Open,
) -> None:
    shop = open_batch(settle_patience_s=0.0)
    await shop.open()
    headers = shop.buyer.pay(await shop.offer(), 2_000)
    shop.fake.settle_trouble = [("after", grpc.StatusCode.UNAVAILABLE)]
    assert (await shop.http.get("/articles/2", headers=headers)).status_code == 503
    again = await shop.http.get("/articles/2", headers=headers)
    assert (again.status_code, again.text) == (200, "hello")
    assert shop.shop.served == ["/articles/2"]
    assert shop.charged == 2_000


async def test_a_voucher_that_somebody_else_has_charged_buys_nothing(shop: BatchShop) -> None:
    headers = shop.buyer.pay(await shop.offer(), 2_000)

    async def lapse(_scope: Message, _receive: Any, send: Any) -> None:
        # The lock ends while the page is made, and the same voucher is charged by another process of the seller's.
        shop.fake.channels.channel.lock = None
        shop.fake.channels.channel.charged = 2_000
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})

    shop.shop.paywall.app = lapse
    response = await shop.http.get("/articles/2", headers=headers)
    error, _ = correction_of(response)
    assert error == MISMATCH
    assert not Buyer.receipt(response).success


# One request at a time.


def slow(started: asyncio.Event, go_on: asyncio.Event) -> Any:
    async def handler(scope: Message, _receive: Any, send: Any) -> None:
        started.set()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    return handler


async def test_a_second_request_of_a_channel_waits_and_is_corrected(open_batch: Open, until: Any) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    go_on.set()
    shop = open_batch(slow(started, go_on))
    await shop.open()
    started.clear()
    go_on.clear()
    first = asyncio.create_task(shop.buy("/articles/2", 2_000))
    await started.wait()
    second = asyncio.create_task(shop.buy("/articles/3", 2_000))
    await until(lambda: shop.fake.calls.count("Verify") >= 2)
    go_on.set()
    assert (await first).text == "/articles/2"
    error, (state, _) = correction_of(await second)
    assert (error, state.charged) == (MISMATCH, 2_000), "what the first was charged"
    assert (await shop.buy("/articles/3", 3_000)).text == "/articles/3"
    assert shop.charged == 3_000


async def test_a_channel_that_stays_busy_is_told_so(open_batch: Open) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    shop = open_batch(slow(started, go_on), busy_patience_s=0.0)
    first = asyncio.create_task(shop.buy("/articles/2", 1_000, deposit=100_000))
    await started.wait()
    response = await shop.buy("/articles/3", 1_000)
    assert Buyer.required(response).error == BatchSettlementCode.CHANNEL_BUSY
    assert response.headers["retry-after"] == "1"
    go_on.set()
    assert (await first).status_code == 200


async def test_the_same_request_again_while_it_is_served_gets_the_one_answer(open_batch: Open, until: Any) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    shop = open_batch(slow(started, go_on))
    headers = shop.buyer.pay(await shop.offer(), 1_000, deposit=100_000)
    first = asyncio.create_task(shop.http.get("/articles/2", headers=headers))
    await started.wait()
    again = asyncio.create_task(shop.http.get("/articles/2", headers=headers))
    await until(lambda: shop.fake.calls.count("Verify") >= 2)
    go_on.set()
    assert [(await asked).text for asked in (first, again)] == ["/articles/2"] * 2
    assert len(shop.shop.served) == 1
    assert shop.charged == 1_000


async def test_a_client_that_leaves_while_it_waits_is_not_waited_for(
    open_batch: Open, exchange: Callable[..., Exchange]
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    shop = open_batch(slow(started, go_on))
    first = asyncio.create_task(shop.buy("/articles/2", 1_000, deposit=100_000))
    await started.wait()
    asked = exchange(shop.shop.paywall, "/articles/3", shop.buyer.pay(await shop.offer(), 1_000))
    asked.incoming.put_nowait({"type": "http.disconnect"})
    await asked.run()
    assert asked.status is None
    go_on.set()
    assert (await first).status_code == 200


# Deposits take as long as the chain.


def pending() -> common_pb2.Refusal:
    return common_pb2.Refusal(reason=common_pb2.REASON_TRANSACTION_PENDING, message="On its way.")


async def test_a_deposit_under_way_is_waited_for(open_batch: Open) -> None:
    shop = open_batch(settle_patience_s=0.0)
    shop.fake.settle_trouble = [pending()]
    response = await shop.buy("/articles/1", 1_000, deposit=100_000)
    assert response.status_code == 200, "as long as the offer says, not as long as an aggregator may be away"
    assert shop.fake.calls.count("Settle") == 2


async def test_a_deposit_that_takes_too_long_pays_when_it_is_asked_again(open_batch: Open) -> None:
    shop = open_batch(settle_patience_s=0.0, max_timeout_s=1)
    headers = shop.buyer.pay(await shop.offer("/articles/1"), 1_000, deposit=100_000)
    shop.fake.settle_trouble = [pending()] * 5
    late = await shop.http.get("/articles/1", headers=headers)
    assert late.status_code == 409
    assert "retry-after" in late.headers
    shop.fake.settle_trouble.clear()
    again = await shop.http.get("/articles/1", headers=headers)
    assert again.status_code == 200
    assert shop.shop.served == ["/articles/1"]
    assert (shop.charged, shop.fake.channels.channel.balance) == (1_000, 100_000)


async def test_a_refusal_without_a_code_is_told_in_words(shop: BatchShop) -> None:
    shop.fake.channels.verify = lambda *_: (_ for _ in ()).throw(refused((Reason.EXPOSURE_LIMIT, "")))  # type: ignore[method-assign]
    response = await shop.buy("/articles/2", 2_000)
    assert (Buyer.required(response).error or "").startswith("exposure_limit: ")


async def test_a_price_may_be_a_rule_of_many_pages(open_batch: Open) -> None:
    shop = open_batch(rules=[Rule(path="/a", price="0.001 USDC"), Rule(path="/b", price="0.002 USDC")])
    assert (await shop.buy("/a", 1_000, deposit=100_000)).status_code == 200
    offer = await shop.offer("/b")
    response = await shop.http.get("/b", headers=shop.buyer.pay(offer, 3_000))
    assert response.status_code == 200
    assert shop.charged == 3_000


# Streams.


def parts(served: list[str]) -> Any:
    async def handler(scope: Message, _receive: Any, send: Any) -> None:
        served.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for chunk in (b"a", b"b", b""):
            await send({"type": "http.response.body", "body": chunk, "more_body": bool(chunk)})

    return handler


async def test_a_stream_is_charged_with_its_deposit_before_its_first_byte(
    open_batch: Open, exchange: Callable[..., Exchange]
) -> None:
    served: list[str] = []
    shop = open_batch(parts(served))
    charged: list[int] = []
    asked = exchange(
        shop.shop.paywall, "/articles/1", shop.buyer.pay(await shop.offer("/articles/1"), 1_000, deposit=100_000)
    )
    asked.on_send = lambda _: charged.append(shop.charged)
    await asked.run()
    assert (asked.status, asked.body) == (200, b"ab")
    assert charged[0] == 1_000
    assert (shop.fake.channels.channel.balance, shop.fake.channels.channel.lock) == (100_000, None)


async def test_a_streamed_page_is_had_again_by_the_same_payment(open_batch: Open) -> None:
    served: list[str] = []
    shop = open_batch(parts(served))
    await shop.open()
    headers = shop.buyer.pay(await shop.offer("/articles/2"), 2_000)
    for _ in range(2):
        response = await shop.http.get("/articles/2", headers=headers)
        assert (response.status_code, response.content) == (200, b"ab")
    assert served == ["/articles/first", "/articles/2"]
    assert shop.charged == 2_000


async def test_a_refund_may_be_asked_for_at_a_page_that_streams(open_batch: Open) -> None:
    served: list[str] = []
    shop = open_batch(parts(served))
    await shop.open()
    response = await shop.http.get("/articles/2", headers=shop.buyer.refund(await shop.offer("/articles/2"), 1_000))
    assert (response.status_code, Buyer.receipt(response).amount) == (200, "99000")
    assert served == ["/articles/first"]


async def test_a_streams_deposit_whose_answer_is_lost_lands_once_and_pays_once(open_batch: Open) -> None:
    served: list[str] = []
    shop = open_batch(parts(served))
    shop.fake.settle_trouble = [("after", grpc.StatusCode.UNAVAILABLE)]
    response = await shop.buy("/articles/1", 1_000, deposit=100_000)
    assert (response.status_code, response.content) == (200, b"ab")
    assert (shop.charged, shop.fake.channels.channel.balance) == (1_000, 100_000)
    assert served == ["/articles/1"]
    assert (await shop.buy("/articles/2", 2_000)).status_code == 200, "the channel is free"


@pytest.mark.parametrize("began", [False, True])
async def test_a_stream_that_fails_costs_what_it_had_begun_to_deliver(open_batch: Open, *, began: bool) -> None:
    async def handler(_scope: Message, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if began:
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        raise RuntimeError("the handler failed")

    shop = open_batch(handler)
    response = await shop.buy("/articles/1", 1_000, deposit=100_000)
    assert response.status_code == (200 if began else 500)
    await shop.shop.paywall.finish()
    assert shop.charged == (1_000 if began else 0)
    assert shop.fake.channels.channel.lock is None


async def test_less_than_the_price_is_taken_of_a_stream(open_batch: Open) -> None:
    async def handler(scope: Message, _receive: Any, send: Any) -> None:
        scope["tallystick"].capture(250)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for chunk in (b"a", b"b", b""):
            await send({"type": "http.response.body", "body": chunk, "more_body": bool(chunk)})

    shop = open_batch(handler)
    response = await shop.buy("/articles/1", 1_000, deposit=100_000)
    assert (response.content, (Buyer.receipt(response).extra or {})["chargedAmount"]) == (b"ab", "250")
    assert shop.charged == 250


async def test_a_client_that_leaves_a_stream_before_its_first_byte_is_not_charged(
    open_batch: Open, exchange: Callable[..., Exchange], until: Any
) -> None:
    async def handler(_scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass

    shop = open_batch(handler)
    asked = exchange(
        shop.shop.paywall, "/articles/1", shop.buyer.pay(await shop.offer("/articles/1"), 1_000, deposit=100_000)
    )
    asked.incoming.put_nowait({"type": "http.disconnect"})
    await asked.run()
    await until(lambda: "Release" in shop.fake.calls)
    assert (shop.charged, shop.fake.channels.channel.lock) == (0, None)
