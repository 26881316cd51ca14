"""One market per test process; every test brings its own payer."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

# Besides its own helpers, those of both sides: what has no process of its own here is built from them.
sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "aggregator"))
sys.path.append(str(Path(__file__).parents[1] / "client/seller"))

from market import Market

from tallystick.signatures import Signer
from tallystick.x402 import PAYMENT_SIGNATURE_HEADER
from tallystick_client import DepositPolicy, PayingTransport, Wallet

DEPOSIT = DepositPolicy(low="0.01", high="0.5")


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with Market(tmp_path_factory.mktemp("market")) as running:
        yield running


class Recorder(httpx2.AsyncHTTPTransport):
    """Remembers the payments that went over the wire."""

    def __init__(self) -> None:
        super().__init__()
        self.payments: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if PAYMENT_SIGNATURE_HEADER in request.headers:
            self.payments.append(request.headers[PAYMENT_SIGNATURE_HEADER])
        return await super().handle_async_request(request)


@dataclass(frozen=True)
class Shopper:
    """A payer with a wallet and a client that pays by it; `payments` are the headers it sent."""

    signer: Signer
    wallet: Wallet
    http: httpx2.AsyncClient
    payments: list[str]


@pytest.fixture
def shopper(market: Market, tmp_path: Path) -> Any:
    """Makes shoppers: `async with shopper() as s`."""

    @asynccontextmanager
    async def make(signer: Signer | None = None, name: str = "wallet", **settings: Any) -> AsyncIterator[Shopper]:
        signer = signer or market.payer()
        settings.setdefault("deposit", DEPOSIT)
        settings.setdefault("operators", [market.operator])
        wallet = await Wallet.open(tmp_path / f"{name}.db", key=signer, **settings)
        recorder = Recorder()
        transport = PayingTransport(wallet, recorder)
        async with wallet, httpx2.AsyncClient(transport=transport, base_url=market.url, timeout=60) as http:
            yield Shopper(signer, wallet, http, recorder.payments)

    return make
