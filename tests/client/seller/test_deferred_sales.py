"""Deferred payments through the paywall: what is charged, what is given back, and when."""

import asyncio
from typing import Any

import pytest
from seller_shop import hello

from tallystick import payment_ids
from tallystick.hexadecimal import checksum
from tallystick_client import Rule

PAGE = "/articles/1?lang=en"


async def test_without_payment_it_asks_for_one_and_names_deferred_before_exact(open_shop: Any, buyer: Any) -> None:
    shop = open_shop()
    response = await shop.http.get(PAGE)
    assert (response.status_code, response.json(), response.headers["cache-control"]) == (402, {}, "no-store")
    required = buyer.required(response)
    assert [offer.scheme for offer in required.accepts] == ["deferred", "exact"]
    assert required.resource.url == "http://shop.test/articles/1?lang=en"
    assert required.error == "PAYMENT-SIGNATURE header is required"
    assert required.extensions["payment-identifier"]["info"] == {"required": False}, "exact payments need none"
    deferred, exact = required.accepts
    assert (deferred.amount, deferred.network, deferred.max_timeout_seconds) == ("1000", "eip155:31337", 60)
    assert deferred.extra == {
        "escrow": checksum(bytes([0xE5] * 20)),
        "receiverAuthorizer": checksum(bytes([0x09] * 20)),
        "withdrawDelay": 86_400,
        "name": "Tallystick Escrow",
        "version": "1",
        "voucherManager": "facilitator",
        "minDeposit": "100000",
    }
    assert exact.extra == {"name": "USD Coin", "version": "2"}
    assert shop.served == []


async def test_a_paid_page_is_charged_and_says_so(open_shop: Any, buyer: Any, fake: Any) -> None:
    shop = open_shop()
    response = await shop.buy(PAGE)
    assert (response.status_code, response.text) == (200, "hello")
    assert response.headers["cache-control"] == "private"
    receipt = buyer.receipt(response)
    assert (receipt.success, receipt.transaction, receipt.amount) == (True, "", "1000")
    assert receipt.extra == {
        "chargedAmount": "1000",
        "channelState": {"channelId": "0x" + buyer.channel_id.hex(), "chargedCumulativeAmount": "1000"},
    }
    assert receipt.payer.lower() == "0x" + "ba" * 20
    assert fake.statuses() == ["charged"]
    assert fake.calls == ["Supported", "Verify", "Settle"], "one Verify and one Settle a request"


async def test_many_requests_in_flight_on_one_channel_all_succeed(open_shop: Any, buyer: Any, fake: Any) -> None:
    shop = open_shop()
    offer = await shop.offer(PAGE)
    payments = [buyer.deferred(offer, PAGE) for _ in range(40)]
    responses = await asyncio.gather(*(shop.http.get(PAGE, headers=payment) for payment in payments))
    assert {response.status_code for response in responses} == {200}
    assert fake.charged[buyer.channel_id] == 40_000


@pytest.mark.parametrize("status", [301, 304, 400, 404, 500, 503])
async def test_another_status_than_2xx_gives_the_money_back(open_shop: Any, buyer: Any, fake: Any, status: int) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"cache-control", b"public, max-age=60")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    response = await open_shop(handler).buy(PAGE)
    assert response.status_code == status
    assert response.headers["cache-control"] == "public, max-age=60"
    assert fake.statuses() == ["released"]
    receipt = buyer.receipt(response)
    assert (receipt.amount, receipt.extra) == ("0", {"chargedAmount": "0"})


async def test_a_handler_that_raises_gives_the_money_back(open_shop: Any, fake: Any) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("broken")

    shop = open_shop(handler)
    assert (await shop.buy(PAGE)).status_code == 500
    await shop.paywall.finish()
    assert fake.statuses() == ["released"]


async def test_a_handler_that_sends_no_body_gives_the_money_back(open_shop: Any, exchange: Any, fake: Any) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    shop = open_shop(handler)
    one = exchange(shop.paywall, PAGE, shop.buyer.deferred(await shop.offer(PAGE), PAGE))
    await one.run()
    await shop.paywall.finish()
    assert (one.sent, fake.statuses()) == ([], ["released"])


