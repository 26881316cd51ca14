"""The paying transport, against sellers that behave and sellers that do not."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from msgspec import structs
from payer_fakes import PRICE, FakeAggregator, FakeSeller, no_sleep, receipt, until

from tallystick.errors import MalformedError
from tallystick.payment_ids import format_payment_id
from tallystick.reasons import Reason
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PAYMENT_SIGNATURE_HEADER,
    SCHEME_EXACT,
    PaymentPayload,
    SettleResponse,
    decode_header,
    encode_header,
    read_exact,
)
from tallystick.x402.identifier import read_payment_id
from tallystick_client import Budgets, PayingTransport, Wallet
from tallystick_client.payer.errors import BalanceTooLowError, BodyNotReplayableError, BudgetExceededError
from tallystick_client.payer.http.purchase import PAID_AGAIN_MAX
from tallystick_client.rpc import AggregatorUnavailableError


@pytest.fixture
async def http(wallet: Wallet, seller: FakeSeller) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller, sleep=no_sleep)) as client:
        yield client


NOTHING_CHARGED = {PAYMENT_RESPONSE_HEADER: receipt(0)}


def payment_ids_of(seller: FakeSeller) -> list[bytes | None]:
    headers = [request.headers[PAYMENT_SIGNATURE_HEADER] for request in seller.paid_requests]
    return [read_payment_id(decode_header(header, PaymentPayload, "h")) for header in headers]


async def test_a_402_is_answered_with_a_payment(http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet) -> None:
    response = await http.get("https://a.example/page?x=%2F1")
    assert (response.status_code, response.text) == (200, "page")
    (account,) = (await wallet.status()).accounts
    assert (account.deposits, account.charged, account.unknown) == (1, PRICE, 0)
    assert response.extensions["payment"].charged == PRICE
    assert seller.served == 1


async def test_after_the_first_402_payments_are_sent_ahead(http: httpx2.AsyncClient, seller: FakeSeller) -> None:
    await http.get("https://a.example/1")
    for page in range(2, 10):
        await http.get(f"https://a.example/{page}")
    assert len(seller.requests) == 10
    assert len(seller.paid_requests) == 9


@pytest.mark.parametrize("page", ["?", "?#top", "%7ename", "a%2fb"])
async def test_p19_a_url_that_servers_write_in_another_way_can_be_bought(
    http: httpx2.AsyncClient, seller: FakeSeller, page: str
) -> None:
    response = await http.get(f"https://a.example/{page}")
    assert (response.status_code, seller.served) == (200, 1)


async def test_other_hosts_are_asked_first(http: httpx2.AsyncClient, seller: FakeSeller) -> None:
    await http.get("https://a.example/1")
    await http.get("https://b.example/1")
    assert PAYMENT_SIGNATURE_HEADER not in seller.requests[2].headers


async def test_many_requests_at_once_need_one_deposit_and_are_never_refused(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet, aggregator: FakeAggregator
) -> None:
    seller.delay_s = 0.01
    aggregator.delay_s = 0.01
    responses = await asyncio.gather(*(http.get(f"https://{host}.example/{n}") for host in "abc" for n in range(60)))
    assert {response.status_code for response in responses} == {200}
    assert seller.in_flight_max >= 60
    assert aggregator.calls.count("Deposit") == 1
    assert aggregator.calls.count("RegisterSpendKey") == 1
    (account,) = (await wallet.status()).accounts
    assert account.charged == 180 * PRICE == aggregator.account.committed
    assert account.unknown == account.disputed == 0


async def test_a_changed_price_is_answered_once_with_the_same_payment_id(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    await http.get("https://a.example/1")
    seller.price = 2 * PRICE
    response = await http.get("https://a.example/1")
    assert response.status_code == 200
    first, second, third = payment_ids_of(seller)
    assert first != second == third
    assert (await wallet.status()).accounts[0].charged == 3 * PRICE


async def test_a_price_that_goes_on_rising_is_not_chased(http: httpx2.AsyncClient, seller: FakeSeller) -> None:
    def dearer(request: httpx2.Request) -> httpx2.Response:
        seller.price += 1
        return seller.ask(request)

    seller.before = [dearer, dearer, dearer]
    response = await http.get("https://a.example/1")
    assert response.status_code == 402
    assert len(seller.paid_requests) == 2


async def test_a_lower_price_is_all_that_is_charged(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    await http.get("https://a.example/1")
    seller.charge_less = 400
    response = await http.get("https://a.example/1")
    assert response.extensions["payment"].charged == PRICE - 400
    account = (await wallet.status()).accounts[0]
    assert account.charged == 2 * PRICE - 400


async def test_no_answer_makes_a_payment_cost_more_than_it_allowed(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    seller.after = [lambda _: httpx2.Response(200, headers={PAYMENT_RESPONSE_HEADER: receipt(10**30)})]
    response = await http.get("https://a.example/1")
    assert response.extensions["payment"].charged == PRICE
    assert (await wallet.status()).accounts[0].charged == PRICE


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "!",
        "e30=",
        "x" * 100_000,
        encode_header(SettleResponse(success=True, transaction="", network="eip155:1", extra={"chargedAmount": "-1"})),
    ],
)
async def test_a_receipt_that_says_nothing_leaves_the_payment_unknown(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet, garbage: str
) -> None:
    seller.after = [lambda _: httpx2.Response(200, headers={PAYMENT_RESPONSE_HEADER: garbage})]
    assert (await http.get("https://a.example/1")).status_code == 200
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (0, PRICE)


async def test_a_lost_answer_is_asked_for_again_with_the_same_payment(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet, aggregator: FakeAggregator
) -> None:
    def lost(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("connection lost", request=request)

    seller.after = [lost]
    response = await http.get("https://a.example/1")
    assert response.status_code == 409
    first, second = payment_ids_of(seller)
    assert first == second
    assert seller.served == 1
    assert aggregator.account.committed == PRICE
    account = (await wallet.status()).accounts[0]
    assert account.charged + account.unknown == PRICE


async def test_a_request_that_never_arrived_is_sent_again_and_charged_once(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet, aggregator: FakeAggregator
) -> None:
    def lost(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.RemoteProtocolError("server disconnected", request=request)

    seller.before = [lost, lost]
    assert (await http.get("https://a.example/1")).status_code == 200
    assert len(set(payment_ids_of(seller))) == 1
    assert aggregator.account.committed == PRICE
    assert (await wallet.status()).accounts[0].charged == PRICE


async def test_a_payment_that_is_under_way_is_waited_for(http: httpx2.AsyncClient, seller: FakeSeller) -> None:
    def lost(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("slow", request=request)

    seller.before = [lost, lambda _: httpx2.Response(409, headers={"retry-after": "1"})]
    assert (await http.get("https://a.example/1")).status_code == 200
    assert len(set(payment_ids_of(seller))) == 1


async def test_a_page_slower_than_the_clients_patience_is_a_timeout_and_costs_nothing(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    def slow(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("slow", request=request)

    seller.before = [slow, lambda request: seller.ask(request, "reservation_released: This payment was released.")]
    with pytest.raises(httpx2.ReadTimeout):
        await http.get("https://a.example/1")
    account = (await wallet.status()).accounts[0]
    assert (len(seller.paid_requests), account.charged, account.unknown) == (2, 0, 0)


async def test_a_402_that_does_not_say_why_is_the_callers_even_after_a_lost_answer(
    http: httpx2.AsyncClient, seller: FakeSeller
) -> None:
    def lost(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("connection lost", request=request)

    seller.before = [lost, lambda _: httpx2.Response(402, headers={"payment-required": "?"})]
    assert (await http.get("https://a.example/1")).status_code == 402


async def test_who_stays_lost_is_given_up_and_the_payment_is_unknown(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    def lost(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("slow", request=request)

    seller.before = [lost] * 10
    with pytest.raises(httpx2.ReadTimeout):
        await http.get("https://a.example/1")
    assert len(seller.paid_requests) == 4
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (0, PRICE)


async def test_a_payment_that_could_not_be_sent_is_free_again(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    def refused(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    seller.before = [refused]
    with pytest.raises(httpx2.ConnectError):
        await http.get("https://a.example/1")
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (0, 0)


async def test_a_cancelled_request_leaves_its_payment_unknown(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    await http.get("https://a.example/1")
    seller.delay_s = 30
    task = asyncio.create_task(http.get("https://a.example/2"))
    await until(lambda: len(seller.paid_requests) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (PRICE, PRICE)


async def test_a_replayed_payment_is_told_as_it_is(http: httpx2.AsyncClient, seller: FakeSeller) -> None:
    seller.before = [lambda _: httpx2.Response(409, json={"error": "payment_replayed"})]
    assert (await http.get("https://a.example/1")).status_code == 409
    assert len(seller.paid_requests) == 1


@pytest.mark.parametrize("status", [500, 503, 404])
async def test_an_error_without_receipt_leaves_the_payment_unknown(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet, status: int
) -> None:
    seller.before = [lambda _: httpx2.Response(status, headers={"retry-after": "2"})] * 4
    assert (await http.get("https://a.example/1")).status_code == status
    assert (await wallet.status()).accounts[0].unknown == PRICE


async def test_an_error_whose_receipt_says_released_costs_nothing(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    seller.before = [lambda _: httpx2.Response(500, headers={PAYMENT_RESPONSE_HEADER: receipt(0)})]
    assert (await http.get("https://a.example/1")).status_code == 500
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (0, 0)


async def test_a_redirect_carries_no_payment_to_another_origin(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    await http.get("https://a.example/1")
    moved = {"location": "https://b.example/2", PAYMENT_RESPONSE_HEADER: receipt(0)}
    seller.before = [lambda _: httpx2.Response(302, headers=moved)]
    response = await http.get("https://a.example/2", follow_redirects=True)
    assert response.status_code == 200
    to_b = [request for request in seller.requests if request.url.host == "b.example"]
    assert PAYMENT_SIGNATURE_HEADER not in to_b[0].headers
    receivers = {channel.receiver for channel in (await wallet.status()).accounts[0].channels}
    assert len(receivers) == 2


async def test_the_callers_own_request_never_carries_a_payment(http: httpx2.AsyncClient, seller: FakeSeller) -> None:
    request = http.build_request("GET", "https://a.example/1", headers={PAYMENT_SIGNATURE_HEADER: "stolen"})
    response = await http.send(request)
    assert response.status_code == 200
    assert response.request.headers[PAYMENT_SIGNATURE_HEADER] == "stolen"
    assert PAYMENT_SIGNATURE_HEADER not in seller.requests[0].headers


async def test_a_body_with_a_length_is_bound_and_sent_again(http: httpx2.AsyncClient, seller: FakeSeller) -> None:
    response = await http.post("https://a.example/1", json={"question": 1})
    assert response.status_code == 200
    assert seller.served == 1


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_streamed_body_is_paid_ahead_once_its_price_is_known(
    http: httpx2.AsyncClient, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    with pytest.raises(BodyNotReplayableError, match="price is known now"):
        await http.post("https://a.example/up", content=stream(b"a", b"b"))
    assert not aggregator.accounts
    response = await http.post("https://a.example/up", content=stream(b"a", b"b"))
    assert response.status_code == 200
    assert len(seller.paid_requests) == 1


async def test_a_streamed_body_is_never_paid_for_twice(http: httpx2.AsyncClient, seller: FakeSeller) -> None:
    def lost(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("lost", request=request)

    await http.get("https://a.example/1")
    seller.before = [lost]
    with pytest.raises(httpx2.ReadError):
        await http.post("https://a.example/up", content=stream(b"a"))
    seller.price = 2 * PRICE
    assert (await http.post("https://a.example/up", content=stream(b"a"))).status_code == 402
    assert len(seller.paid_requests) == 3


async def test_a_free_upload_streams_through(http: httpx2.AsyncClient, seller: FakeSeller) -> None:
    seller.prices["/free"] = 0
    assert (await http.post("https://a.example/free", content=stream(b"a"))).text == "free"


async def test_a_path_that_took_no_payment_is_not_paid_again(http: httpx2.AsyncClient, seller: FakeSeller) -> None:
    seller.prices["/free"] = 0
    await http.get("https://a.example/1")
    for _ in range(3):
        assert (await http.get("https://a.example/free")).text == "free"
    assert len(seller.paid_requests) == 2


@pytest.mark.parametrize(("method", "path"), [("HEAD", "/1"), ("GET", "/robots.txt"), ("GET", "/.well-known/x")])
async def test_what_is_free_everywhere_is_never_paid_ahead(
    http: httpx2.AsyncClient, seller: FakeSeller, method: str, path: str
) -> None:
    seller.prices = {"/robots.txt": 0, "/.well-known/x": 0}
    await http.get("https://a.example/0")
    await http.request(method, f"https://a.example{path}")
    assert PAYMENT_SIGNATURE_HEADER not in seller.requests[2].headers


async def test_a_402_without_terms_is_the_callers(wallet: Wallet) -> None:
    inner = httpx2.MockTransport(lambda _: httpx2.Response(402, json={"error": "pay by card"}))
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, inner)) as other:
        assert (await other.get("https://a.example/")).status_code == 402


@pytest.mark.parametrize("header", ["", "not base64!", "e30=", "eA==", "A" * 20_000, "AAAA", "W10=", "é"])
async def test_a_malformed_402_signs_nothing(wallet: Wallet, aggregator: FakeAggregator, header: str) -> None:
    answer = httpx2.Response(402, headers=[(PAYMENT_REQUIRED_HEADER.encode(), header.encode("latin-1"))])
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, httpx2.MockTransport(lambda _: answer))) as http:
        with pytest.raises(MalformedError, match="PAYMENT-REQUIRED"):
            await http.get("https://a.example/")
    assert not aggregator.calls


async def test_exact_is_paid_where_there_is_no_deposit(open_wallet: object, seller: FakeSeller) -> None:
    wallet: Wallet = await open_wallet(deposit=None)  # type: ignore[operator]
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        for _ in range(2):
            response = await http.get("https://a.example/1")
            assert response.status_code == 200
            assert response.extensions["payment"].scheme == SCHEME_EXACT
            assert response.extensions["payment"].transaction == "0x" + "ab" * 32
    assert len(seller.exact) == 2
    assert len({authorization.nonce for authorization in seller.exact}) == 2
    assert all(authorization.to == seller.receiver("a.example") for authorization in seller.exact)


async def test_an_exact_payment_whose_answer_is_lost_is_sent_again_as_it_is(
    open_wallet: object, seller: FakeSeller
) -> None:
    def lost(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("lost", request=request)

    wallet: Wallet = await open_wallet(deposit=None)  # type: ignore[operator]
    seller.before = [lost]
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller, sleep=no_sleep)) as http:
        assert (await http.get("https://a.example/1")).status_code == 200
    headers = {request.headers[PAYMENT_SIGNATURE_HEADER] for request in seller.paid_requests}
    assert len(headers) == 1
    assert len(seller.paid_requests) == 2


async def test_a_price_above_the_budget_is_not_paid(open_wallet: object, seller: FakeSeller) -> None:
    wallet: Wallet = await open_wallet(budgets=Budgets(per_request="0.0009"))  # type: ignore[operator]
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        with pytest.raises(BudgetExceededError, match="per_request"):
            await http.get("https://a.example/1")
    assert not seller.paid_requests


# Prices, and what is free.


async def test_w1_after_a_dear_page_every_other_page_is_read_and_paid_once(
    open_wallet: object, seller: FakeSeller
) -> None:
    wallet: Wallet = await open_wallet(budgets=Budgets(per_request=PRICE))  # type: ignore[operator]
    seller.prices = {"/dear": 1_000 * PRICE} | {f"/free/{number}": 0 for number in range(20)}
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        assert (await http.get("https://a.example/first")).status_code == 200
        for _ in range(2):
            with pytest.raises(BudgetExceededError, match="per_request"):
                await http.get("https://a.example/dear")
        for number in range(20):
            assert (await http.get(f"https://a.example/cheap/{number}")).text == "page"
            assert (await http.get(f"https://a.example/free/{number}")).text == "free"
    await wallet.reconcile()
    (account,) = (await wallet.status()).accounts
    assert (account.charged, account.unknown, seller.served) == (21 * PRICE, 0, 21)


async def test_w1_a_price_that_is_refused_here_is_asked_for_again(open_wallet: object, seller: FakeSeller) -> None:
    wallet: Wallet = await open_wallet(budgets=Budgets(per_host=3 * PRICE))  # type: ignore[operator]
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        for number in range(3):
            assert (await http.get(f"https://a.example/{number}")).status_code == 200
        with pytest.raises(BudgetExceededError, match="per_host"):
            await http.get("https://a.example/3")
        seller.prices["/4"] = 0
        assert (await http.get("https://a.example/4")).text == "free"


async def test_w1_a_spike_of_the_price_is_forgotten(open_wallet: object, seller: FakeSeller) -> None:
    wallet: Wallet = await open_wallet(budgets=Budgets(per_request=PRICE))  # type: ignore[operator]
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        seller.price = 1_000 * PRICE
        with pytest.raises(BudgetExceededError):
            await http.get("https://a.example/1")
        seller.price = PRICE
        for number in (1, 2, 3):
            assert (await http.get(f"https://a.example/{number}")).status_code == 200
    assert len(seller.paid_requests) == 3


async def test_w6_nothing_is_paid_ahead_outside_of_what_the_seller_published(
    http: httpx2.AsyncClient, seller: FakeSeller
) -> None:
    seller.pattern = "/articles/*"
    await http.get("https://a.example/articles/1")
    await http.get("https://a.example/articles/2")
    assert len(seller.paid_requests) == 2
    for path in ("/favicon.ico", "/other"):
        await http.get(f"https://a.example{path}")
        assert PAYMENT_SIGNATURE_HEADER not in seller.requests[-2].headers
    await http.get("https://a.example/other")
    assert (len(seller.requests), len(seller.paid_requests)) == (3 + 4 + 1, 2 + 2 + 1)


async def test_w6_two_sellers_on_one_origin_are_both_paid_though_one_publishes_a_price_for_all(
    http: httpx2.AsyncClient, seller: FakeSeller
) -> None:
    def of_another_seller(request: httpx2.Request) -> httpx2.Response:
        required = seller.required(request)
        accepts = [structs.replace(offer, pay_to="0x" + "77" * 20) for offer in required.accepts]
        header = request.headers.get(PAYMENT_SIGNATURE_HEADER)
        if header is None or decode_header(header, PaymentPayload, "h").accepted.pay_to != accepts[0].pay_to:
            asked = structs.replace(required, accepts=accepts, extensions=None)
            return httpx2.Response(402, headers={PAYMENT_REQUIRED_HEADER: encode_header(asked)})
        return httpx2.Response(200, headers={PAYMENT_RESPONSE_HEADER: receipt(PRICE)})

    seller.others["/b/"] = of_another_seller
    pages = [f"https://a.example/{whose}/{number}" for number in range(6) for whose in "ab"]
    answers = [(await http.get(page)).status_code for page in pages]
    # The first two pages of the other seller come with a payment that was meant for this one.
    assert (answers.count(200), answers.count(402)) == (10, 2)


@pytest.mark.parametrize("status", [200, 301, 404])
async def test_p18_a_payment_that_was_not_needed_is_answered_as_free_and_not_sent_again(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet, status: int
) -> None:
    def free(request: httpx2.Request) -> httpx2.Response:
        if PAYMENT_SIGNATURE_HEADER not in request.headers:
            return httpx2.Response(status)
        return httpx2.Response(status, headers={PAYMENT_RESPONSE_HEADER: receipt(0)})

    await http.get("https://a.example/1")
    seller.before = [free] * 300
    for number in range(300):
        response = await http.get(f"https://a.example/free/{number}")
        assert (response.status_code, response.extensions["payment"].charged) == (status, 0)
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (PRICE, 0)
    seller.prices = {"/free/7": 0}
    await http.get("https://a.example/free/7")
    assert PAYMENT_SIGNATURE_HEADER not in seller.requests[-1].headers


# One receiver, one payment.


async def test_w5_a_402_that_names_another_receiver_gets_no_second_payment(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet, aggregator: FakeAggregator
) -> None:
    def charged_and_elsewhere(request: httpx2.Request) -> httpx2.Response:
        required = seller.required(request, "amount_mismatch: no")
        offers = [structs.replace(offer, pay_to="0x" + "77" * 20) for offer in required.accepts]
        return httpx2.Response(
            402, headers={PAYMENT_REQUIRED_HEADER: encode_header(structs.replace(required, accepts=offers))}
        )

    seller.after = [charged_and_elsewhere]
    response = await http.get("https://a.example/1")
    assert (response.status_code, len(seller.paid_requests)) == (402, 1)
    assert aggregator.account.committed == PRICE
    assert len((await wallet.status()).accounts[0].channels) == 1


@pytest.mark.parametrize("times", [1, 2, PAID_AGAIN_MAX])
async def test_a_page_is_bought_however_often_its_key_is_revoked_under_way(
    http: httpx2.AsyncClient, seller: FakeSeller, aggregator: FakeAggregator, times: int
) -> None:
    """As a served wallet does it to a worker whose lease has run out, or while others lack headroom."""
    seller.before = [lambda _: revoke_keys(aggregator)] * times
    assert (await http.get("https://a.example/1")).status_code == 200
    assert (len(seller.paid_requests), len(set(payment_ids_of(seller)))) == (times + 1, 1)
    assert aggregator.account.committed == PRICE


async def test_keys_that_are_always_revoked_end_in_the_callers_402(
    http: httpx2.AsyncClient, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    seller.before = [lambda _: revoke_keys(aggregator)] * 100
    assert (await http.get("https://a.example/1")).status_code == 402
    assert (len(seller.paid_requests), len(set(payment_ids_of(seller)))) == (PAID_AGAIN_MAX + 1, 1)
    assert aggregator.account.committed == 0


@pytest.mark.parametrize("error", ["insufficient_ceiling: no", "insufficient_funds: no"])
async def test_books_that_differ_are_compared_once_a_request(
    http: httpx2.AsyncClient, seller: FakeSeller, error: str
) -> None:
    seller.before = [lambda request: seller.ask(request, error)] * 100
    assert (await http.get("https://a.example/1")).status_code == 402
    assert len(seller.paid_requests) == 2


async def test_a_refusal_that_cannot_be_mended_now_is_no_402(
    http: httpx2.AsyncClient, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    seller.before = [lambda _: revoke_keys(aggregator)]
    aggregator.lose_answers["GetAccount"] = 100
    with pytest.raises(AggregatorUnavailableError):
        await http.get("https://a.example/1")
    aggregator.lose_answers.clear()
    assert (await http.get("https://a.example/1")).status_code == 200
    assert aggregator.account.committed == PRICE


class Body(httpx2.AsyncByteStream):
    """A response's body; while it is not closed, its connection is in use."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield await self._response.aread()

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_no_response_stays_open_where_its_refusal_cannot_be_mended(
    seller: FakeSeller, wallet: Wallet, aggregator: FakeAggregator, *, is_cancelled: bool
) -> None:
    bodies: list[Body] = []

    class Inner(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await seller.handle_async_request(request)
            bodies.append(Body(response))
            return httpx2.Response(response.status_code, headers=response.headers, stream=bodies[-1])

    async def cancel(*_: Any) -> bool:
        raise asyncio.CancelledError

    seller.before = [lambda _: revoke_keys(aggregator)]
    if is_cancelled:
        wallet.recover_from = cancel  # type: ignore[method-assign]
    else:
        aggregator.lose_answers["GetAccount"] = 100
    transport = PayingTransport(wallet, Inner(), sleep=no_sleep)
    with pytest.raises(asyncio.CancelledError if is_cancelled else AggregatorUnavailableError):
        await transport.handle_async_request(httpx2.Request("GET", "https://a.example/1"))
    assert [body.is_closed for body in bodies] == [True, True]


def revoke_keys(aggregator: FakeAggregator) -> None:
    for key in aggregator.account.keys.values():
        key.revoked = True


async def test_x6_a_payment_is_sent_again_across_503_until_it_is_taken(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet, aggregator: FakeAggregator
) -> None:
    seller.before = [lambda _: httpx2.Response(503, headers={"retry-after": "1"})] * 2
    assert (await http.get("https://a.example/1")).status_code == 200
    assert (len(seller.paid_requests), len(set(payment_ids_of(seller)))) == (3, 1)
    account = (await wallet.status()).accounts[0]
    assert (aggregator.account.committed, account.charged, account.unknown) == (PRICE, PRICE, 0)


async def test_x6_what_a_late_try_is_charged_is_entered_though_one_between_told_nothing(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    seller.before = [lambda _: httpx2.Response(503)] * 2
    answers = [(await http.get("https://a.example/1")).status_code for _ in range(3)]
    assert (answers, len(set(payment_ids_of(seller)))) == ([503, 503, 200], 1)
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (PRICE, 0)


@pytest.mark.parametrize("charged", [False, True])
async def test_x6_a_callers_next_try_sends_the_same_payment(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet, aggregator: FakeAggregator, *, charged: bool
) -> None:
    faults = seller.after if charged else seller.before
    faults += [lambda _: httpx2.Response(503)]
    assert (await http.get("https://a.example/1")).status_code == 503
    assert (await http.get("https://a.example/1")).status_code == (409 if charged else 200)
    assert len(set(payment_ids_of(seller))) == 1
    await wallet.reconcile()
    account = (await wallet.status()).accounts[0]
    assert (aggregator.account.committed, account.charged, account.unknown) == (PRICE, PRICE, 0)
    # What was charged and not served pays for nothing new; the try after it is another purchase.
    assert (await http.get("https://a.example/1")).status_code == 200
    assert len(set(payment_ids_of(seller))) == 2


async def test_what_the_callers_next_try_is_told_is_entered_at_once(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    seller.before = [lambda _: httpx2.Response(503)]
    for status, charged, unknown in ((503, 0, PRICE), (200, PRICE, 0)):
        assert (await http.get("https://a.example/1")).status_code == status
        account = (await wallet.status()).accounts[0]
        assert (account.charged, account.unknown) == (charged, unknown)
    wallet._book.check()


async def test_a_next_try_that_is_told_of_no_charge_frees_nothing(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    seller.before = [lambda _: httpx2.Response(503), lambda _: httpx2.Response(200, headers=NOTHING_CHARGED)]
    for status in (503, 200):
        assert (await http.get("https://a.example/1")).status_code == status
        account = (await wallet.status()).accounts[0]
        assert (account.charged, account.unknown) == (0, PRICE)


async def test_x6_a_try_after_the_key_was_revoked_is_paid_again_under_the_same_id(
    http: httpx2.AsyncClient, seller: FakeSeller, wallet: Wallet, aggregator: FakeAggregator
) -> None:
    seller.before = [lambda _: httpx2.Response(500)]
    assert (await http.get("https://a.example/1")).status_code == 500
    await wallet.reconcile()
    assert (await wallet.status()).accounts[0].unknown == 0
    assert (await http.get("https://a.example/1")).status_code == 200
    first, second, third = payment_ids_of(seller)
    assert first == second == third
    assert aggregator.account.committed == PRICE


async def test_x6_another_request_gets_another_payment(http: httpx2.AsyncClient, seller: FakeSeller) -> None:
    seller.before = [lambda _: httpx2.Response(503)]
    await http.post("https://a.example/1", content=b"one")
    assert (await http.post("https://a.example/1", content=b"two")).status_code == 200
    assert len(set(payment_ids_of(seller))) == 2


@pytest.mark.parametrize("settings", [{}, {"deposit": None}], ids=["deferred", "exact"])
async def test_x6_the_payments_of_equal_requests_made_at_once_are_all_sent_again(
    open_wallet: object, seller: FakeSeller, settings: dict[str, None]
) -> None:
    wallet: Wallet = await open_wallet(**settings)  # type: ignore[operator]
    seller.before = [lambda _: httpx2.Response(503)] * 3
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        for status in (503, 200):
            answers = await asyncio.gather(*(http.get("https://a.example/1") for _ in range(3)))
            assert [answer.status_code for answer in answers] == [status] * 3
    assert len(set(payment_ids_of(seller))) == 3


class Pauses:
    """A clock that only sleeping moves."""

    def __init__(self, now_s: float = 0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


@pytest.mark.parametrize("status", [409, 503])
async def test_x4_an_exact_payment_that_is_under_way_is_asked_for_until_its_time_is_over(
    open_wallet: object, seller: FakeSeller, status: int
) -> None:
    wallet: Wallet = await open_wallet(deposit=None)  # type: ignore[operator]
    pending = httpx2.Response(status, headers={"retry-after": "2"}, json={"error": "payment_pending"})
    clock = Pauses()
    transport = PayingTransport(wallet, seller, sleep=clock.sleep, monotonic=clock)
    async with httpx2.AsyncClient(transport=transport, timeout=5) as http:
        seller.before = [lambda _: pending] * 20
        assert (await http.get("https://a.example/1")).status_code == 200
        assert 40 <= clock.now_s < 60
        seller.before = [lambda _: pending] * 100
        assert (await http.get("https://a.example/2")).status_code == status
        seller.before.clear()
        assert (await http.get("https://a.example/2")).status_code == 200
    assert len({request.headers[PAYMENT_SIGNATURE_HEADER] for request in seller.paid_requests}) == 2
    assert len(seller.exact) == 2
    # The read timeout fits what the seller may take; the others stay the caller's.
    timeout = seller.paid_requests[0].extensions["timeout"]
    assert (timeout["read"] >= 60, timeout["connect"]) == (True, 5)
    assert seller.requests[0].extensions["timeout"]["read"] == 5


async def test_x4_an_exact_payment_names_itself(open_wallet: object, seller: FakeSeller) -> None:
    wallet: Wallet = await open_wallet(deposit=None)  # type: ignore[operator]
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        answers = [await http.get(f"https://a.example/{number}") for number in range(2)]
    ids = payment_ids_of(seller)
    assert None not in ids
    assert len(set(ids)) == 2
    assert [format_payment_id(id_) for id_ in ids if id_] == [a.extensions["payment"].payment_id for a in answers]


@pytest.mark.parametrize("answer", [402, 503])
async def test_x6_a_refused_exact_payment_is_not_followed_by_a_second_while_it_can_land(
    open_wallet: object, seller: FakeSeller, aggregator: FakeAggregator, answer: int
) -> None:
    clock = Pauses(time.time())
    wallet: Wallet = await open_wallet(deposit=None, clock=clock)  # type: ignore[operator]
    aggregator.clock = clock
    transport = PayingTransport(wallet, seller, sleep=clock.sleep, clock=clock, monotonic=clock)
    async with httpx2.AsyncClient(transport=transport) as http:
        seller.before = [
            lambda request: seller.ask(request, "simulation_failed: no") if answer == 402 else httpx2.Response(503)
        ] * 7
        for _ in range(5):
            assert (await http.get("https://a.example/1")).status_code == answer
        assert len({request.headers[PAYMENT_SIGNATURE_HEADER] for request in seller.paid_requests}) == 1
        clock.now_s += 61
        if answer == 402:
            # Refused after its end: then another is signed.
            seller.before = [lambda request: seller.ask(request, "exact_expired: no")]
            assert (await http.get("https://a.example/1")).status_code == 200
            assert len({request.headers[PAYMENT_SIGNATURE_HEADER] for request in seller.paid_requests}) == 2


# Transfers that cannot be made.


async def test_x10_no_transfer_is_signed_beyond_the_payers_balance(
    open_wallet: object, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet: Wallet = await open_wallet(deposit=None, budgets=Budgets(per_day=2 * PRICE))  # type: ignore[operator]
    aggregator.balance = 1
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        for _ in range(5):
            with pytest.raises(BalanceTooLowError, match="nothing was signed"):
                await http.get("https://a.example/1")
        aggregator.balance = PRICE
        assert (await http.get("https://a.example/1")).status_code == 200
    assert (await wallet.status()).exact[0].paid == PRICE


async def test_x10_transfers_at_once_are_not_signed_beyond_the_payers_balance_together(
    open_wallet: object, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet: Wallet = await open_wallet(deposit=None)  # type: ignore[operator]
    aggregator.balance = 2 * PRICE
    seller.before = [lambda request: seller.ask(request, "simulation_failed: no")] * 5
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        gets = (http.get(f"https://a.example/{number}") for number in range(5))
        answers = await asyncio.gather(*gets, return_exceptions=True)
    assert sum(isinstance(answer, BalanceTooLowError) for answer in answers) == 3
    assert (await wallet.status()).exact[0].paid == 2 * PRICE


async def test_x10_an_aggregator_that_tells_no_balance_stops_no_transfer(
    open_wallet: object, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    wallet: Wallet = await open_wallet(deposit=None)  # type: ignore[operator]
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        aggregator.balance = None
        assert (await http.get("https://a.example/1")).status_code == 200
        aggregator.refuse["GetBalance"] = Reason.OVERLOADED
        assert (await http.get("https://a.example/2")).status_code == 200
        await aggregator.stop()
        assert (await http.get("https://a.example/3")).status_code == 200


@pytest.mark.parametrize("tells", [True, False])
async def test_x10_refused_transfers_are_free_again_once_they_cannot_land(
    open_wallet: object, seller: FakeSeller, aggregator: FakeAggregator, *, tells: bool
) -> None:
    clock = Pauses(time.time())
    settings = {"deposit": None, "clock": clock, "budgets": Budgets(total=6 * PRICE)}
    wallet: Wallet = await open_wallet(**settings)  # type: ignore[operator]
    aggregator.clock, aggregator.tells_nonces = clock, tells
    transport = PayingTransport(wallet, seller, sleep=clock.sleep, clock=clock, monotonic=clock)
    async with httpx2.AsyncClient(transport=transport) as http:
        seller.before = [lambda request: seller.ask(request, "insufficient_balance: no")] * 5
        for number in range(5):
            assert (await http.get(f"https://a.example/{number}")).status_code == 402
        assert (await http.get("https://a.example/paid")).status_code == 200
        # One that was refused is landed all the same.
        refused = decode_header(seller.paid_requests[0].headers[PAYMENT_SIGNATURE_HEADER], PaymentPayload, "h")
        aggregator.landed.add(read_exact(refused).nonce)
        await wallet.reconcile()
        assert (await wallet.status()).exact[0].paid == 6 * PRICE, "they can be landed still"
        with pytest.raises(BudgetExceededError):
            await http.get("https://a.example/more")
        clock.now_s += 61
        await wallet.close()
        wallet = await open_wallet(**settings)  # type: ignore[operator]
        result = await wallet.reconcile()
        assert result.freed == (4 * PRICE if tells else 0)
        assert (await wallet.status()).exact[0].paid == (2 * PRICE if tells else 6 * PRICE)


async def test_x10_a_transfer_that_its_seller_confirmed_is_spent_whatever_the_aggregator_says(
    open_wallet: object, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    clock = Pauses(time.time())
    wallet: Wallet = await open_wallet(deposit=None, clock=clock)  # type: ignore[operator]
    aggregator.clock = clock
    async with httpx2.AsyncClient(transport=PayingTransport(wallet, seller, clock=clock)) as http:
        assert (await http.get("https://a.example/1")).status_code == 200
    aggregator.landed.clear()
    clock.now_s += 3_600
    assert (await wallet.reconcile()).freed == 0
    assert (await wallet.status()).exact[0].paid == PRICE
