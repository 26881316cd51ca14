"""A buyer with the official SDK at our paywall, by batch-settlement, over `tallystick serve` on Anvil."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from eth_account import Account
from market import BatchSettlementMarket
from x402 import x402Client
from x402.http.clients.httpx import PaymentError, x402AsyncTransport
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.signers import EthAccountSigner

from batch_channels import BatchChannel, batch_channel
from tallystick import eip712
from tallystick.signatures import Signer
from tallystick_client.payer.wallet.accounts import AccountClient

PRICE = 1_000
DEPOSIT = 50 * PRICE
DOMAIN = eip712.batch_settlement_domain(31_337)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchSettlementMarket]:
    with BatchSettlementMarket(tmp_path_factory.mktemp("batch")) as running:
        yield running


class ReadingSigner(EthAccountSigner):
    """Reads a channel from the chain, as the official client does where its own book has none."""

    def __init__(self, channel: BatchChannel) -> None:
        super().__init__(Account.from_key(channel.key))
        self._channel = channel

    def read_contract(self, *_: Any) -> Any:
        """Balance and totalClaimed."""
        return self._channel.state


class Buyer:
    """The official client with a channel that holds a deposit."""

    def __init__(self, market: BatchSettlementMarket) -> None:
        operator = market.operator
        self.channel: BatchChannel = batch_channel(
            market.devnet(),
            market.receiver,
            receiver_authorizer=operator.operator,
            withdraw_delay_s=operator.withdraw_delay_s,
        )
        self.channel.deposit(DEPOSIT)
        self._account = AccountClient(operator, Signer(self.channel.key))
        signer = ReadingSigner(self.channel)
        client = x402Client()
        client.set_spend_controls({"allowed_assets": True})
        client.register("eip155:31337", BatchSettlementEvmScheme(signer))
        self.lose = 0
        self._inner = inner = httpx.AsyncHTTPTransport()
        buyer = self

        class Flaky(httpx.AsyncBaseTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                response = await inner.handle_async_request(request)
                if buyer.lose and "payment-signature" in request.headers:
                    buyer.lose -= 1
                    await response.aread()
                    raise httpx.ReadError("the answer is lost")
                return response

        paying = x402AsyncTransport(client, Flaky())
        self.http = httpx.AsyncClient(base_url=market.url, timeout=60, transport=paying)

    async def charged(self) -> int:
        """What the aggregator has charged on the channel; 0 while it knows nothing of it."""
        state = await self._account.read(self.channel.id, DOMAIN)
        return sum(totals.charged for totals in state.channels) if state is not None else 0

    async def funds(self) -> int:
        state = await self._account.read(self.channel.id, DOMAIN)
        return state.funds if state is not None else 0

    async def close(self) -> None:
        await self.http.aclose()
        await self._inner.aclose()
        await self._account.close()


@pytest.fixture
async def buyer(market: BatchSettlementMarket) -> Any:
    found = Buyer(market)
    async with asyncio.timeout(20):
        while await found.funds() != DEPOSIT:  # noqa: ASYNC110 - the aggregator follows the chain
            await asyncio.sleep(0.05)
    yield found
    await found.close()


async def until_paid(get: Callable[[], Awaitable[httpx.Response]], tries: int = 20) -> httpx.Response:
    """As an application does: a 402 that the client gave up on is asked again."""
    for _ in range(tries):
        response = await get()
        if response.status_code != 402:
            return response
    raise AssertionError(f"{tries} times 402: {response.headers.get('payment-required')}")


async def test_pages_are_bought_with_the_wallets_next_steps(market: BatchSettlementMarket, buyer: Buyer) -> None:
    for number in range(3):
        response = await buyer.http.get(f"/paid/page/official-{number}")
        assert (response.status_code, response.json()) == (200, f"page official-{number}")
        assert market.handled(f"page official-{number}") == 1
    assert await buyer.charged() == 3 * PRICE


async def test_less_is_taken_and_failures_cost_nothing(buyer: Buyer) -> None:
    assert (await buyer.http.get("/paid/metered/250")).json() == "used 250"
    assert (await buyer.http.get("/paid/broken")).status_code == 500
    assert (await buyer.http.get("/paid/page/after-broken")).status_code == 200
    assert await buyer.charged() == 250 + PRICE


async def test_a_lost_answer_followed_by_a_retry_charges_once(market: BatchSettlementMarket, buyer: Buyer) -> None:
    buyer.lose = 1
    name = f"official-lost-{buyer.channel.id.hex()[:8]}"
    with pytest.raises(PaymentError, match="the answer is lost"):
        await buyer.http.get(f"/paid/page/{name}")
    assert (await buyer.http.get(f"/paid/page/{name}")).json() == f"page {name}"
    assert market.handled(f"page {name}") == 1
    assert await buyer.charged() == PRICE


async def test_parallel_requests_succeed_one_after_the_other(market: BatchSettlementMarket, buyer: Buyer) -> None:
    names = [f"official-parallel-{buyer.channel.id.hex()[:8]}-{number}" for number in range(20)]

    async def buy(name: str) -> httpx.Response:
        return await until_paid(lambda: buyer.http.get(f"/paid/page/{name}"))

    answers = await asyncio.gather(*map(buy, names))
    assert [answer.json() for answer in answers] == [f"page {name}" for name in names]
    assert [market.handled(f"page {name}") for name in names] == [1] * 20
    assert await buyer.charged() == 20 * PRICE