async def test_a_handler_that_is_cancelled_gives_the_money_back(open_shop: Any, exchange: Any, fake: Any) -> None:
    started = asyncio.Event()

    async def handler(_scope: Any, _receive: Any, _send: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    shop = open_shop(handler)
    one = exchange(shop.paywall, PAGE, shop.buyer.deferred(await shop.offer(PAGE), PAGE))
    task = asyncio.create_task(one.run())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await shop.paywall.finish()
    assert fake.statuses() == ["released"]


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_a_handler_that_ends_before_its_own_task_has_sent_the_page_is_no_error(
    open_shop: Any, exchange: Any, fake: Any, *, is_stopped: bool
) -> None:
    """Frameworks send from a task of their own, and cancel it when the client leaves."""
    asked, goes_on = asyncio.Event(), asyncio.Event()
    senders: list[asyncio.Task[None]] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        senders.append(asyncio.create_task(hello(scope, receive, send)))
        await asked.wait()
        if is_stopped:
            senders[0].cancel()
            await asyncio.wait(senders)

    shop = open_shop(handler)
    settle = shop.paywall.aggregator.settle

    async def slow(*arguments: Any) -> Any:
        asked.set()
        await goes_on.wait()
        return await settle(*arguments)

    one = exchange(shop.paywall, PAGE, shop.buyer.deferred(await shop.offer(PAGE), PAGE))
    shop.paywall.aggregator.settle = slow
    run = asyncio.create_task(one.run())
    await asked.wait()
    if not is_stopped:
        await asyncio.sleep(0.01)  # the handler has ended
        goes_on.set()
    await run
    await asyncio.wait(senders)
    await shop.paywall.finish()
    told = (one.status, fake.statuses())
    assert told == ((None, ["released"]) if is_stopped else (200, ["charged"]))


@pytest.mark.parametrize("reads_body", [True, False])
async def test_a_client_gone_before_the_first_byte_is_not_charged(
    open_shop: Any, exchange: Any, fake: Any, reads_body: bool
) -> None:
    one: Any = None

    async def handler(_scope: Any, receive: Any, send: Any) -> None:
        if reads_body:
            assert (await receive())["type"] == "http.request"
        one.incoming.put_nowait({"type": "http.disconnect"})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
        assert (await receive())["type"] in {"http.request", "http.disconnect"}

    shop = open_shop(handler)
    one = exchange(shop.paywall, PAGE, shop.buyer.deferred(await shop.offer(PAGE), PAGE))
    await one.run()
    await shop.paywall.finish()
    assert (one.sent, fake.statuses()) == ([], ["released"])


async def test_a_client_gone_while_its_body_is_read_costs_nothing(open_shop: Any, exchange: Any, fake: Any) -> None:
    shop = open_shop()
    headers = {**shop.buyer.deferred(await shop.offer(PAGE), PAGE), "content-length": "10"}
    one = exchange(shop.paywall, PAGE, headers, method="POST")
    one.incoming.get_nowait()
    one.incoming.put_nowait({"type": "http.request", "body": b"12345", "more_body": True})
    one.incoming.put_nowait({"type": "http.disconnect"})
    await one.run()
    assert (one.sent, shop.served, fake.calls) == ([], [], ["Supported"])


async def test_a_streamed_body_is_charged_before_its_first_byte(open_shop: Any, exchange: Any, fake: Any) -> None:
    charged_at_first_byte: list[list[str]] = []

    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert fake.statuses() == ["reserved"]
        for chunk in (b"a", b"b", b""):
            await send({"type": "http.response.body", "body": chunk, "more_body": bool(chunk)})

    shop = open_shop(handler)
    one = exchange(shop.paywall, PAGE, shop.buyer.deferred(await shop.offer(PAGE), PAGE))
    one.on_send = lambda _: charged_at_first_byte.append(fake.statuses())
    await one.run()
    assert charged_at_first_byte[0] == ["charged"]
    assert (one.status, one.body) == (200, b"ab")


async def test_a_capture_refused_after_the_handler_ran_delivers_nothing(
    open_shop: Any, buyer: Any, fake: Any, refusal_of: Any
) -> None:
    shop = open_shop()
    fake.settle_trouble = [refusal_of("INSUFFICIENT_FUNDS")]
    response = await shop.buy(PAGE)
    assert buyer.required(response).error.startswith("insufficient_funds: ")
    receipt = buyer.receipt(response)
    assert (receipt.success, receipt.error_reason) == (False, "insufficient_funds")
    assert b"hello" not in response.content
    assert shop.served == ["/articles/1"]
    await shop.paywall.finish()
    assert fake.statuses() == ["released"]


async def test_an_endless_stream_that_is_not_paid_is_stopped(
    open_shop: Any, exchange: Any, fake: Any, refusal_of: Any
) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    shop = open_shop(handler)
    fake.settle_trouble = [refusal_of("INSUFFICIENT_FUNDS")]
    one = exchange(shop.paywall, PAGE, shop.buyer.deferred(await shop.offer(PAGE), PAGE))
    await asyncio.wait_for(one.run(), 5)
    assert (one.status, one.body) == (402, b"{}")


async def test_a_refusal_tells_the_payer_its_totals(open_shop: Any, buyer: Any) -> None:
    shop = open_shop()
    required = buyer.required(await shop.buy(PAGE, ceiling=10))
    assert required.error.startswith("insufficient_ceiling: ")
    assert required.accepts[0].extra["channelState"] == {
        "channelId": "0x" + buyer.channel_id.hex(),
        "chargedCumulativeAmount": "7",
        "reservedAmount": "2",
        "totalClaimed": "0",
    }
    assert required.accepts[0].extra["voucherState"] == {"signedMaxClaimable": "10"}
    assert "channelState" not in required.accepts[1].extra
    assert "channelState" not in buyer.required(await shop.http.get(PAGE)).accepts[0].extra
    assert shop.served == []


async def test_a_payment_pays_for_its_own_request_only(open_shop: Any, buyer: Any, fake: Any) -> None:
    shop = open_shop(rules=[Rule(path="*", price="0.001 USDC")])
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    other_page = await shop.http.get("/articles/2", headers=payment)
    assert buyer.required(other_page).error.startswith("spend_key_proof: ")
    other_query = await shop.http.get("/articles/1?lang=de", headers=payment)
    assert buyer.required(other_query).error.startswith("spend_key_proof: ")
    other_body = await shop.http.request("GET", PAGE, headers=payment, content=b"body")
    assert buyer.required(other_body).error.startswith("spend_key_proof: ")
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 200
    after = await shop.http.get("/articles/2", headers=payment)
    assert buyer.required(after).error.startswith("payment_id_reused: ")
    assert shop.served == ["/articles/1"]
    assert fake.charged[buyer.channel_id] == 1000


async def test_the_body_that_is_paid_for_reaches_the_handler(open_shop: Any, buyer: Any) -> None:
    async def echo(_scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})

    shop = open_shop(echo)
    offer = await shop.offer(PAGE, method="POST", content=b"question")
    payment = buyer.deferred(offer, PAGE, method="POST", body=b"question")
    response = await shop.http.post(PAGE, headers=payment, content=b"question")
    assert (response.status_code, response.content) == (201, b"question")
    payment = buyer.deferred(offer, PAGE, method="POST", body=b"question")
    changed = await shop.http.post(PAGE, headers=payment, content=b"another one")
    assert buyer.required(changed).error.startswith("spend_key_proof: ")


