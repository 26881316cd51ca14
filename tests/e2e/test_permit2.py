"""exact by Permit2 and upto end to end: the official Python client pays our paywall, which our aggregator settles for.

Also over HTTP: the official facilitator client verifies and settles what the official client signed.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from fastapi import FastAPI
from market import MONEY, PRICE, HttpMarket
from x402 import x402Client, x402ResourceServer
from x402.extensions.eip2612_gas_sponsoring import declare_eip2612_gas_sponsoring_extension
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, PaymentOption, RouteConfig
from x402.http.clients.httpx import wrapHttpxWithPayment
from x402.http.facilitator_client_base import AuthHeaders
from x402.http.middleware.fastapi import payment_middleware
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.mechanisms.evm.exact.server import ExactEvmScheme as ExactEvmServerScheme
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.mechanisms.evm.upto import UptoEvmClientScheme
from x402.mechanisms.evm.upto.server import UptoEvmScheme as UptoEvmServerScheme
from x402.schemas import AssetAmount, PaymentPayload, PaymentRequirements

from _anvil import function, hexed
from anvil import PERMIT2_CONTRACTS
from served import served
from tallystick.eip712 import PERMIT2_ADDRESS
from tallystick.hexadecimal import checksum
from tallystick.tokens import Token
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PaymentRequired,
    SettleResponse,
    decode_header,
)
from tallystick.x402 import PaymentPayload as Payment
from tallystick_client import Budgets, Operator
from tallystick_client.payer.cli.onchain import approve_permit2
from tallystick_client.payer.errors import BudgetExceededError, Permit2ApprovalError
from tallystick_client.payer.policy.answers import told_error
from tallystick_client.payer.wallet.schemes.exact import ExactScheme
from tallystick_client.payer.wallet.schemes.upto import UptoScheme
from tallystick_contracts import load

NETWORK = "eip155:31337"


class Permit2Market(HttpMarket):
    """A market whose shop asks for a token without ERC-3009: by Permit2 only, its permits landed."""

    price = "0.001 PUSD"

    def prepare(self) -> None:
        for address, name in PERMIT2_CONTRACTS.items():
            self.anvil.rpc("anvil_setCode", hexed(address), hexed(load(name).deployed_bytecode))
        self.token = self.anvil.deploy_contract("TestPermitToken")
        self.config.write_text(
            self.config.read_text()
            + f"""
[[chain.token]]
address = "{checksum(self.token)}"
symbol = "PUSD"
decimals = 6
name = "Permit Dollar"
version = "1"
transfer_methods = ["permit2"]
eip2612 = true
"""
        )
        super().prepare()

    @property
    def operator(self) -> Operator:
        """The operator's terms, and the token that was added."""
        terms = super().operator
        return replace(terms, tokens=(*terms.tokens, Token(self.token, "PUSD", 6, "Permit Dollar", "1")))

    def buyer(self) -> LocalAccount:
        """Somebody with money who has approved nothing."""
        account: LocalAccount = Account.create()
        self.anvil.mint(self.token, bytes.fromhex(account.address[2:]), MONEY)
        return account

    def approve(self, account: LocalAccount) -> None:
        address = bytes.fromhex(account.address[2:])
        self.anvil.set_ether(address, 10**18)
        self.anvil.send(address, self.token, function("approve(address,uint256)", PERMIT2_ADDRESS, 2**256 - 1))


class ReadingSigner(EthAccountSigner):
    """The official signer with an endpoint to read from, as it needs one to sign permits."""

    def __init__(self, account: LocalAccount, market: Permit2Market) -> None:
        super().__init__(account)
        self._market = market

    def read_contract(self, address: str, _abi: Any, name: str, *arguments: str) -> int:
        types = ",".join(["address"] * len(arguments))
        words = [bytes.fromhex(argument[2:]) for argument in arguments]
        answer = self._market.anvil.call(bytes.fromhex(address[2:]), function(f"{name}({types})", *words))
        return int.from_bytes(answer, "big")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Permit2Market]:
    with Permit2Market(tmp_path_factory.mktemp("permit2")) as running:
        yield running


