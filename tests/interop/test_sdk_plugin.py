"""The official Python SDK with our plug-ins, on Anvil: its buyers pay by `deferred`, its sellers sell by it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from eth_account import Account
from x402 import ResourceConfig, x402Client, x402ClientSync, x402ResourceServer
from x402.http.clients import x402HttpxClient
from x402.http.clients.httpx import PaymentError, x402AsyncTransport
from x402.http.utils import decode_payment_required_header
from x402.mcp import x402MCPClient
from x402.mcp.server_async import PaymentWrapperConfig, create_payment_wrapper
from x402.mechanisms.evm.exact import ExactEvmClientScheme
from x402.schemas import PaymentAbortedError

from e2e.market import PRICE, HttpMarket, Market
from interop.plugin_shops import LosingFacilitator, Shop, fastapi_shop, fastapi_shop_over_http, flask_shop
from tallystick.hexadecimal import checksum
from tallystick.x402 import PAYMENT_SIGNATURE_HEADER
from tallystick_client import BudgetExceededError, Budgets, DepositPolicy, OfferNotAllowedError, Wallet, WalletThread
from tallystick_client.payer.errors import InsecureOriginError
from tallystick_client.x402 import (
    DeferredClientScheme,
    DeferredClientSchemeSync,
    DeferredServerScheme,
    FacilitatorClient,
)
from tallystick_client.x402.requests import PayingAdapter

DEPOSIT = DepositPolicy(low="0.01", high="0.5")
SHOPS = {"fastapi": fastapi_shop, "fastapi over http": fastapi_shop_over_http, "flask": flask_shop}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpMarket]:
    with HttpMarket(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture(scope="module", params=SHOPS)
def shop(market: HttpMarket, request: pytest.FixtureRequest) -> Iterator[Shop]:
    with SHOPS[request.param](market) as running:
        yield running


@dataclass(frozen=True)
class Buyer:
    wallet: Wallet
    client: x402Client
    scheme: DeferredClientScheme

    async def charged(self) -> int:
        await self.wallet.reconcile()
        return sum(account.charged for account in (await self.wallet.status()).accounts)


@pytest.fixture
def buyer(market: Market, tmp_path: Path) -> Any:
    @asynccontextmanager
    async def make(**settings: Any) -> AsyncIterator[Buyer]:
        settings.setdefault("deposit", DEPOSIT)
        opening = Wallet.open(tmp_path / "buyer.db", key=market.payer(), operators=[market.operator], **settings)
        async with await opening as wallet:
            scheme = DeferredClientScheme(wallet)
            yield Buyer(wallet, x402Client().register(str(market.operator.network), scheme), scheme)

    return make


class Losing(httpx.AsyncHTTPTransport):
    """Loses the response to the first paid requests, after the server has sent it."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.left = times
        self.payments: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if PAYMENT_SIGNATURE_HEADER in request.headers:
            self.payments.append(request.headers[PAYMENT_SIGNATURE_HEADER])
            if self.left:
                self.left -= 1
                await response.aclose()
                raise httpx.ReadError("the connection broke", request=request)
        return response


async def test_the_official_client_pays_the_official_server_by_deferred(shop: Shop, buyer: Any) -> None:
    async with buyer() as payer:
        async with x402HttpxClient(payer.client, event_hooks=payer.scheme.event_hooks, timeout=60) as http:
            page = await http.get(f"{shop.url}/page/first?a=%7e&b=1")
            echoed = await http.post(f"{shop.url}/echo", content=b"what was sent")
        assert (page.status_code, echoed.status_code) == (200, 200)
        assert "page first" in page.text
        assert "what was sent" in echoed.text
        assert await payer.charged() == 2 * PRICE


async def test_without_hooks_the_official_client_pays_for_pages(shop: Shop, buyer: Any) -> None:
    async with buyer() as payer, x402HttpxClient(payer.client, timeout=60) as http:
        assert (await http.get(f"{shop.url}/page/plain")).status_code == 200
        refused = await http.post(f"{shop.url}/echo", content=b"what was sent")
        assert refused.status_code == 402
        assert await payer.charged() == PRICE


