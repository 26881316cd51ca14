"""docs/examples/deferred-seller.mjs, run as it stands: a seller in Node takes `deferred` payments over HTTP."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from doubles import NEWS, Payer
from facilitator_edge import FacilitatorEdge, listening
from market import Process
from marketplace import PRICE, TERMS, Marketplace, marketplace

from tallystick.hexadecimal import checksum
from tallystick.requests import blinded_hash, request_hash
from tallystick.x402 import (
    DeferredPayment,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    ResourceInfo,
    SettleResponse,
    decode_header,
    deferred_payload,
    encode_header,
    payment_identifier_extension,
)
from tallystick_aggregator.auth.credentials import Principal, Principals, Scope
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.ledger import accounts

EXAMPLE = Path(__file__).parents[2] / "docs/examples/deferred-seller.mjs"
ALICE = Payer("alice")
SELLER = Principal("news", frozenset({NEWS}), frozenset({Scope.CHARGE}))


@dataclass
class Shop:
    """The example, the edge that it settles at, and a client without a wallet."""

    market: Marketplace
    edge: FacilitatorEdge
    http: httpx2.AsyncClient

    async def offer(self) -> PaymentRequirements:
        asked = await self.http.get("/articles/1")
        assert asked.status_code == 402
        required = decode_header(asked.headers["payment-required"], PaymentRequired, "PAYMENT-REQUIRED")
        assert required.resource is not None
        assert required.resource.url.endswith("/articles/1")
        (offer,) = required.accepts
        return offer

    async def buy(self, payment: str, path: str = "/articles/1") -> httpx2.Response:
        return await self.http.get(path, headers={"PAYMENT-SIGNATURE": payment})

    @property
    def charged(self) -> int:
        return self.market.channel(ALICE).charged


def payment_for(offer: PaymentRequirements, number: int, path: str = "/articles/1") -> str:
    """A blinded payment, as our payers make it."""
    blind = secrets.token_bytes(16)
    bound = blinded_hash(request_hash("GET", path.encode()), blind)
    charge = ALICE.payment(number, PRICE, ceiling=1_000_000, key=ALICE.spend_key(), request=bound)
    payment = DeferredPayment(
        ALICE.config.channel(NEWS),
        charge.payment_id,
        charge.ceiling,
        charge.signature,
        charge.spend,
        charge.channel_id,
        bound,
        blind,
    )
    return encode_header(
        PaymentPayload(
            payload=deferred_payload(payment),
            accepted=offer,
            resource=ResourceInfo(url=f"http://shop.example{path}"),
            extensions=payment_identifier_extension(charge.payment_id),
        )
    )


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with marketplace() as market:
        await market.fund(ALICE, 100_000)
        key = ALICE.spend_key()
        await market.writer.run(
            lambda draft, _l, moment: accounts.register_spend_key(draft, ALICE.account_id, key, moment, market.rules)
        )
        edge = FacilitatorEdge(Facilitator(Principals(lambda _: SELLER), [market.deferred]), SELLER)
        async with listening(edge) as url:
            node = Process(
                "node",
                tmp_path,
                [str(Path(sys.executable).parent / "node"), str(EXAMPLE)],
                {
                    "FACILITATOR": url,
                    "TOKEN": "t",
                    "PAY_TO": checksum(NEWS),
                    "ASSET": checksum(TERMS.asset),
                    "PRICE": str(PRICE),
                    "PORT": "0",
                },
            )
            try:
                port = await asyncio.to_thread(node.wait_for, "listening on ")
                async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
                    yield Shop(market, edge, http)
            finally:
                await asyncio.to_thread(node.stop)


async def test_a_page_is_sold_and_the_aggregator_never_sees_which(shop: Shop) -> None:
    answer = await shop.buy(payment_for(await shop.offer(), 1))
    assert (answer.status_code, answer.text) == (200, "The first article.")
    receipt = decode_header(answer.headers["payment-response"], SettleResponse, "PAYMENT-RESPONSE")
    assert (receipt.success, receipt.extra["chargedAmount"]) == (True, str(PRICE))  # type: ignore[index]
    assert shop.charged == PRICE
    sent = "".join(shop.edge.bodies)
    assert '"requestHash"' in sent
    assert "articles" not in sent
    assert '"blind":' not in sent


async def test_a_hundred_parallel_requests_on_one_channel_all_succeed(shop: Shop) -> None:
    offer = await shop.offer()
    answers = await asyncio.gather(*(shop.buy(payment_for(offer, number)) for number in range(1, 101)))
    assert {answer.status_code for answer in answers} == {200}
    assert shop.charged == 100 * PRICE


async def test_a_lost_response_followed_by_a_retry_charges_once(shop: Shop) -> None:
    payment = payment_for(await shop.offer(), 1)
    answers = [await shop.buy(payment) for _ in range(3)]
    assert [answer.text for answer in answers] == ["The first article."] * 3
    assert shop.charged == PRICE
    lost = payment_for(await shop.offer(), 2)
    shop.edge.lose = 1
    assert (await shop.buy(lost)).status_code == 503
    again = await shop.buy(lost)
    assert (again.status_code, again.text) == (200, "The first article."), "what was taken is delivered"
    assert shop.charged == 2 * PRICE


async def test_a_payment_for_another_page_buys_nothing(shop: Shop) -> None:
    offer = await shop.offer()
    payment = payment_for(offer, 1, "/articles/2")
    refused = await shop.buy(payment)
    assert (refused.status_code, refused.text.partition(":")[0]) == (402, "request_mismatch")
    assert (await shop.buy(payment, "/articles/2")).text == "The second article."
    assert (await shop.buy(payment)).text.partition(":")[0] == "request_mismatch", "nor once it has bought its own"
    for header in ("!!!", "bnVsbA==", "e30=", "W10=", encode_header(PaymentPayload(payload={}, accepted=offer))):
        assert (await shop.buy(header)).status_code in {400, 402}
