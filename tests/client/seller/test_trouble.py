"""An aggregator that is away, forgetful or hostile: nothing is charged twice and no page is lost that was paid for."""

from typing import Any

import grpc
import pytest

from tallystick_client import Rule

PAGE = "/articles/1"
DOWN = grpc.StatusCode.UNAVAILABLE


async def test_down_when_prices_are_asked_for_is_503(open_shop: Any, running: Any) -> None:
    shop = open_shop()
    await running.stop()
    response = await shop.http.get(PAGE)
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert response.headers["cache-control"] == "no-store"
    assert (await shop.http.get("/free")).status_code == 200


async def test_prices_are_known_while_it_is_down_and_it_is_found_again(
    open_shop: Any, running: Any, restart: Any, buyer: Any, until: Any
) -> None:
    shop = open_shop()
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    await running.stop()
    assert (await shop.http.get(PAGE)).status_code == 402
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 503
    assert shop.served == []
    again = await restart(running.fake, running.port)
    statuses: list[int] = []

    async def is_found() -> bool:
        statuses.append((await shop.http.get(PAGE, headers=payment)).status_code)
        return statuses[-1] != 503

    await until(is_found)
    assert statuses[-1] == 200
    await again.stop()


@pytest.mark.parametrize("status", [DOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_down_at_verify_is_503(open_shop: Any, fake: Any, status: grpc.StatusCode) -> None:
    shop = open_shop()
    fake.verify_trouble = [status]
    response = await shop.buy(PAGE)
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert shop.served == []


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
async def test_a_token_that_is_not_good_is_the_sellers_trouble(
    open_shop: Any, fake: Any, status: grpc.StatusCode, caplog: Any
) -> None:
    shop = open_shop()
    fake.verify_trouble = [status]
    assert (await shop.buy(PAGE)).status_code == 503
    assert status.name in caplog.text
    assert "seller-token" not in caplog.text


async def test_p8_a_payment_that_the_aggregator_cannot_read_is_400(open_shop: Any, buyer: Any, fake: Any) -> None:
    shop = open_shop()
    fake.verify_trouble = [grpc.StatusCode.INVALID_ARGUMENT]
    response = await shop.buy(PAGE)
    assert (response.status_code, response.json()["error"]) == (400, "payload_invalid")
    assert buyer.receipt(response).amount == "0"


@pytest.mark.parametrize("reason", ["CHAIN_STALE", "STORE_UNAVAILABLE", "OVERLOADED", "CHAIN_UNAVAILABLE"])
async def test_a_refusal_that_is_the_aggregators_own_trouble_is_503(
    open_shop: Any, fake: Any, refusal_of: Any, reason: str
) -> None:
    shop = open_shop()
    fake.verify_trouble = [refusal_of(reason)]
    assert (await shop.buy(PAGE)).status_code == 503
    assert shop.served == []


async def test_a_short_outage_at_capture_is_waited_for(open_shop: Any, buyer: Any, fake: Any) -> None:
    shop = open_shop()
    fake.settle_trouble = [DOWN, ("after", DOWN)]
    response = await shop.buy(PAGE)
    assert (response.status_code, buyer.receipt(response).amount) == (200, "1000")
    assert (fake.calls.count("Settle"), fake.charged[buyer.channel_id]) == (3, 1000)


@pytest.mark.parametrize("was_charged", [True, False])
async def test_a_long_outage_at_capture_is_503_and_the_same_payment_gets_the_page_later(
    open_shop: Any, buyer: Any, fake: Any, was_charged: bool
) -> None:
    shop = open_shop(settle_patience_s=0.0)
    fake.settle_trouble = [("after", DOWN) if was_charged else DOWN]
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    first = await shop.http.get(PAGE, headers=payment)
    assert (first.status_code, first.headers["retry-after"]) == (503, "2")
    assert b"hello" not in first.content
    fake.settle_trouble = [DOWN]
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 503
    second = await shop.http.get(PAGE, headers=payment)
    assert (second.status_code, second.text, buyer.receipt(second).amount) == (200, "hello", "1000")
    assert (len(shop.served), fake.charged[buyer.channel_id]) == (1, 1000)
    assert fake.calls.count("Verify") == 1


async def test_a_kept_page_whose_capture_is_refused_at_last_is_402(
    open_shop: Any, buyer: Any, fake: Any, refusal_of: Any
) -> None:
    shop = open_shop(settle_patience_s=0.0)
    fake.settle_trouble = [DOWN, refusal_of("INSUFFICIENT_FUNDS")]
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 503
    assert buyer.required(await shop.http.get(PAGE, headers=payment)).error.startswith("insufficient_funds: ")
    assert len(shop.paywall.flows.state.kept) == 0
    await shop.paywall.finish()
    assert fake.statuses() == ["released"]


@pytest.mark.parametrize("streamed", [True, False])
async def test_where_nothing_is_kept_an_uncertain_capture_is_given_back(
    open_shop: Any, buyer: Any, fake: Any, streamed: bool
) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": streamed})

    shop = open_shop(handler, settle_patience_s=0.0, keep_responses_bytes=8_000_000 if streamed else 0)
    fake.settle_trouble = [DOWN]
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 503
    await shop.paywall.finish()
    assert fake.statuses() == ["released"]
    again = await shop.http.get(PAGE, headers=payment)
    assert buyer.required(again).error.startswith("reservation_released: ")


async def test_an_error_page_is_sent_though_its_reservation_cannot_be_given_back(open_shop: Any, fake: Any) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"nothing here"})

    shop = open_shop(handler)
    fake.settle_trouble = [DOWN]
    response = await shop.buy(PAGE)
    assert (response.status_code, response.text) == (404, "nothing here")
    assert "payment-response" not in response.headers, "nothing is said about money that nobody knows of"


async def test_an_aggregator_that_talks_nonsense_is_503_and_no_traceback(open_shop: Any, fake: Any, buyer: Any) -> None:
    shop = open_shop(settle_patience_s=0.0)
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    fake.charged[buyer.channel_id] = 1 << 120
    original = fake._settle_handle

    def nonsense(request: Any) -> Any:
        response = original(request)
        response.amount = b"\x00\x01"
        return response

    fake._settle_handle = nonsense
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 503


async def test_a_lost_verify_answer_is_503_then_told_as_under_way(open_shop: Any, buyer: Any, fake: Any) -> None:
    """The reservation stands, and nobody knows its handle; it expires by itself, and nothing was charged."""
    shop = open_shop()
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    fake.verify_trouble = [("after", DOWN)]
    fake.held_is_replayed = False
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 503
    again = await shop.http.get(PAGE, headers=payment)
    assert (again.status_code, again.json()["error"]) == (409, "payment_under_way")
    assert (shop.served, fake.statuses()) == ([], ["reserved"])


async def test_rules_whose_token_is_gone_fail_closed(open_shop: Any, fake: Any) -> None:
    fake.kinds = []
    shop = open_shop(rules=[Rule(path="*", price="0.001 USDC")])
    assert (await shop.http.get(PAGE)).status_code == 500
    assert shop.served == []