async def test_a_hundred_parallel_requests_on_one_channel_all_succeed(shop: Shop, buyer: Any) -> None:
    async with buyer() as payer:
        async with x402HttpxClient(payer.client, event_hooks=payer.scheme.event_hooks, timeout=90) as http:
            same = [http.get(f"{shop.url}/page/crowd") for _ in range(50)]
            others = [http.get(f"{shop.url}/page/crowd-{number}") for number in range(50)]
            answers = await asyncio.gather(*same, *others)
        assert {answer.status_code for answer in answers} == {200}
        assert await payer.charged() == 100 * PRICE
        (account,) = (await payer.wallet.status()).accounts
        assert (account.deposits, len(account.channels)) == (1, 1)
    assert shop.handled["crowd"] == 50


async def test_a_lost_response_followed_by_a_retry_charges_once(shop: Shop, buyer: Any) -> None:
    async with buyer() as payer:
        wire = Losing()
        transport = x402AsyncTransport(payer.client, wire)
        async with httpx.AsyncClient(transport=transport, event_hooks=payer.scheme.event_hooks, timeout=60) as http:
            with pytest.raises(PaymentError):
                await http.get(f"{shop.url}/page/lost")
            again = await http.get(f"{shop.url}/page/lost")
        assert again.status_code == 200
        assert "page lost" in again.text
        assert wire.payments[0] == wire.payments[1]
        assert await payer.charged() == PRICE
    assert shop.handled["lost"] == 1


async def test_a_retry_in_another_task_sends_the_same_payment(shop: Shop, buyer: Any) -> None:
    async with buyer() as payer:
        wire = Losing(2)
        transport = x402AsyncTransport(payer.client, wire)
        async with httpx.AsyncClient(transport=transport, event_hooks=payer.scheme.event_hooks, timeout=60) as http:
            for _ in range(2):
                with pytest.raises(PaymentError):
                    await asyncio.create_task(http.get(f"{shop.url}/page/tasks"))
            assert (await asyncio.create_task(http.get(f"{shop.url}/page/tasks"))).status_code == 200
        assert len(set(wire.payments)) == 1
        assert await payer.charged() == PRICE
    assert shop.handled["tasks"] == 1


async def test_a_retry_by_another_worker_sends_the_same_payment(shop: Shop, buyer: Any) -> None:
    async with buyer() as payer:
        wire = Losing()
        transport = x402AsyncTransport(payer.client, wire)
        async with httpx.AsyncClient(transport=transport, event_hooks=payer.scheme.event_hooks, timeout=60) as http:
            with pytest.raises(PaymentError):
                await http.get(f"{shop.url}/page/handed-on")
            assert (await http.get(f"{shop.url}/free")).status_code == 404, "this worker goes on, and is not done"
            again = await asyncio.create_task(http.get(f"{shop.url}/page/handed-on"))
        assert again.status_code == 200
        assert len(set(wire.payments)) == 1
        assert await payer.charged() == PRICE
    assert shop.handled["handed-on"] == 1


async def test_the_same_payment_pays_for_nothing_else(shop: Shop, buyer: Any) -> None:
    async with buyer() as payer:
        wire = Losing(0)
        transport = x402AsyncTransport(payer.client, wire)
        async with httpx.AsyncClient(transport=transport, event_hooks=payer.scheme.event_hooks, timeout=60) as http:
            await http.get(f"{shop.url}/page/mine")
        (payment,) = wire.payments
        async with httpx.AsyncClient(headers={PAYMENT_SIGNATURE_HEADER: payment}, timeout=60) as thief:
            other = await thief.get(f"{shop.url}/page/another")
            same = await thief.get(f"{shop.url}/page/mine")
        assert other.status_code == 402
        assert decode_payment_required_header(other.headers["payment-required"]).error is not None
        assert same.status_code == 200, "the kept answer, to who has the payment"
        assert await payer.charged() == PRICE
    assert (shop.handled["another"], shop.handled["mine"]) == (0, 1)