def client(scheme: Any) -> x402Client:
    return x402Client().set_spend_controls({"allowed_assets": True}).register("eip155:*", scheme)


async def buy(market: Permit2Market, scheme: Any, path: str) -> httpx.Response:
    async with wrapHttpxWithPayment(client(scheme), base_url=market.url, timeout=60) as http:
        return await http.get(path)


def receipt_of(answer: httpx.Response) -> SettleResponse:
    return decode_header(answer.headers[PAYMENT_RESPONSE_HEADER], SettleResponse, "receipt")


async def test_the_official_client_pays_exact_by_permit2_and_upto(market: Permit2Market) -> None:
    account = market.buyer()
    market.approve(account)
    before = market.received()
    page = await buy(market, ExactEvmScheme(account), "/paid/page/exact")
    assert (page.status_code, page.json()) == (200, "page exact")
    assert market.received() - before == PRICE
    used = await buy(market, UptoEvmClientScheme(account), "/paid/metered/300")
    assert (used.status_code, used.json()) == (200, "used 300")
    assert market.received() - before == PRICE + 300
    receipt = receipt_of(used)
    assert (receipt.success, receipt.amount) == (True, "300")
    assert market.anvil.rpc("eth_getTransactionReceipt", receipt.transaction)["status"] == "0x1"


@pytest.mark.parametrize("scheme", [ExactEvmScheme, UptoEvmClientScheme])
async def test_a_permit_of_the_official_client_approves_on_the_way(market: Permit2Market, scheme: Any) -> None:
    account, before = market.buyer(), market.received()
    for number in range(2):
        page = await buy(market, scheme(ReadingSigner(account, market)), f"/paid/page/permit-{scheme.scheme}-{number}")
        assert page.status_code == 200, page.headers
    assert market.received() - before == 2 * PRICE
    assert market.anvil.rpc("eth_getBalance", account.address, "latest") == "0x0"


async def test_who_has_approved_nothing_is_told_what_is_needed(market: Permit2Market) -> None:
    before = market.received()
    refused = await buy(market, ExactEvmScheme(market.buyer()), "/paid/page/unapproved")
    assert refused.status_code == 402
    said = decode_header(refused.headers[PAYMENT_REQUIRED_HEADER], PaymentRequired, "402")
    assert (said.error or "").startswith("permit2_allowance_required: ")
    assert (market.received(), market.handled("page unapproved")) == (before, 0)


async def test_nothing_used_costs_nothing_and_the_payment_is_used_up(market: Permit2Market) -> None:
    account = market.buyer()
    market.approve(account)
    before = market.received()
    answer = await buy(market, UptoEvmClientScheme(account), "/paid/metered/0")
    receipt = receipt_of(answer)
    assert (answer.status_code, receipt.success, receipt.amount, receipt.transaction) == (200, True, "0", "")
    assert market.received() == before


class Bearer:
    """The seller's token, as the official client takes it."""

    def __init__(self, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}"}

    def get_auth_headers(self) -> AuthHeaders:
        return AuthHeaders(verify=self._headers, settle=self._headers, supported=self._headers)


def signed_by(scheme: Any, accepted: PaymentRequirements) -> PaymentPayload:
    payload = scheme.create_payment_payload(accepted)
    return PaymentPayload(x402_version=2, payload=payload, accepted=accepted)


async def test_the_official_facilitator_client_has_both_settled_over_http(market: Permit2Market) -> None:
    account = market.buyer()
    market.approve(account)

    opening = HTTPFacilitatorClient(FacilitatorConfig(url=market.http_url, auth_provider=Bearer(market.seller_token)))
    async with opening as facilitator:
        supported = facilitator.get_supported()
        kinds = {kind.scheme: kind for kind in supported.kinds if (kind.extra or {}).get("assetTransferMethod")}
        assert set(kinds) == {"exact", "upto"}
        assert "eip2612GasSponsoring" in supported.extensions
        assert kinds["upto"].extra["facilitatorAddress"] in supported.signers["eip155:*"]
        for scheme, maker, taken in (("exact", ExactEvmScheme, PRICE), ("upto", UptoEvmClientScheme, 250)):
            extra = {"name": "Permit Dollar", "version": "1", **(kinds[scheme].extra or {})}
            accepted = PaymentRequirements(
                scheme=scheme,
                network=NETWORK,
                asset=checksum(market.token),
                amount=str(PRICE),
                pay_to=checksum(market.receiver),
                max_timeout_seconds=60,
                extra=extra,
            )
            payment = signed_by(maker(account), accepted)
            assert (await facilitator.verify(payment, accepted)).is_valid
            before = market.received()
            settling = accepted.model_copy(update={"amount": str(taken)})
            settled = await facilitator.settle(payment, settling)
            assert (settled.success, settled.payer) == (True, account.address)
            assert market.received() - before == taken
            again = await facilitator.settle(payment, settling)
            assert (again.success, again.transaction) == (True, settled.transaction)
            assert market.received() - before == taken


