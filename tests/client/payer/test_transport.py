"""The paying transport, against sellers that behave and sellers that do not."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from payer_fakes import PRICE, FakeAggregator, FakeSeller, receipt, until

from tallystick.errors import MalformedError
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PAYMENT_SIGNATURE_HEADER,
    SCHEME_EXACT,
    PaymentPayload,
    SettleResponse,
    decode_header,
    encode_header,
    read_payment_id,
)
from tallystick_client import Budgets, PayingTransport, Wallet
from tallystick_client.payer.errors import BodyNotReplayable, BudgetExceeded


@pytest.fixture
async def http(wallet: Wallet, seller: FakeSeller) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=PayingTransport(wallet, seller, sleep=no_sleep)) as client:
        yield client


async def no_sleep(_seconds: float) -> None:
    await asyncio.sleep(0)


def payment_ids_of(seller: FakeSeller) -> list[bytes | None]:
    headers = [request.headers[PAYMENT_SIGNATURE_HEADER] for request in seller.paid_requests]
    return [read_payment_id(decode_header(header, PaymentPayload, "h")) for header in headers]


async def test_a_402_is_answered_with_a_payment(http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet) -> None:
    response = await http.get("http://a.example/page?x=%2F1")
    assert (response.status_code, response.text) == (200, "page")
    (account,) = (await wallet.status()).accounts
    assert (account.deposits, account.charged, account.unknown) == (1, PRICE, 0)
    assert response.extensions["payment"].charged == PRICE
    assert seller.served == 1


async def test_after_the_first_402_payments_are_sent_ahead(http: httpx.AsyncClient, seller: FakeSeller) -> None:
    await http.get("http://a.example/1")
    for page in range(2, 10):
        await http.get(f"http://a.example/{page}")
    assert len(seller.requests) == 10
    assert len(seller.paid_requests) == 9


@pytest.mark.parametrize("page", ["?", "?#top", "%7ename", "a%2fb"])
async def test_p19_a_url_that_servers_write_in_another_way_can_be_bought(
    http: httpx.AsyncClient, seller: FakeSeller, page: str
) -> None:
    response = await http.get(f"http://a.example/{page}")
    assert (response.status_code, seller.served) == (200, 1)


async def test_other_hosts_are_asked_first(http: httpx.AsyncClient, seller: FakeSeller) -> None:
    await http.get("http://a.example/1")
    await http.get("http://b.example/1")
    assert PAYMENT_SIGNATURE_HEADER not in seller.requests[2].headers


async def test_many_requests_at_once_need_one_deposit_and_are_never_refused(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet, aggregator: FakeAggregator
) -> None:
    seller.delay_s = 0.01
    aggregator.delay_s = 0.01
    responses = await asyncio.gather(*(http.get(f"http://{host}.example/{n}") for host in "abc" for n in range(60)))
    assert {response.status_code for response in responses} == {200}
    assert seller.in_flight_max >= 60
    assert aggregator.calls.count("Deposit") == 1
    assert aggregator.calls.count("RegisterSpendKey") == 1
    (account,) = (await wallet.status()).accounts
    assert account.charged == 180 * PRICE == aggregator.account.committed
    assert account.unknown == account.disputed == 0


async def test_a_changed_price_is_answered_once_with_the_same_payment_id(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    await http.get("http://a.example/1")
    seller.price = 2 * PRICE
    response = await http.get("http://a.example/1")
    assert response.status_code == 200
    first, second, third = payment_ids_of(seller)
    assert first != second == third
    assert (await wallet.status()).accounts[0].charged == 3 * PRICE


async def test_a_price_that_goes_on_rising_is_not_chased(http: httpx.AsyncClient, seller: FakeSeller) -> None:
    def dearer(request: httpx.Request) -> httpx.Response:
        seller.price += 1
        return seller.ask(request)

    seller.before = [dearer, dearer, dearer]
    response = await http.get("http://a.example/1")
    assert response.status_code == 402
    assert len(seller.paid_requests) == 2


async def test_a_lower_price_is_all_that_is_charged(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    await http.get("http://a.example/1")
    seller.charge_less = 400
    response = await http.get("http://a.example/1")
    assert response.extensions["payment"].charged == PRICE - 400
    account = (await wallet.status()).accounts[0]
    assert account.charged == 2 * PRICE - 400


async def test_no_answer_makes_a_payment_cost_more_than_it_allowed(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    seller.after = [lambda _: httpx.Response(200, headers={PAYMENT_RESPONSE_HEADER: receipt(10**30)})]
    response = await http.get("http://a.example/1")
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
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet, garbage: str
) -> None:
    seller.after = [lambda _: httpx.Response(200, headers={PAYMENT_RESPONSE_HEADER: garbage})]
    assert (await http.get("http://a.example/1")).status_code == 200
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (0, PRICE)


async def test_a_lost_answer_is_asked_for_again_with_the_same_payment(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet, aggregator: FakeAggregator
) -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("connection lost", request=request)

    seller.after = [lost]
    response = await http.get("http://a.example/1")
    assert response.status_code == 409
    first, second = payment_ids_of(seller)
    assert first == second
    assert seller.served == 1
    assert aggregator.account.committed == PRICE
    account = (await wallet.status()).accounts[0]
    assert account.charged + account.unknown == PRICE


async def test_a_request_that_never_arrived_is_sent_again_and_charged_once(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet, aggregator: FakeAggregator
) -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("server disconnected", request=request)

    seller.before = [lost, lost]
    assert (await http.get("http://a.example/1")).status_code == 200
    assert len(set(payment_ids_of(seller))) == 1
    assert aggregator.account.committed == PRICE
    assert (await wallet.status()).accounts[0].charged == PRICE


async def test_a_payment_that_is_under_way_is_waited_for(http: httpx.AsyncClient, seller: FakeSeller) -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow", request=request)

    seller.before = [lost, lambda _: httpx.Response(409, headers={"retry-after": "1"})]
    assert (await http.get("http://a.example/1")).status_code == 200
    assert len(set(payment_ids_of(seller))) == 1


async def test_a_page_slower_than_the_clients_patience_is_a_timeout_and_costs_nothing(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow", request=request)

    seller.before = [slow, lambda request: seller.ask(request, "reservation_released: This payment was released.")]
    with pytest.raises(httpx.ReadTimeout):
        await http.get("http://a.example/1")
    account = (await wallet.status()).accounts[0]
    assert (len(seller.paid_requests), account.charged, account.unknown) == (2, 0, 0)


async def test_a_402_that_does_not_say_why_is_the_callers_even_after_a_lost_answer(
    http: httpx.AsyncClient, seller: FakeSeller
) -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("connection lost", request=request)

    seller.before = [lost, lambda _: httpx.Response(402, headers={"payment-required": "?"})]
    assert (await http.get("http://a.example/1")).status_code == 402


async def test_who_stays_lost_is_given_up_and_the_payment_is_unknown(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow", request=request)

    seller.before = [lost] * 10
    with pytest.raises(httpx.ReadTimeout):
        await http.get("http://a.example/1")
    assert len(seller.paid_requests) == 4
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (0, PRICE)


async def test_a_payment_that_could_not_be_sent_is_free_again(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    def refused(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    seller.before = [refused]
    with pytest.raises(httpx.ConnectError):
        await http.get("http://a.example/1")
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (0, 0)


async def test_a_cancelled_request_leaves_its_payment_unknown(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    await http.get("http://a.example/1")
    seller.delay_s = 30
    task = asyncio.create_task(http.get("http://a.example/2"))
    await until(lambda: len(seller.paid_requests) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (PRICE, PRICE)


async def test_a_replayed_payment_is_told_as_it_is(http: httpx.AsyncClient, seller: FakeSeller) -> None:
    seller.before = [lambda _: httpx.Response(409, json={"error": "payment_replayed"})]
    assert (await http.get("http://a.example/1")).status_code == 409
    assert len(seller.paid_requests) == 1


@pytest.mark.parametrize("status", [500, 503, 404])
async def test_an_error_without_receipt_leaves_the_payment_unknown(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet, status: int
) -> None:
    seller.before = [lambda _: httpx.Response(status, headers={"retry-after": "2"})]
    assert (await http.get("http://a.example/1")).status_code == status
    assert (await wallet.status()).accounts[0].unknown == PRICE


async def test_an_error_whose_receipt_says_released_costs_nothing(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    seller.before = [lambda _: httpx.Response(500, headers={PAYMENT_RESPONSE_HEADER: receipt(0)})]
    assert (await http.get("http://a.example/1")).status_code == 500
    account = (await wallet.status()).accounts[0]
    assert (account.charged, account.unknown) == (0, 0)


async def test_a_redirect_carries_no_payment_to_another_origin(
    http: httpx.AsyncClient, seller: FakeSeller, wallet: Wallet
) -> None:
    await http.get("http://a.example/1")
    moved = {"location": "http://b.example/2", PAYMENT_RESPONSE_HEADER: receipt(0)}
    seller.before = [lambda _: httpx.Response(302, headers=moved)]
    response = await http.get("http://a.example/2", follow_redirects=True)
    assert response.status_code == 200
    to_b = [request for request in seller.requests if request.url.host == "b.example"]
    assert PAYMENT_SIGNATURE_HEADER not in to_b[0].headers
    receivers = {channel.receiver for channel in (await wallet.status()).accounts[0].channels}
    assert len(receivers) == 2


async def test_the_callers_own_request_never_carries_a_payment(http: httpx.AsyncClient, seller: FakeSeller) -> None:
    request = http.build_request("GET", "http://a.example/1", headers={PAYMENT_SIGNATURE_HEADER: "stolen"})
    response = await http.send(request)
    assert response.status_code == 200
    assert response.request.headers[PAYMENT_SIGNATURE_HEADER] == "stolen"
    assert PAYMENT_SIGNATURE_HEADER not in seller.requests[0].headers


async def test_a_body_with_a_length_is_bound_and_sent_again(http: httpx.AsyncClient, seller: FakeSeller) -> None:
    response = await http.post("http://a.example/1", json={"question": 1})
    assert response.status_code == 200
    assert seller.served == 1


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_streamed_body_is_paid_ahead_once_its_price_is_known(
    http: httpx.AsyncClient, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    with pytest.raises(BodyNotReplayable, match="price is known now"):
        await http.post("http://a.example/up", content=stream(b"a", b"b"))
    assert not aggregator.accounts
    response = await http.post("http://a.example/up", content=stream(b"a", b"b"))
    assert response.status_code == 200
    assert len(seller.paid_requests) == 1


async def test_a_streamed_body_is_never_paid_for_twice(http: httpx.AsyncClient, seller: FakeSeller) -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("lost", request=request)

    await http.get("http://a.example/1")
    seller.before = [lost]
    with pytest.raises(httpx.ReadError):
        await http.post("http://a.example/up", content=stream(b"a"))
    seller.price = 2 * PRICE
    assert (await http.post("http://a.example/up", content=stream(b"a"))).status_code == 402
    assert len(seller.paid_requests) == 3


async def test_a_free_upload_streams_through(http: httpx.AsyncClient, seller: FakeSeller) -> None:
    seller.prices["/free"] = 0
    assert (await http.post("http://a.example/free", content=stream(b"a"))).text == "free"


async def test_a_path_that_took_no_payment_is_not_paid_again(http: httpx.AsyncClient, seller: FakeSeller) -> None:
    seller.prices["/free"] = 0
    await http.get("http://a.example/1")
    for _ in range(3):
        assert (await http.get("http://a.example/free")).text == "free"
    assert len(seller.paid_requests) == 2


@pytest.mark.parametrize(("method", "path"), [("HEAD", "/1"), ("GET", "/robots.txt"), ("GET", "/.well-known/x")])
async def test_what_is_free_everywhere_is_never_paid_ahead(
    http: httpx.AsyncClient, seller: FakeSeller, method: str, path: str
) -> None:
    seller.prices = {"/robots.txt": 0, "/.well-known/x": 0}
    await http.get("http://a.example/0")
    await http.request(method, f"http://a.example{path}")
    assert PAYMENT_SIGNATURE_HEADER not in seller.requests[2].headers


async def test_a_402_without_terms_is_the_callers(wallet: Wallet) -> None:
    inner = httpx.MockTransport(lambda _: httpx.Response(402, json={"error": "pay by card"}))
    async with httpx.AsyncClient(transport=PayingTransport(wallet, inner)) as other:
        assert (await other.get("http://a.example/")).status_code == 402


@pytest.mark.parametrize("header", ["", "not base64!", "e30=", "eA==", "A" * 20_000, "AAAA", "W10=", "é"])
async def test_a_malformed_402_signs_nothing(wallet: Wallet, aggregator: FakeAggregator, header: str) -> None:
    answer = httpx.Response(402, headers=[(PAYMENT_REQUIRED_HEADER.encode(), header.encode("latin-1"))])
    async with httpx.AsyncClient(transport=PayingTransport(wallet, httpx.MockTransport(lambda _: answer))) as http:
        with pytest.raises(MalformedError, match="PAYMENT-REQUIRED"):
            await http.get("http://a.example/")
    assert not aggregator.calls


async def test_exact_is_paid_where_there_is_no_deposit(open_wallet: object, seller: FakeSeller) -> None:
    wallet: Wallet = await open_wallet(deposit=None)  # type: ignore[operator]
    async with httpx.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        for _ in range(2):
            response = await http.get("http://a.example/1")
            assert response.status_code == 200
            assert response.extensions["payment"].scheme == SCHEME_EXACT
            assert response.extensions["payment"].transaction == "0x" + "ab" * 32
    assert len(seller.exact) == 2
    assert len({authorization.nonce for authorization in seller.exact}) == 2
    assert all(authorization.to == seller.receiver("a.example") for authorization in seller.exact)


async def test_an_exact_payment_whose_answer_is_lost_is_sent_again_as_it_is(
    open_wallet: object, seller: FakeSeller
) -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("lost", request=request)

    wallet: Wallet = await open_wallet(deposit=None)  # type: ignore[operator]
    seller.before = [lost]
    async with httpx.AsyncClient(transport=PayingTransport(wallet, seller, sleep=no_sleep)) as http:
        assert (await http.get("http://a.example/1")).status_code == 200
    headers = {request.headers[PAYMENT_SIGNATURE_HEADER] for request in seller.paid_requests}
    assert len(headers) == 1
    assert len(seller.paid_requests) == 2


async def test_a_price_above_the_budget_is_not_paid(open_wallet: object, seller: FakeSeller) -> None:
    wallet: Wallet = await open_wallet(budgets=Budgets(per_request="0.0009"))  # type: ignore[operator]
    async with httpx.AsyncClient(transport=PayingTransport(wallet, seller)) as http:
        with pytest.raises(BudgetExceeded, match="per_request"):
            await http.get("http://a.example/1")
    assert not seller.paid_requests
