"""One payer, several HTTP libraries: httpx2 and httpx, asynchronous and not, and none at all."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import httpx2
import msgspec
import pytest
from payer_buyer import OpenWallet
from payer_fakes import PRICE, FakeSeller, no_sleep

import tallystick_client.httpx
from tallystick.requests import normal_target
from tallystick.signatures import Signer
from tallystick.x402 import PAYMENT_RESPONSE_HEADER, PAYMENT_SIGNATURE_HEADER
from tallystick_client import (
    BookUnavailableError,
    BudgetExceededError,
    Budgets,
    DepositPolicy,
    Operator,
    Purchases,
    Wallet,
    WalletThread,
    payment_of,
)
from tallystick_client.payer.http import transport
from tallystick_client.payer.http.purchase import (
    AskWallet,
    CloseResponse,
    Done,
    SendRequest,
    Step,
    Wait,
    is_read_first,
    payable_request,
)

LIBRARIES = pytest.mark.parametrize(
    ("library", "transports"), [(httpx2, transport), (httpx, tallystick_client.httpx)], ids=["httpx2", "httpx"]
)
URL = "https://site.example/articles/1"


async def answer(seller: FakeSeller, library: Any, request: Any) -> Any:
    """The seller's response to a request of either library."""
    content = b"".join([chunk async for chunk in request.stream])
    copy = httpx2.Request(request.method, str(request.url), headers=request.headers.raw, content=content)
    response = await seller.handle_async_request(copy)
    return library.Response(response.status_code, headers=response.headers.raw, content=await response.aread())


