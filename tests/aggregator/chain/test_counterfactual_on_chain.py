"""ERC-6492 on a chain: wallets that are deployed by their first payment, through the ports and over HTTP."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from harness import Side, chain_side
from httpx2 import AsyncClient

import site_files
from _anvil import function, hexed
from anvil import NETWORK, Devnet, receiver
from tallystick import eip712
from tallystick.eip712 import ESCROW_NAME, ESCROW_VERSION
from tallystick.facilitator import Settled, Verified
from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick.signatures import Signer
from tallystick.x402 import SCHEME_EXACT, ExactAuthorization, Network, PaymentTerms, exact_payload
from tallystick_aggregator.accounts.offers import EscrowOffer
from tallystick_aggregator.auth.transfer_limits import TransferLimits
from tallystick_aggregator.chain.escrow_calls import selector
from tallystick_aggregator.chain.multicall import MULTICALL3_ADDRESS
from tallystick_aggregator.chain.token_port import Deployment
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.runtime.app import running
from tallystick_aggregator.runtime.config.file import Config
from tallystick_aggregator.schemes.exact import ExactPayments
from tallystick_aggregator.schemes.exact.authorizations import ERC6492_SUFFIX
from tallystick_aggregator.schemes.exact.preconditions import DEPLOYING_GAS_MAX

NEWS = receiver(1)
VALUE = 1_000
OWNER = Signer(sha256(b"owner of a wallet").digest())
SALT = bytes(32)


@dataclass
class Stall:
    """A factory on a chain with Multicall3, and the wallet that it would deploy for OWNER, which has money."""

    devnet: Devnet
    factory: bytes
    wallet: bytes
    until_s: int

    def deploy_data(self, owner: bytes = OWNER.address) -> bytes:
        return selector("deploy(address,bytes32)") + encode(["address", "bytes32"], [owner, SALT])

    def slow_data(self, gas: int) -> bytes:
        types = ["address", "bytes32", "uint256"]
        return selector("deploySlowly(address,bytes32,uint256)") + encode(types, [OWNER.address, SALT, gas])

    def payment(self, number: int = 0, *, data: bytes | None = None) -> ExactAuthorization:
        nonce = sha256(b"transfer %d" % number).digest()
        transfer = ExactAuthorization(self.wallet, NEWS, VALUE, 0, self.until_s, nonce, b"")
        signature = OWNER.sign(eip712.digest(self.devnet.token_domain, transfer.struct_hash()))
        inner = (self.factory, self.deploy_data() if data is None else data, signature)
        return replace(transfer, signature=encode(["address", "bytes", "bytes"], inner) + ERC6492_SUFFIX)

    def terms(self) -> PaymentTerms:
        return PaymentTerms(SCHEME_EXACT, Network.parse(NETWORK, "network"), VALUE, self.devnet.token, NEWS)

    def is_deployed(self) -> bool:
        return len(self.devnet.anvil.rpc("eth_getCode", hexed(self.wallet), "latest")) > 2


@pytest.fixture
def stall(devnet: Devnet) -> Stall:
    devnet.put_multicall3()
    factory = devnet.anvil.deploy_contract("TestWalletFactory")
    asked = {"to": hexed(factory), "data": hexed(function("walletOf(address,bytes32)", OWNER.address, 0))}
    wallet = bytes.fromhex(devnet.anvil.rpc("eth_call", asked, "latest")[26:])
    devnet.anvil.mint(devnet.token, wallet, 10 * VALUE)
    return Stall(devnet, factory, wallet, int(time.time()) + 600)


@asynccontextmanager
async def opened(stall: Stall) -> AsyncIterator[tuple[ExactPayments, Side]]:
    devnet = stall.devnet
    async with chain_side(devnet) as side:
        tokens = {devnet.token: devnet.token_settings}
        offer = EscrowOffer(
            NETWORK, devnet.escrow, ESCROW_NAME, ESCROW_VERSION, devnet.operator.address, tokens, 900, 2**20, 86_400
        )
        limits = TransferLimits(erc6492_factories=frozenset({stall.factory}))
        yield (
            ExactPayments(
                {offer.ref: side.chain}, {offer.ref: offer}, side.outbox, lambda: int(time.time()), limits=limits
            ),
            side,
        )


async def test_a_wallet_is_deployed_by_its_first_payment_within_the_gas_cap(stall: Stall) -> None:
    async with opened(stall) as (exact, _):
        assert isinstance(await exact.verify(stall.terms(), stall.payment()), Verified)
        assert not stall.is_deployed()
        settled = await exact.settle(stall.terms(), stall.payment())
        assert isinstance(settled, Settled), settled
        sent = stall.devnet.anvil.rpc("eth_getTransactionByHash", hexed(settled.transaction))
        assert bytes.fromhex(sent["to"][2:]) == MULTICALL3_ADDRESS
        assert (int(sent["value"], 16), int(sent["gas"], 16) <= DEPLOYING_GAS_MAX) == (0, True)
        assert stall.is_deployed()
        assert stall.devnet.balance(NEWS) == VALUE
        second = await exact.settle(stall.terms(), stall.payment(1))
        assert isinstance(second, Settled)
        sent = stall.devnet.anvil.rpc("eth_getTransactionByHash", hexed(second.transaction))
        assert bytes.fromhex(sent["to"][2:]) == stall.devnet.token, "it has code now, so it is paid the ordinary way"
        assert stall.devnet.balance(NEWS) == 2 * VALUE


async def test_a_factory_that_says_already_deployed_stops_no_payment(stall: Stall) -> None:
    """Of two first payments in one block the second finds the wallet deployed."""
    async with opened(stall) as (exact, side):
        stall.devnet.anvil.automine(on=False)
        terms = replace(stall.terms(), max_timeout_s=1)
        for number in range(2):
            pending = await exact.settle(terms, stall.payment(number))
            assert isinstance(pending, Refusal)
            assert pending.reason is Reason.TRANSACTION_PENDING
        assert {sent.to for sent in await side.outbox.open(NETWORK)} == {MULTICALL3_ADDRESS}
        stall.devnet.anvil.rpc("evm_mine")
        stall.devnet.anvil.automine(on=True)
        for number in range(2):
            assert isinstance(await exact.settle(stall.terms(), stall.payment(number)), Settled)
        assert stall.devnet.balance(NEWS) == 2 * VALUE


async def test_nothing_of_a_deployment_stays_where_the_transfer_fails(stall: Stall) -> None:
    async with opened(stall) as (_, side):
        token = side.chain.tokens[stall.devnet.token]
        forged = replace(stall.payment(), signature=bytes(65))
        call = token.deploying_transfer_call(forged, Deployment(stall.factory, stall.deploy_data()))
        with pytest.raises(Exception, match="revert"):
            stall.devnet.anvil.send(stall.devnet.operator.address, call.to, call.data)
        assert not stall.is_deployed()


@pytest.mark.parametrize(
    ("gas", "reason"), [(DEPLOYING_GAS_MAX, Reason.EXACT_GAS), (20_000_000, Reason.EXACT_SIGNATURE)]
)
async def test_x2_a_deployment_that_burns_gas_costs_no_transaction(stall: Stall, gas: int, reason: Reason) -> None:
    async with opened(stall) as (exact, side):
        for ask in (exact.verify, exact.settle):
            refusal = await ask(stall.terms(), stall.payment(data=stall.slow_data(gas)))
            assert isinstance(refusal, Refusal)
            assert refusal.reason is reason, refusal
            assert checksum(stall.factory) in refusal.message
        assert await side.outbox.open(NETWORK) == []
    assert not stall.is_deployed()


async def test_a_call_that_deploys_another_wallet_is_not_sent(stall: Stall) -> None:
    async with opened(stall) as (exact, side):
        refusal = await exact.settle(stall.terms(), stall.payment(data=stall.deploy_data(bytes(20))))
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.EXACT_SIGNATURE
        assert await side.outbox.open(NETWORK) == []


async def test_a_chain_without_multicall3_is_told_from_a_bad_signature(stall: Stall) -> None:
    stall.devnet.anvil.rpc("anvil_setCode", hexed(MULTICALL3_ADDRESS), "0x")
    async with opened(stall) as (exact, _):
        refusal = await exact.verify(stall.terms(), stall.payment())
        assert isinstance(refusal, Refusal)
        assert refusal.code == "invalid_exact_evm_payload_undeployed_smart_wallet"


def body_of(stall: Stall, payment: ExactAuthorization) -> dict[str, Any]:
    asked = {
        "scheme": "exact",
        "network": NETWORK,
        "amount": str(VALUE),
        "asset": checksum(stall.devnet.token),
        "payTo": checksum(NEWS),
        "maxTimeoutSeconds": 30,
        "extra": {"name": "USD Coin", "version": "2"},
    }
    return {
        "x402Version": 2,
        "paymentPayload": {"x402Version": 2, "accepted": asked, "payload": exact_payload(payment)},
        "paymentRequirements": asked,
    }


@pytest.mark.parametrize("listed", [True, False])
async def test_a_wallet_pays_over_http_where_the_operator_lists_its_factory(
    stall: Stall, tmp_path: Path, listed: bool
) -> None:
    factory = stall.factory if listed else b"\x57" * 20
    config = site_files.write_site(
        tmp_path, stall.devnet, http={"listen": "127.0.0.1:0"}, exact={"erc6492_factories": [checksum(factory)]}
    )
    headers = {"authorization": f"Bearer {site_files.add_seller(config, 'news', [NEWS])}"}
    body = json.dumps(body_of(stall, stall.payment()))
    async with (
        running(Config.load(config)) as aggregator,
        AsyncClient(base_url=aggregator.http_url, headers=headers, timeout=30) as client,
    ):
        verified = (await client.post("/verify", content=body)).json()
        settled = (await client.post("/settle", content=body)).json()
        again = (await client.post("/settle", content=body)).json()
    assert again == settled
    if listed:
        assert verified == {"isValid": True, "payer": checksum(stall.wallet)}
        assert (settled["success"], settled["amount"]) == (True, str(VALUE))
        assert stall.devnet.balance(NEWS) == VALUE
    else:
        assert verified["invalidReason"] == settled["errorReason"] == "eip6492_factory_not_allowed"
        assert not stall.is_deployed()