async def test_a_body_that_is_streamed_up_is_passed_on_and_not_bound(open_shop: Any, buyer: Any) -> None:
    chunks: list[bytes] = []

    async def collect(_scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            chunks.append(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def upload() -> Any:
        yield b"a" * 700_000
        yield b"b" * 700_000

    shop = open_shop(collect)
    payment = buyer.deferred(await shop.offer(PAGE, method="POST"), PAGE, method="POST")
    assert (await shop.http.post(PAGE, headers=payment, content=upload())).status_code == 200
    assert len(b"".join(chunks)) == 1_400_000


async def test_a_body_larger_than_is_read_ahead_is_413(open_shop: Any, buyer: Any, exchange: Any, fake: Any) -> None:
    shop = open_shop(max_body_bytes=10)
    offer = await shop.offer(PAGE)
    payment = buyer.deferred(offer, PAGE, method="POST", body=b"x" * 11)
    response = await shop.http.post(PAGE, headers=payment, content=b"x" * 11)
    assert response.status_code == 413
    assert "at most 10 bytes" in response.json()["message"]
    # A body longer than its Content-Length says, from a server that lets it pass.
    lying = exchange(shop.paywall, PAGE, {**payment, "content-length": "5"}, method="POST", body=b"x" * 11)
    await lying.run()
    assert lying.status == 413
    assert (shop.served, fake.calls) == ([], ["Supported"])


async def test_a_handler_may_take_less_than_agreed(open_shop: Any, buyer: Any, fake: Any) -> None:
    amounts: list[Any] = [250, "0.0005 USDC", 0]

    async def handler(scope: Any, _receive: Any, send: Any) -> None:
        paid = scope["tallystick"]
        assert (paid.amount, paid.scheme, paid.payer.lower()) == (1000, "deferred", "0x" + "ba" * 20)
        paid.capture(amounts.pop(0))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    shop = open_shop(handler)
    receipts = [buyer.receipt(await shop.buy(PAGE)) for _ in range(3)]
    assert [receipt.extra["chargedAmount"] for receipt in receipts] == ["250", "500", "0"]
    assert fake.charged[buyer.channel_id] == 750
    assert fake.statuses() == ["charged", "charged", "released"]


@pytest.mark.parametrize("amount", [1001, -1, "0.0011 USDC", "0.0005 EURC", "much"])
async def test_a_handler_cannot_take_more_or_something_else(open_shop: Any, fake: Any, amount: Any) -> None:
    errors: list[str] = []

    async def handler(scope: Any, _receive: Any, _send: Any) -> None:
        try:
            scope["tallystick"].capture(amount)
        except ValueError as error:
            errors.append(str(error))
            raise

    shop = open_shop(handler)
    assert (await shop.buy(PAGE)).status_code == 500
    await shop.paywall.finish()
    assert errors[0].startswith("capture: got ")
    assert fake.statuses() == ["released"]


async def test_a_price_that_rose_is_asked_for_and_one_that_fell_is_charged(
    open_shop: Any, buyer: Any, fake: Any
) -> None:
    prices = ["0.002 USDC"]
    shop = open_shop(rules=[Rule(path="*", price=lambda _: prices[0])])
    offer = await shop.offer(PAGE)
    prices[0] = "0.003 USDC"
    required = buyer.required(await shop.http.get(PAGE, headers=buyer.deferred(offer, PAGE)))
    assert required.error.startswith("amount_mismatch: ")
    assert "accepted.amount: got '2000', allowed at least 3000" in required.error
    assert required.accepts[0].amount == "3000"
    prices[0] = "0.001 USDC"
    response = await shop.http.get(PAGE, headers=buyer.deferred(offer, PAGE))
    assert buyer.receipt(response).amount == "1000"
    assert fake.charged[buyer.channel_id] == 1000


async def test_a_seller_cannot_charge_more_than_the_proof_says(open_shop: Any, buyer: Any) -> None:
    shop = open_shop()
    assert buyer.required(await shop.buy(PAGE, max_amount=999)).error.startswith("amount_above_agreed: ")
    assert shop.served == []


async def test_a_payment_that_was_charged_never_runs_the_handler_again(open_shop: Any, buyer: Any, fake: Any) -> None:
    shop = open_shop(keep_responses_bytes=0)
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 200
    again = await shop.http.get(PAGE, headers=payment)
    assert (again.status_code, again.json()["error"]) == (409, "payment_replayed")
    assert again.headers["cache-control"] == "no-store"
    assert len(shop.served) == 1
    assert fake.charged[buyer.channel_id] == 1000


@pytest.mark.parametrize("held_is_replayed", [True, False])
async def test_a_payment_under_way_is_told_so(
    open_shop: Any, buyer: Any, fake: Any, until: Any, held_is_replayed: bool
) -> None:
    fake.held_is_replayed = held_is_replayed
    go_on = asyncio.Event()

    async def slow(_scope: Any, _receive: Any, send: Any) -> None:
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    shop = open_shop(slow)
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    first = asyncio.create_task(shop.http.get(PAGE, headers=payment))
    await until(lambda: shop.served)
    second = await shop.http.get(PAGE, headers=payment)
    assert (second.status_code, second.json()["error"]) == (409, "payment_under_way")
    assert second.headers["retry-after"] == "1"
    go_on.set()
    assert (await first).status_code == 200
    assert len(shop.served) == 1


async def test_the_same_payment_gets_its_kept_answer_again(open_shop: Any, buyer: Any, fake: Any) -> None:
    shop = open_shop()
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    first = await shop.http.get(PAGE, headers=payment)
    again = await shop.http.get(PAGE, headers=payment)
    assert (again.status_code, again.content, again.headers) == (200, first.content, first.headers)
    assert len(shop.served) == 1
    assert fake.charged[buyer.channel_id] == 1000


async def test_a_streamed_answer_is_kept_when_it_is_whole(open_shop: Any, buyer: Any) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for chunk in (b"a", b"b", b""):
            await send({"type": "http.response.body", "body": chunk, "more_body": bool(chunk)})

    shop = open_shop(handler)
    payment = buyer.deferred(await shop.offer(PAGE), PAGE)
    for _ in range(2):
        response = await shop.http.get(PAGE, headers=payment)
        assert (response.status_code, response.content) == (200, b"ab")
    assert len(shop.served) == 1


async def test_a_stranger_with_the_payment_id_does_not_get_the_kept_answer(open_shop: Any, buyer: Any) -> None:
    shop = open_shop()
    payment_id = payment_ids.new()
    offer = await shop.offer(PAGE)
    paid = await shop.http.get(PAGE, headers=buyer.deferred(offer, PAGE, payment_id=payment_id))
    assert paid.status_code == 200

    def forge(payload: dict[str, Any]) -> None:
        payload["spendProof"]["mac"] = "0x" + "00" * 32

    stranger = buyer.deferred(offer, PAGE, payment_id=payment_id, change=forge)
    assert (await shop.http.get(PAGE, headers=stranger)).status_code == 409
    assert len(shop.served) == 1


async def test_the_sellers_token_goes_with_every_call(open_shop: Any, fake: Any) -> None:
    await open_shop().buy(PAGE)
    assert set(fake.tokens) == {"Bearer seller-token"}
