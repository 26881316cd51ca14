"""Exact payments through the paywall: sent after the handler, before the first byte, and never served twice."""

import asyncio
from typing import Any

from tallystick import x402
from tallystick_client import Rule

PAGE = "/articles/1"


async def test_an_exact_payment_is_settled_before_the_first_byte(
    open_shop: Any, buyer: Any, exchange: Any, fake: Any
) -> None:
    settled_at_first_byte: list[int] = []
    shop = open_shop()
    one = exchange(shop.paywall, PAGE, buyer.exact(await shop.offer(PAGE, "exact")))
    one.on_send = lambda _: settled_at_first_byte.append(len(fake.exact_settled))
    await one.run()
    assert (one.status, one.body, settled_at_first_byte[0]) == (200, b"hello", 1)
    assert fake.calls == ["Supported", "Verify", "Settle"]


async def test_the_receipt_names_the_transaction(open_shop: Any, buyer: Any) -> None:
    receipt = buyer.receipt(await open_shop().buy_exact(PAGE))
    assert (receipt.success, receipt.transaction) == (True, "0x" + "ab" * 32)
    assert (receipt.network, receipt.amount, receipt.extra) == ("eip155:31337", "1000", None)


async def test_it_needs_no_payment_identifier_and_tolerates_an_echoed_one(open_shop: Any, buyer: Any) -> None:
    """The official clients repeat the 402's extensions in the payment without filling them in."""
    shop = open_shop()
    response = await shop.http.get(PAGE)
    offer = buyer.terms(response, "exact")
    required = buyer.required(response)
    headers = buyer.exact(offer)
    assert (await shop.http.get(PAGE, headers=headers)).status_code == 200
    message = x402.decode_header(buyer.exact(offer)["PAYMENT-SIGNATURE"], x402.PaymentPayload, "payment")
    echoed = buyer.header(offer, message.payload, required.extensions)
    assert (await shop.http.get(PAGE, headers=echoed)).status_code == 200


async def test_a_failed_handler_sends_no_transaction_and_the_payment_stays_good(
    open_shop: Any, buyer: Any, fake: Any
) -> None:
    statuses = [500, 200]

    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": statuses.pop(0), "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    shop = open_shop(handler)
    payment = buyer.exact(await shop.offer(PAGE, "exact"))
    failed = await shop.http.get(PAGE, headers=payment)
    assert (failed.status_code, "payment-response" in failed.headers) == (500, False)
    assert fake.exact_settled == {}
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 200
    assert len(fake.exact_settled) == 1


async def test_a_failed_settlement_delivers_nothing(open_shop: Any, buyer: Any, fake: Any, refusal_of: Any) -> None:
    shop = open_shop()
    fake.settle_trouble = [refusal_of("TRANSACTION_FAILED")]
    response = await shop.buy_exact(PAGE)
    assert buyer.required(response).error.startswith("transaction_failed: ")
    assert (buyer.receipt(response).success, response.json()["x402Version"]) == (False, 2)


async def test_a_wrong_amount_is_refused(open_shop: Any, buyer: Any) -> None:
    shop = open_shop()
    assert buyer.required(await shop.buy_exact(PAGE, value=999)).error.startswith("amount_mismatch: ")
    assert shop.served == []


async def test_two_concurrent_identical_payments_run_the_handler_once(
    open_shop: Any, buyer: Any, fake: Any, until: Any
) -> None:
    go_on = asyncio.Event()

    async def slow(_scope: Any, _receive: Any, send: Any) -> None:
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    shop = open_shop(slow)
    payment = buyer.exact(await shop.offer(PAGE, "exact"))
    requests = [asyncio.create_task(shop.http.get(PAGE, headers=payment)) for _ in range(5)]
    await until(lambda: sum(request.done() for request in requests) == 4)
    go_on.set()
    responses = await asyncio.gather(*requests)
    assert sorted(response.status_code for response in responses) == [200, 409, 409, 409, 409]
    assert (len(shop.served), fake.calls.count("Settle")) == (1, 1)


async def test_one_payment_for_two_urls_at_once_buys_one(open_shop: Any, buyer: Any) -> None:
    shop = open_shop(rules=[Rule(path="*", price="0.001 USDC")])
    payment = buyer.exact(await shop.offer(PAGE, "exact"))
    responses = await asyncio.gather(*(shop.http.get(f"/articles/{n}", headers=payment) for n in range(5)))
    assert sorted(response.status_code for response in responses) == [200, 409, 409, 409, 409]


async def test_x11_a_settled_payment_buys_nothing_new_and_without_an_id_nothing_again(
    open_shop: Any, buyer: Any
) -> None:
    shop = open_shop()
    payment = buyer.exact(await shop.offer(PAGE, "exact"))
    assert (await shop.http.get(PAGE, headers=payment)).status_code == 200
    for target in ("/articles/2", PAGE):
        again = await shop.http.get(target, headers=payment)
        assert (again.status_code, again.json()["error"]) == (409, "payment_used")
        assert "retry-after" not in again.headers
    assert len(shop.served) == 1


async def test_a_payment_that_another_process_settled_meanwhile_delivers_nothing(open_shop: Any, fake: Any) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        nonce = (77).to_bytes(32, "big")
        fake.exact_settled[nonce], fake.exact_owners[nonce] = b"\xab" * 32, (bytes(16), bytes(32))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    shop = open_shop(handler)
    response = await shop.buy_exact(PAGE, nonce=77)
    assert (response.status_code, response.json()["error"]) == (409, "payment_used")
    assert len(shop.paywall.flows.state.kept) == 0


async def test_x1_what_is_replayed_is_never_served(open_shop: Any, fake: Any) -> None:
    """An aggregator that knows no attempts cannot tell this process from another."""
    fake.exact_settled[(78).to_bytes(32, "big")] = b"\xab" * 32
    fake._take_exact = lambda *_: None
    settle = fake._settle_exact

    def replayed(request: Any) -> Any:
        response = settle(request)
        response.replayed = True
        return response

    fake._settle_exact = replayed
    response = await open_shop().buy_exact(PAGE, nonce=78)
    assert (response.status_code, response.json()["error"]) == (409, "payment_used")


async def test_a_pending_transaction_is_waited_for(open_shop: Any, fake: Any, refusal_of: Any) -> None:
    shop = open_shop(settle_patience_s=5)
    fake.settle_trouble = [refusal_of("TRANSACTION_PENDING")] * 2
    assert (await shop.buy_exact(PAGE)).status_code == 200
    assert fake.calls.count("Settle") == 3
