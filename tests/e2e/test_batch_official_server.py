"""An official server that manages its vouchers, an official buyer, and `tallystick serve` as their facilitator."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from eth_account import Account
from fastapi import FastAPI
from market import BatchSettlementMarket
from x402 import x402Client, x402ResourceServer
from x402.http import AuthHeaders, FacilitatorConfig, HTTPFacilitatorClient, PaymentOption
from x402.http.clients.httpx import x402AsyncTransport
from x402.http.middleware.fastapi import payment_middleware
from x402.http.types import RouteConfig
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme as BuyersScheme
from x402.mechanisms.evm.batch_settlement.server import BatchSettlementEvmScheme as ServersScheme
from x402.mechanisms.evm.batch_settlement.server.channel_manager import BatchSettlementChannelManager
from x402.mechanisms.evm.batch_settlement.server.channel_manager_common import ChannelManagerConfig
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import AssetAmount

from batch_channels import BatchChannel, batch_channel
from tallystick.hexadecimal import checksum

PRICE = 1_000
NETWORK = "eip155:31337"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchSettlementMarket]:
    with BatchSettlementMarket(tmp_path_factory.mktemp("batch")) as running:
        yield running


class Bearer:
    """The seller's token, as the official client sends it."""

    def __init__(self, token: str) -> None:
        self._headers = {"authorization": f"Bearer {token}"}

    def get_auth_headers(self) -> AuthHeaders:
        """The same for every call."""
        return AuthHeaders(verify=self._headers, settle=self._headers, supported=self._headers)


class OfficialServer:
    """FastAPI with the official middleware; its channel manager claims, settles and refunds."""

    def __init__(self, market: BatchSettlementMarket) -> None:
        config = FacilitatorConfig(url=market.http_url, auth_provider=Bearer(market.seller_token))
        self.scheme = ServersScheme(checksum(market.receiver))
        self.facilitator = HTTPFacilitatorClient(config)
        resources = x402ResourceServer(self.facilitator)
        resources.register(NETWORK, self.scheme)
        price = AssetAmount(amount=str(PRICE), asset=checksum(market.token), extra={"name": "USD Coin", "version": "2"})
        option = PaymentOption(
            scheme="batch-settlement",
            pay_to=checksum(market.receiver),
            price=price,
            network=NETWORK,
            max_timeout_seconds=60,
        )
        app = FastAPI()
        app.middleware("http")(payment_middleware({"GET /page": RouteConfig(accepts=[option])}, resources))

        @app.get("/page")
        async def page() -> str:
            return "the page"

        self.manager = BatchSettlementChannelManager(
            ChannelManagerConfig(
                scheme=self.scheme,
                facilitator=self.facilitator,
                receiver=checksum(market.receiver),
                token=checksum(market.token),
                network=NETWORK,
            )
        )
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))

    async def __aenter__(self) -> "OfficialServer":
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        async with asyncio.timeout(20):
            while not self._server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._serving
        await self.facilitator.aclose()


class ReadingSigner(EthAccountSigner):
    """Reads a channel from the chain, as the official client does where its own book has none."""

    def __init__(self, channel: BatchChannel) -> None:
        super().__init__(Account.from_key(channel.key))
        self.channel = channel

    def read_contract(self, _address: str, _abi: Any, _name: str, *arguments: Any) -> Any:
        """Balance and totalClaimed."""
        return self.channel.words("channels", arguments[0])


async def test_an_official_server_keeps_its_vouchers_and_is_claimed_settled_and_refunded(
    market: BatchSettlementMarket,
) -> None:
    channel = batch_channel(market.devnet(), market.receiver)
    market.anvil.mint(market.token, channel.payer.address, 100 * PRICE)
    client = x402Client()
    client.set_spend_controls({"allowed_assets": True})
    scheme = BuyersScheme(ReadingSigner(channel))
    client.register(NETWORK, scheme)
    async with OfficialServer(market) as server:
        transport = x402AsyncTransport(client, httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(base_url=server.url, timeout=60, transport=transport) as http:
            for _ in range(4):
                response = await http.get("/page")
                assert (response.status_code, response.json()) == (200, "the page"), response.headers
        (kept,) = server.scheme.get_storage().list()
        assert kept.charged_cumulative_amount == str(4 * PRICE)
        await server.manager.claim()
        kept_id = bytes.fromhex(kept.channel_id[2:])
        assert channel.words("channels", kept_id)[1] == 4 * PRICE
        await server.manager.settle()
        assert market.anvil.token_balance(market.token, market.receiver) == 4 * PRICE
        deposited = int(kept.balance)
        await server.manager.refund([kept.channel_id])
        assert channel.words("channels", kept_id) == (4 * PRICE, 4 * PRICE)
        assert market.anvil.token_balance(market.token, channel.payer.address) == 96 * PRICE
        assert deposited > 4 * PRICE