async def test_what_was_taken_is_delivered_though_the_facilitators_answer_was_lost(
    market: HttpMarket, buyer: Any
) -> None:
    with fastapi_shop(market, LosingFacilitator) as shop:
        async with buyer() as payer:
            async with x402HttpxClient(payer.client, event_hooks=payer.scheme.event_hooks, timeout=60) as http:
                answers = [await http.get(f"{shop.url}/page/late") for _ in range(2)]
            assert [answer.status_code for answer in answers] == [402, 200]
            assert await payer.charged() == PRICE
        assert shop.handled["late"] == 1


async def test_a_payment_that_was_used_has_no_handler_run_again_by_requests_beside_it(shop: Shop, buyer: Any) -> None:
    async with buyer() as payer:
        wire = Losing(0)
        transport = x402AsyncTransport(payer.client, wire)
        async with httpx.AsyncClient(transport=transport, event_hooks=payer.scheme.event_hooks, timeout=60) as http:
            await http.get(f"{shop.url}/page/once")
        (payment,) = wire.payments
        async with httpx.AsyncClient(headers={PAYMENT_SIGNATURE_HEADER: payment}, timeout=60) as rogue:
            paths = ["/page/once", "/free", "/free", "/free"] * 20
            await asyncio.gather(*(rogue.get(f"{shop.url}{path}") for path in paths))
        assert await payer.charged() == PRICE
    assert shop.handled["once"] == 1


async def test_a_failed_handler_costs_nothing(shop: Shop, buyer: Any) -> None:
    async with buyer() as payer:
        async with x402HttpxClient(payer.client, event_hooks=payer.scheme.event_hooks, timeout=60) as http:
            assert (await http.get(f"{shop.url}/broken")).status_code == 503
        assert await payer.charged() == 0


async def test_an_error_of_the_wallet_is_told_in_the_sdks_way(shop: Shop, buyer: Any) -> None:
    async with buyer(budgets=Budgets(per_request="0.0001")) as payer, x402HttpxClient(payer.client) as http:
        with pytest.raises(PaymentError) as failed:
            await http.get(f"{shop.url}/page/dear")
    aborted = failed.value.__cause__
    assert isinstance(aborted, PaymentAbortedError)
    assert isinstance(aborted.__cause__, BudgetExceededError)


@pytest.mark.parametrize(
    ("method", "url", "error"),
    [("GET", "http://shop.example/page", InsecureOriginError), ("HEAD", "https://shop.example/", OfferNotAllowedError)],
)
async def test_w10_nothing_is_paid_in_clear_or_for_a_request_without_a_page(
    shop: Shop, buyer: Any, method: str, url: str, error: type[Exception]
) -> None:
    async with httpx.AsyncClient() as http:
        asked = (await http.get(f"{shop.url}/page/clear")).headers["payment-required"]
    async with buyer() as payer:
        with payer.scheme.show(method, url), pytest.raises(PaymentAbortedError) as failed:
            await payer.client.create_payment_payload(decode_payment_required_header(asked))
        assert isinstance(failed.value.__cause__, error)
        assert (await payer.wallet.status()).accounts == []


async def test_the_official_client_pays_our_paywall_by_deferred(market: Market, buyer: Any) -> None:
    async with buyer() as payer:
        async with x402HttpxClient(payer.client, event_hooks=payer.scheme.event_hooks, timeout=60) as http:
            pages = [http.get(f"{market.url}/paid/page/sdk-{number}") for number in range(20)]
            answers = await asyncio.gather(*pages)
            echoed = await http.post(f"{market.url}/paid/echo", content=b"body")
        assert {answer.status_code for answer in [*answers, echoed]} == {200}
        assert await payer.charged() == 21 * PRICE


@contextmanager
def sync_buyer(market: Market, folder: Path) -> Iterator[tuple[WalletThread[Wallet], requests.Session]]:
    opening = Wallet.open(folder / "sync.db", key=market.payer(), operators=[market.operator], deposit=DEPOSIT)
    with WalletThread(opening) as wallet, requests.Session() as session:
        scheme = DeferredClientSchemeSync(wallet)
        client = x402ClientSync().register(str(market.operator.network), scheme)
        session.mount("http://", PayingAdapter(client, scheme))
        yield wallet, session


