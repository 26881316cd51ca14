"""Buyers and strangers that cheat, against the whole aggregator on Anvil: pages for nothing, and gas for nothing."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from http_twin import bearer

import site_files
from anvil import NETWORK, Devnet, receiver
from tallystick.eip712 import digest, hash_transfer_with_authorization
from tallystick.facilitator import Attempt
from tallystick.hexadecimal import checksum
from tallystick.x402 import ExactAuthorization, Network, PaymentTerms, exact_payload
from tallystick_aggregator.runtime.app import running
from tallystick_aggregator.runtime.config.file import Config
from tallystick_client import Aggregator, RefusedError

NEWS = receiver(1)
PRICE = 1_000


class Site:
    """An aggregator, its seller's HTTP client and gRPC client, and a payer."""

    def __init__(self, devnet: Devnet, http: httpx2.AsyncClient, grpc: Aggregator) -> None:
        self.devnet, self.http, self.grpc = devnet, http, grpc
        self.payer = devnet.payer()
        self.terms = PaymentTerms("exact", Network.parse(NETWORK, "network"), PRICE, devnet.token, NEWS, 60)

    def pay(self) -> ExactAuthorization:
        """Sign one payment more."""
        fields = (self.payer.signer.address, NEWS, PRICE, 0, int(time.time()) + 600, secrets.token_bytes(32))
        signature = self.payer.signer.sign(digest(self.devnet.token_domain, hash_transfer_with_authorization(*fields)))
        return ExactAuthorization(*fields, signature)

    async def ask(self, path: str, payment: ExactAuthorization, identifier: str = "") -> Any:
        """What an SDK's server asks with it."""
        asked = {
            "scheme": "exact",
            "network": NETWORK,
            "amount": str(PRICE),
            "asset": checksum(self.devnet.token),
            "payTo": checksum(NEWS),
            "maxTimeoutSeconds": 60,
            "extra": {"name": "USD Coin", "version": "2"},
        }
        named = {"payment-identifier": {"info": {"required": False, "id": identifier}}} if identifier else None
        made = {"x402Version": 2, "accepted": asked, "payload": exact_payload(payment), "extensions": named}
        body = {"x402Version": 2, "paymentPayload": made, "paymentRequirements": asked}
        response = await self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def serve_over_http(self, payment: ExactAuthorization) -> bool:
        """Whether an SDK's server gives the page for it."""
        verified = await self.ask("/verify", payment)
        return bool(verified["isValid"] and (await self.ask("/settle", payment))["success"])

    async def serve_over_grpc(self, payment: ExactAuthorization) -> bool:
        """Whether a worker of our paywall does."""
        attempt = Attempt(secrets.token_bytes(16), bytes(32))
        try:
            await self.grpc.verify(self.terms, payment, attempt)
            await self.grpc.settle(self.terms, payment, attempt)
        except RefusedError:
            return False
        return True

    def nonce(self) -> int:
        """How many transactions the sender has sent."""
        return int(self.devnet.anvil.rpc("eth_getTransactionCount", checksum(self.devnet.sender.address), "latest"), 16)


@pytest.fixture
async def site(tmp_path: Path, devnet: Devnet) -> AsyncIterator[Site]:
    config = site_files.write_site(tmp_path, devnet, http={"listen": "127.0.0.1:0"})
    async with running(Config.load(config)) as aggregator:
        token = site_files.add_seller(config, "news", [NEWS])
        async with (
            httpx2.AsyncClient(base_url=aggregator.http_url, headers=bearer(token), timeout=60) as http,
            Aggregator(aggregator.address, token=token) as grpc,
        ):
            yield Site(devnet, http, grpc)


async def test_one_payment_buys_one_page_however_often_and_wherever_it_is_sent(site: Site) -> None:
    site.devnet.anvil.mint(site.devnet.token, site.payer.signer.address, 10 * PRICE)
    payment = site.pay()
    served = await asyncio.gather(
        *(serve(payment) for serve in (site.serve_over_http, site.serve_over_grpc) for _ in range(10))
    )
    assert served.count(True) == 1
    assert not await site.serve_over_http(payment)
    assert not await site.serve_over_grpc(payment)
    assert site.devnet.balance(NEWS) == PRICE


async def test_one_identifier_names_one_of_the_payments_that_come_at_once(site: Site) -> None:
    site.devnet.anvil.mint(site.devnet.token, site.payer.signer.address, 10 * PRICE)
    identifier = secrets.token_hex(16)
    answers = await asyncio.gather(*(site.ask("/settle", site.pay(), identifier) for _ in range(8)))
    told = Counter(answer.get("errorReason", "") for answer in answers)
    assert told == {"": 1, "payment_id_reused": 7}
    assert site.devnet.balance(NEWS) == PRICE


async def test_payments_over_the_same_money_burn_no_gas(site: Site) -> None:
    site.devnet.anvil.mint(site.devnet.token, site.payer.signer.address, 2 * PRICE)
    before = site.nonce()
    answers = await asyncio.gather(*(site.ask("/settle", site.pay()) for _ in range(20)))
    landed = [answer for answer in answers if answer["success"]]
    assert len(landed) == site.nonce() - before <= 2
    assert site.devnet.balance(NEWS) == len(landed) * PRICE
    assert {answer["errorReason"] for answer in answers if not answer["success"]} <= {
        "payment_pending",
        "insufficient_funds",
    }