async def test_standard_codes_tell_why_a_payment_is_refused_over_http(market: Permit2Market) -> None:
    account = market.buyer()
    async with httpx.AsyncClient(base_url=market.http_url) as http:
        answer = await http.get("/supported", headers={"Authorization": f"Bearer {market.seller_token}"})
        upto = next(kind for kind in answer.json()["kinds"] if kind["scheme"] == "upto")
        accepted = PaymentRequirements(
            scheme="upto",
            network=NETWORK,
            asset=checksum(market.token),
            amount=str(PRICE),
            pay_to=checksum(market.receiver),
            max_timeout_seconds=60,
            extra={"name": "Permit Dollar", "version": "1", **upto["extra"]},
        )

        async def refused(path: str, payment: PaymentPayload, **asked: Any) -> str:
            body = {
                "x402Version": 2,
                "paymentPayload": payment.model_dump(by_alias=True, exclude_none=True),
                "paymentRequirements": accepted.model_copy(update=asked).model_dump(by_alias=True),
            }
            said = await http.post(path, json=body, headers={"Authorization": f"Bearer {market.seller_token}"})
            assert said.status_code == 200, said.text
            return str(said.json().get("invalidReason") or said.json().get("errorReason"))

        payment = signed_by(UptoEvmClientScheme(account), accepted)
        assert await refused("/verify", payment) == "permit2_allowance_required"
        market.approve(account)
        too_much = await refused("/settle", payment, amount=str(PRICE + 1))
        assert too_much == "invalid_upto_evm_payload_settlement_exceeds_amount"
        foreign = accepted.model_copy(update={"extra": {**accepted.extra, "facilitatorAddress": account.address}})
        elsewhere = signed_by(UptoEvmClientScheme(account), foreign)
        assert await refused("/verify", elsewhere) == "upto_facilitator_mismatch"


async def test_our_wallet_pays_by_permit2_within_its_budgets(market: Permit2Market, shopper: Any) -> None:
    signer, before = market.payer(), market.received()
    budgets = Budgets(per_day=f"{3 * PRICE / 10**6}")
    schemes = [UptoScheme(signer), ExactScheme(permit2=signer)]
    unreachable = [replace(market.operator, aggregator="127.0.0.1:1")]
    async with shopper(signer=signer, deposit=None, schemes=schemes, budgets=budgets, operators=unreachable) as payer:
        # It cannot ask what Permit2 may move, so the seller's refusal tells.
        refused = await payer.http.get("/paid/metered/300")
        assert refused.status_code == 402
        assert "permit2_allowance_required" in told_error(refused.headers)
        market.anvil.set_ether(signer.address, 10**18)
        await approve_permit2(market.anvil.url, market.operator, signer, market.token, 2**256 - 1)
        used = await payer.http.get("/paid/metered/300")
        assert (used.status_code, used.json()) == (200, "used 300")
        assert payer.payments[0] == payer.payments[1], "the refused payment was not sent again"
        assert market.received() - before == 300
    async with shopper(signer=signer, name="other", deposit=None, schemes=schemes[1:], budgets=budgets) as payer:
        for number in range(3):
            assert (await payer.http.get(f"/paid/page/ours-{number}")).status_code == 200
        with pytest.raises(BudgetExceededError):
            await payer.http.get("/paid/page/ours-4")
        assert market.received() - before == 300 + 3 * PRICE