def test_the_requests_adapter_pays_by_deferred(market: Market, shop: Shop, tmp_path: Path) -> None:
    with sync_buyer(market, tmp_path) as (wallet, session):
        with ThreadPoolExecutor(8) as threads:
            pages = threads.map(lambda number: session.get(f"{shop.url}/page/sync-{number}", timeout=60), range(24))
            assert {page.status_code for page in pages} == {200}
        echoed = session.post(f"{shop.url}/echo", data=b"by requests", timeout=60)
        assert (echoed.status_code, "by requests" in echoed.text) == (200, True)
        wallet.run(wallet.wallet.reconcile())
        (account,) = wallet.run(wallet.wallet.status()).accounts
        assert account.charged == 25 * PRICE


def test_an_interrupt_when_a_payment_was_just_made_gives_it_up(market: Market, shop: Shop, tmp_path: Path) -> None:
    class Interrupted(WalletThread[Wallet]):
        def run(self, work: Any) -> Any:
            result = super().run(work)
            if isinstance(result, dict):  # a payment
                raise KeyboardInterrupt
            return result

    opening = Wallet.open(tmp_path / "cut.db", key=market.payer(), operators=[market.operator], deposit=DEPOSIT)
    with Interrupted(opening) as wallet, requests.Session() as session:
        scheme = DeferredClientSchemeSync(wallet)
        client = x402ClientSync().register(str(market.operator.network), scheme)
        session.mount("http://", PayingAdapter(client, scheme))
        with pytest.raises(KeyboardInterrupt):
            session.get(f"{shop.url}/page/cut", timeout=60)
        wallet.run(wallet.wallet.status())
        assert scheme.payments.owners() == []


async def test_exact_settles_through_the_same_facilitator(market: Market, shop: Shop) -> None:
    account = Account.create()
    market.anvil.mint(market.token, bytes.fromhex(account.address[2:]), 10 * PRICE)
    client = x402Client().register(str(market.operator.network), ExactEvmClientScheme(account))
    client.set_spend_controls({"allowed_assets": True})
    async with x402HttpxClient(client, timeout=90) as http:
        answer = await http.get(f"{shop.url}/exact")
    assert answer.status_code == 200


class Tools:
    """An MCP server's one paid tool, as the SDK's MCP client calls it."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    async def call_tool(self, params: dict[str, Any], **_: Any) -> Any:
        meta = params.get("_meta", {})
        result = await self._handler(params["arguments"], {"toolName": params["name"], "_meta": meta})
        result._meta = result.meta  # as the MCP package's own results have it
        return result


async def test_the_mcp_transport_pays_for_tools(market: Market, buyer: Any) -> None:
    network = str(market.operator.network)
    facilitator = FacilitatorClient(market.aggregator, token=market.seller_token)
    server = x402ResourceServer(facilitator).register(network, DeferredServerScheme(facilitator=facilitator))
    server.initialize()
    wanted = ResourceConfig(scheme="deferred", network=network, pay_to=checksum(market.receiver), price="$0.001")
    calls: list[Any] = []

    @create_payment_wrapper(server, PaymentWrapperConfig(accepts=server.build_payment_requirements(wanted)))
    async def forecast(args: dict[str, Any], _: Any) -> dict[str, Any]:
        calls.append(args)
        return {"content": [{"type": "text", "text": "Sunny"}]}

    async with buyer() as payer:
        mcp = x402MCPClient(Tools(forecast), payer.client).on_after_payment(payer.scheme.after_payment)
        for place in ("Bern", "Oslo"):
            result = await mcp.call_tool("forecast", {"place": place})
            assert (result.payment_made, result.is_error) == (True, False)
        (account,) = (await payer.wallet.status()).accounts
        assert (account.charged, account.unknown) == (2 * PRICE, 0)
    assert calls == [{"place": "Bern"}, {"place": "Oslo"}]
    await facilitator.close()
