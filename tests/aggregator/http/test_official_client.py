"""The official Python SDK's facilitator client, unchanged, against the whole aggregator on Anvil."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from httpx2 import AsyncClient
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.facilitator_client_base import AuthHeaders
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.schemas import PaymentPayload, PaymentRequirements

import site_files
from anvil import NETWORK, Devnet, receiver
from tallystick.hexadecimal import checksum, to_hex
from tallystick.signatures import Signer
from tallystick_aggregator.chain.settings import ConfigurationError
from tallystick_aggregator.runtime.app import running
from tallystick_aggregator.runtime.config.file import Config

NEWS = receiver(1)
PRICE = 1_000
KEY = bytes([9]) * 32


class Token:
    """The SDK's hook for a token in the headers."""

    def __init__(self, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self.headers = AuthHeaders(verify=headers, settle=headers, supported=headers)

    def get_auth_headers(self) -> AuthHeaders:
        return self.headers


@pytest.fixture
async def url(tmp_path: Path, devnet: Devnet) -> AsyncIterator[str]:
    """An aggregator with an HTTP edge."""
    config = site_files.write_site(tmp_path, devnet, http={"listen": "127.0.0.1:0"})
    async with running(Config.load(config)) as aggregator:
        yield aggregator.http_url


@pytest.fixture
async def facilitator(url: str, tmp_path: Path) -> AsyncIterator[HTTPFacilitatorClient]:
    token = site_files.add_seller(tmp_path / "aggregator.toml", "news", [NEWS])
    async with HTTPFacilitatorClient(FacilitatorConfig(url=url, auth_provider=Token(token))) as client:
        yield client


async def paid(devnet: Devnet, amount: int = PRICE) -> tuple[PaymentPayload, PaymentRequirements]:
    """A payment by the SDK's own client."""
    account = Account.from_key(KEY)
    devnet.anvil.mint(devnet.token, bytes.fromhex(account.address[2:]), amount)
    requirements = PaymentRequirements(
        scheme="exact",
        network=NETWORK,
        asset=checksum(devnet.token),
        amount=str(amount),
        pay_to=checksum(NEWS),
        max_timeout_seconds=60,
        extra={"name": "USD Coin", "version": "2"},
    )
    inner = ExactEvmScheme(EthAccountSigner(account)).create_payment_payload(requirements)
    return PaymentPayload(payload=inner, accepted=requirements), requirements


async def test_it_reads_what_is_supported(facilitator: HTTPFacilitatorClient, devnet: Devnet) -> None:
    told = await asyncio.to_thread(facilitator.get_supported)
    assert {(kind.x402_version, kind.scheme, kind.network) for kind in told.kinds} >= {(2, "exact", NETWORK)}
    assert told.signers == {"eip155:*": [checksum(devnet.sender.address)]}


async def test_it_has_a_payment_verified_and_settled(facilitator: HTTPFacilitatorClient, devnet: Devnet) -> None:
    payload, requirements = await paid(devnet)
    verified = await facilitator.verify(payload, requirements)
    assert verified.is_valid, verified
    assert verified.payer == Account.from_key(KEY).address
    settled = await facilitator.settle(payload, requirements)
    assert settled.success, settled
    assert devnet.balance(NEWS) == PRICE
    receipt: Any = devnet.anvil.rpc("eth_getTransactionReceipt", settled.transaction)
    assert receipt["status"] == "0x1"
    again = await facilitator.settle(payload, requirements)
    assert (again.success, again.transaction) == (True, settled.transaction)
    assert devnet.balance(NEWS) == PRICE


async def test_it_is_told_why_not(facilitator: HTTPFacilitatorClient, devnet: Devnet) -> None:
    payload, requirements = await paid(devnet)
    payload.payload["authorization"]["validBefore"] = str(int(time.time()) - 1)
    verified = await facilitator.verify(payload, requirements)
    assert (verified.is_valid, verified.invalid_reason) == (
        False,
        "invalid_exact_evm_payload_authorization_valid_before",
    )
    settled = await facilitator.settle(payload, requirements)
    assert (settled.success, settled.error_reason) == (False, verified.invalid_reason)
    assert devnet.balance(NEWS) == 0


async def test_it_is_denied_without_a_token(url: str, devnet: Devnet) -> None:
    payload, requirements = await paid(devnet)
    async with HTTPFacilitatorClient(FacilitatorConfig(url=url)) as client:
        with pytest.raises(ValueError, match=r"401"):
            await client.verify(payload, requirements)


async def test_an_address_in_use_stops_the_start_and_names_the_setting(
    url: str, tmp_path_factory: pytest.TempPathFactory, devnet: Devnet
) -> None:
    taken = url.removeprefix("http://")
    config = site_files.write_site(tmp_path_factory.mktemp("second"), devnet, http={"listen": taken})
    with pytest.raises(ConfigurationError, match=r"http\.listen: .* cannot be bound"):
        async with running(Config.load(config)):
            pass


def test_serve_prints_the_url_before_it_says_that_it_listens(tmp_path: Path, devnet: Devnet) -> None:
    config = site_files.write_site(tmp_path, devnet, http={"listen": "127.0.0.1:0"})
    command = [sys.executable, "-m", "tallystick_aggregator", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            first, second = process.stdout.readline(), process.stdout.readline()
            assert first.startswith("HTTP facilitator at http://127.0.0.1:")
            assert second.startswith("listening on 127.0.0.1:")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


async def test_health_and_the_end_of_the_process(tmp_path: Path, devnet: Devnet) -> None:
    devnet.anvil.rpc("anvil_setBalance", to_hex(Signer(site_files.STRANGER_KEY).address), hex(10**18))
    config = site_files.write_site(
        tmp_path, devnet, http={"listen": "127.0.0.1:0"}, exact_open={"sender_key": "file:stranger.key"}
    )
    async with running(Config.load(config)) as aggregator, AsyncClient(base_url=aggregator.http_url) as client:
        assert (await client.get("/healthz")).json() == {"status": "serving", "settling": True}
        kinds = (await client.get("/supported")).json()["kinds"]
        assert [kind["scheme"] for kind in kinds] == ["exact"]
    async with AsyncClient() as client:
        with pytest.raises(Exception, match=r"."):
            await client.get(f"{aggregator.http_url}/healthz")