def brought_permit(payment: str) -> bool:
    return "signature" in decode_header(payment, Payment, "payment").extensions["eip2612GasSponsoring"]["info"]  # type: ignore[index]


async def test_our_wallet_signs_a_permit_for_each_payment_where_it_has_approved_nothing(
    market: Permit2Market, shopper: Any
) -> None:
    signer, before = market.payer(), market.received()
    schemes = [UptoScheme(signer), ExactScheme(permit2=signer)]
    async with shopper(signer=signer, deposit=None, schemes=schemes) as payer:
        used = await payer.http.get("/paid/metered/300")
        assert (used.status_code, used.json()) == (200, "used 300")
    async with shopper(signer=signer, name="other", deposit=None, schemes=schemes[1:]) as exact:
        # 700 of the first permit are left, less than a page costs; and no two permits are under way at once.
        pages = [exact.http.get(f"/paid/page/permits-{number}") for number in range(4)]
        assert {page.status_code for page in await asyncio.gather(*pages)} == {200}
    assert all(brought_permit(payment) for payment in [*payer.payments, *exact.payments])
    assert market.received() - before == 300 + 4 * PRICE
    assert market.anvil.rpc("eth_getBalance", hexed(signer.address), "latest") == "0x0"


async def test_our_wallet_signs_no_permit_where_it_has_approved_enough(market: Permit2Market, shopper: Any) -> None:
    signer, before = market.payer(), market.received()
    market.anvil.set_ether(signer.address, 10**18)
    await approve_permit2(market.anvil.url, market.operator, signer, market.token, 2 * PRICE)
    async with shopper(signer=signer, deposit=None, schemes=[ExactScheme(permit2=signer)]) as payer:
        for number in range(2):
            assert (await payer.http.get(f"/paid/page/approved-{number}")).status_code == 200
    assert not any(brought_permit(payment) for payment in payer.payments)
    assert market.received() - before == 2 * PRICE


async def test_our_wallet_pays_an_official_seller_by_a_permit(market: Permit2Market, shopper: Any) -> None:
    signer, before = market.payer(), market.received()
    schemes = [UptoScheme(signer), ExactScheme(permit2=signer)]
    with official_shop(market) as url:
        async with shopper(signer=signer, deposit=None, schemes=schemes) as payer:
            for page in ("upto", "exact"):
                bought = await payer.http.get(f"{url}/{page}")
                assert (bought.status_code, bought.json()) == (200, page), bought.headers
            with pytest.raises(Permit2ApprovalError, match="tallystick wallet approve --rpc URL --token PUSD"):
                await payer.http.get(f"{url}/unsponsored")
    assert all(brought_permit(payment) for payment in payer.payments)
    assert market.received() - before == 2 * PRICE
    assert market.anvil.rpc("eth_getBalance", hexed(signer.address), "latest") == "0x0"


@contextmanager
def official_shop(market: Permit2Market) -> Iterator[str]:
    """A FastAPI shop of the official SDK's, with the market's aggregator as its facilitator over HTTP; its address."""
    facilitator = HTTPFacilitatorClient(
        FacilitatorConfig(url=market.http_url, auth_provider=Bearer(market.seller_token))
    )
    server = x402ResourceServer(facilitator).register(NETWORK, ExactEvmServerScheme())
    server.register(NETWORK, UptoEvmServerScheme())
    extra = {"name": "Permit Dollar", "version": "1", "assetTransferMethod": "permit2"}
    price = AssetAmount(amount=str(PRICE), asset=checksum(market.token), extra=extra)

    def route(scheme: str, **settings: Any) -> RouteConfig:
        return RouteConfig(accepts=PaymentOption(scheme, checksum(market.receiver), price, NETWORK), **settings)

    permits = declare_eip2612_gas_sponsoring_extension()

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        async with facilitator:
            yield

    app = FastAPI(lifespan=closing)
    app.middleware("http")(
        payment_middleware(
            {
                "GET /exact": route("exact", extensions=permits),
                "GET /upto": route("upto", extensions=permits),
                "GET /unsponsored": route("exact"),
            },
            server,
        )
    )
    app.get("/{page}")(lambda page: page)
    with served(app) as url:
        yield url