def inner_of(library: Any, seller: FakeSeller, errors: list[Exception]) -> Any:
    """A transport of the library to the seller; raises the errors first, after the request was sent."""

    class Inner(library.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            response = await answer(seller, library, request)
            if PAYMENT_SIGNATURE_HEADER in request.headers and errors:
                raise errors.pop(0)
            return response

    return Inner()


def sync_inner_of(library: Any, seller: FakeSeller, errors: list[Exception]) -> Any:
    """The same for a synchronous client in another thread than the seller's, whose loop is the running one."""
    loop, inner = asyncio.get_running_loop(), inner_of(library, seller, errors)

    class Inner(library.BaseTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(inner.handle_async_request(request), loop).result()

    return Inner()


@LIBRARIES
async def test_w18_the_transport_pays_under_either_library(
    library: Any, transports: Any, open_wallet: OpenWallet, seller: FakeSeller
) -> None:
    lost: list[Exception] = [library.ReadError("the connection is gone")]
    wallet = await open_wallet()
    paying = transports.PayingTransport(wallet, inner_of(library, seller, lost), sleep=no_sleep)
    async with library.AsyncClient(transport=paying) as http:
        first = await http.post(URL, content=b"question", headers={PAYMENT_SIGNATURE_HEADER: "the caller's own"})
        second = await http.get(URL)
        seller.price = 0
        free = await http.get("https://free.example/")
    # The first one's answer was lost, so its payment was sent again, and its seller said that it had been charged.
    assert (first.status_code, second.status_code, free.status_code) == (409, 200, 200)
    assert not lost
    receipt = payment_of(second)
    assert receipt is not None
    assert (receipt.charged, receipt.amount) == (PRICE, PRICE)
    assert payment_of(first) is not None
    assert payment_of(free) is None
    assert seller.aggregator.account.committed == 2 * PRICE


@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
async def test_w18_a_client_of_the_library_takes_the_transport_as_it_is(
    library: ModuleType, open_wallet: OpenWallet
) -> None:
    transports: Any = transport if library is httpx2 else tallystick_client.httpx
    wallet = await open_wallet()
    assert isinstance(transports.PayingTransport(wallet), library.AsyncBaseTransport)
    async with library.AsyncClient(transport=transports.PayingTransport(wallet)) as http:
        with pytest.raises(library.ConnectError):
            await http.get("http://127.0.0.1:1/")


@LIBRARIES
async def test_a_synchronous_client_pays_from_a_wallet_on_a_thread_of_its_own(
    library: Any, transports: Any, tmp_path: Path, signer: Signer, operator: Operator, seller: FakeSeller
) -> None:
    lost: list[Exception] = []
    inner = sync_inner_of(library, seller, lost)
    pauses: list[float] = []

    def crawl() -> tuple[list[Any], Any]:
        opening = Wallet.open(
            tmp_path / "wallet.db",
            key=signer,
            operators=[operator],
            budgets=Budgets(per_request="0.002"),
            deposit=DepositPolicy(low="0.1", high="1"),
        )
        with WalletThread(opening) as thread:
            paying = transports.SyncPayingTransport(thread, inner, sleep=pauses.append)
            with library.Client(transport=paying) as http:
                pages = [http.get(URL), http.post(URL, content=b"question")]
                lost.append(library.ReadError("the connection is gone"))
                pages.append(http.get(URL))
                seller.prices["/dear"] = 3_000
                with pytest.raises(BudgetExceededError):
                    http.get("https://other.example/dear")
            return pages, thread.run(thread.wallet.status())

    pages, status = await asyncio.to_thread(crawl)
    assert [page.status_code for page in pages] == [200, 200, 409]
    assert [payment_of(page).charged for page in pages[:2]] == [PRICE, PRICE]  # type: ignore[union-attr]
    assert pauses == [0.2]
    assert len(status.accounts) == 1
    assert seller.aggregator.account.committed == 3 * PRICE


def publish(seller: FakeSeller, asked: list[Any]) -> None:
    """Have the seller publish that its price holds for /articles/*."""
    seller.pattern = ""

    def manifest(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        told = {
            "x402Version": 2,
            "items": [
                {
                    "resource": {"url": "https://site.example/articles/*"},
                    "accepts": [msgspec.to_builtins(seller.offer("deferred", "site.example", PRICE))],
                }
            ],
            "pay-ahead": {"max_age_s": 60, "patterns": [{"path": "/articles/*", "item": 0}]},
        }
        return httpx2.Response(200, json=told)

    seller.others["/.well-known/"] = manifest


@LIBRARIES
async def test_either_library_learns_prices_from_a_manifest(
    library: Any, transports: Any, open_wallet: OpenWallet, seller: FakeSeller
) -> None:
    asked: list[Any] = []
    publish(seller, asked)
    wallet = await open_wallet()
    paying = transports.PayingTransport(wallet, inner_of(library, seller, []), read_manifests=True)
    async with library.AsyncClient(transport=paying) as http:
        assert (await http.get(URL)).status_code == 200
    assert (len(asked), len(seller.requests), len(seller.paid_requests)) == (1, 2, 1)


@LIBRARIES
async def test_a_synchronous_client_learns_them_too_and_leaves_what_is_too_long(
    library: Any, transports: Any, tmp_path: Path, signer: Signer, operator: Operator, seller: FakeSeller
) -> None:
    asked: list[Any] = []
    publish(seller, asked)
    inner = sync_inner_of(library, seller, [])

    def crawl() -> list[int]:
        opening = Wallet.open(
            tmp_path / "wallet.db",
            key=signer,
            operators=[operator],
            budgets=Budgets(),
            deposit=DepositPolicy(low="0.1", high="1"),
        )
        with WalletThread(opening) as thread:
            paying = transports.SyncPayingTransport(thread, inner, read_manifests=True)
            with library.Client(transport=paying) as http:
                statuses = [http.get(URL).status_code]
                seller.others["/.well-known/"] = lambda _: httpx2.Response(200, content=b" " * 300_000)
                statuses.append(http.get("https://long.example/articles/1").status_code)
            return statuses

    assert await asyncio.to_thread(crawl) == [200, 200]
    assert (len(asked), len(seller.paid_requests), len(seller.requests)) == (1, 2, 5)


async def test_a_synchronous_client_that_is_interrupted_leaves_its_payment_to_the_next_try(
    tmp_path: Path, signer: Signer, operator: Operator, seller: FakeSeller
) -> None:
    lost: list[Any] = [KeyboardInterrupt()]
    reached = sync_inner_of(httpx2, seller, [])

    class Interrupted(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            if lost and PAYMENT_SIGNATURE_HEADER in request.headers:
                seller.paid_before = request.headers[PAYMENT_SIGNATURE_HEADER]  # type: ignore[attr-defined]
                raise lost.pop()
            response: httpx2.Response = reached.handle_request(request)
            return response

    def crawl() -> int:
        opening = Wallet.open(
            tmp_path / "wallet.db",
            key=signer,
            operators=[operator],
            budgets=Budgets(),
            deposit=DepositPolicy(low="0.1", high="1"),
        )
        with (
            WalletThread(opening) as thread,
            httpx2.Client(transport=transport.SyncPayingTransport(thread, Interrupted())) as http,
        ):
            with pytest.raises(KeyboardInterrupt):
                http.get(URL)
            return http.get(URL).status_code

    assert await asyncio.to_thread(crawl) == 200
    assert [request.headers[PAYMENT_SIGNATURE_HEADER] for request in seller.paid_requests] == [
        seller.paid_before  # type: ignore[attr-defined]
    ]


def test_a_wallet_that_cannot_be_opened_ends_its_thread(tmp_path: Path, signer: Signer) -> None:
    opening = Wallet.open(tmp_path / "missing" / "wallet.db", key=signer, operators=[], budgets=Budgets())
    with pytest.raises(BookUnavailableError, match="cannot be opened"):
        WalletThread(opening)
    assert not [thread for thread in threading.enumerate() if thread.name == "tallystick-wallet"]


# A purchase by hand: what the author of another integration writes.


async def carried_out(step: Step, purchase: Any) -> Step:
    while isinstance(step, AskWallet):
        step = purchase.resume(await step.call())
    return step


@pytest.fixture
def get() -> Iterator[Any]:
    assert is_read_first({})
    return payable_request("GET", "https", "site.example", b"/articles/1", {}, b"")


async def test_a_purchase_says_what_to_send_and_what_the_page_cost(
    open_wallet: OpenWallet, seller: FakeSeller, get: Any
) -> None:
    purchases = Purchases(await open_wallet())
    purchase = purchases.purchase(get)
    step = purchase.start()
    assert step == SendRequest(None)
    assert step.headers == {}
    asked = seller.ask(httpx2.Request("GET", URL))
    assert purchase.received(402, asked.headers) == CloseResponse()
    step = await carried_out(purchase.resume(), purchase)
    assert isinstance(step, SendRequest)
    assert list(step.headers) == [PAYMENT_SIGNATURE_HEADER]
    # The connection is lost: the same payment, after a pause.
    wait = purchase.lost(OSError("gone"), was_sent=True)
    assert wait == Wait(0.2)
    assert purchase.resume() == step
    sold = await seller.handle_async_request(httpx2.Request("GET", URL, headers=step.headers))
    done = purchase.received(sold.status_code, sold.headers)
    assert isinstance(done, Done)
    assert done.receipt is not None
    assert done.receipt.charged == PRICE
    assert PAYMENT_RESPONSE_HEADER in sold.headers
    # The next one is paid ahead.
    ahead = purchases.purchase(get)
    assert isinstance(await carried_out(ahead.start(), ahead), SendRequest)
    ahead.close()


async def test_a_purchase_that_is_closed_in_the_middle_sends_the_same_payment_at_the_next_try(
    open_wallet: OpenWallet, seller: FakeSeller, get: Any
) -> None:
    wallet = await open_wallet()
    purchases = Purchases(wallet)
    left = purchases.purchase(get)
    left.start()
    left.received(402, seller.ask(httpx2.Request("GET", URL)).headers)
    sent = await carried_out(left.resume(), left)
    assert isinstance(sent, SendRequest)
    left.close()
    again = purchases.purchase(get)
    assert again.start() == sent
    again.close()


async def test_a_purchase_raises_the_error_of_the_library(open_wallet: OpenWallet, get: Any) -> None:
    purchase = Purchases(await open_wallet()).purchase(get)
    purchase.start()
    error = OSError("refused")
    with pytest.raises(OSError, match="refused") as raised:
        purchase.lost(error, was_sent=False)
    assert raised.value is error
    assert get.target == normal_target(b"/articles/1")


def test_no_thread_waits_for_ever_for_a_wallet_that_was_closed_under_it() -> None:
    class Closable:
        async def close(self) -> None: ...

    async def opening() -> Any:
        return Closable()

    def work(thread: WalletThread[Any]) -> None:
        with suppress(BookUnavailableError, CancelledError):
            while True:
                thread.run(asyncio.sleep(0))

    for _ in range(20):
        thread = WalletThread(opening())
        workers = [threading.Thread(target=work, args=(thread,), daemon=True) for _ in range(8)]
        for worker in workers:
            worker.start()
        thread.close()
        for worker in workers:
            worker.join(10)
        assert not any(worker.is_alive() for worker in workers)
        thread.call_soon(thread.close)
        with pytest.raises(BookUnavailableError):
            thread.run(asyncio.sleep(0))
