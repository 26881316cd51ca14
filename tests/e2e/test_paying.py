"""The transport and the paywall against a running aggregator and a real chain."""

import asyncio
from typing import Any

import httpx2
import pytest
from market import PRICE, Market, tallystick

from tallystick.x402 import PAYMENT_REQUIRED_HEADER, PAYMENT_RESPONSE_HEADER, SettleResponse, decode_header
from tallystick_client.payer.errors import DepositNotAllowedError


async def account_of(shopper: Any) -> Any:
    (account,) = (await shopper.wallet.status()).accounts
    return account


async def test_who_does_not_pay_is_told_how(market: Market) -> None:
    async with httpx2.AsyncClient(base_url=market.url) as http:
        asked = await http.get("/paid/page/unpaid")
        free = await http.get("/free")
    assert (asked.status_code, asked.json()["x402Version"]) == (402, 2)
    assert asked.headers["cache-control"] == "no-store"
    assert PAYMENT_REQUIRED_HEADER in asked.headers
    assert (free.status_code, market.handled("page unpaid")) == (200, 0)


async def test_one_deposit_pays_for_many_requests_in_flight(shopper: Any) -> None:
    async with shopper() as payer:
        names = [f"crowd-{number}" for number in range(60)]
        answers = await asyncio.gather(*(payer.http.get(f"/paid/page/{name}") for name in names))
        assert {answer.status_code for answer in answers} == {200}
        assert [answer.json() for answer in answers] == [f"page {name}" for name in names]
        account = await account_of(payer)
    assert (account.deposits, account.charged, account.unknown) == (1, 60 * PRICE, 0)
    receipt = decode_header(answers[0].headers[PAYMENT_RESPONSE_HEADER], SettleResponse, "receipt")
    assert receipt.success
    assert answers[0].headers["cache-control"] == "private"


async def test_only_a_good_answer_costs(shopper: Any) -> None:
    async with shopper() as payer:
        statuses = [(await payer.http.get(path)).status_code for path in ("/paid/missing", "/paid/broken")]
        assert statuses == [404, 500]
        assert (await account_of(payer)).charged == 0
        assert (await payer.http.get("/paid/page/good")).status_code == 200
        assert (await account_of(payer)).charged == PRICE


async def test_a_wallet_deposits_no_more_than_its_payer_holds(market: Market, shopper: Any) -> None:
    async with shopper(market.payer(200_000)) as payer:
        assert (await payer.http.get("/paid/page/all-it-has")).status_code == 200
        assert (await account_of(payer)).deposited == 200_000
        assert market.anvil.token_balance(market.token, payer.signer.address) == 0
    async with shopper(market.payer(0), "nothing") as payer:
        with pytest.raises(DepositNotAllowedError, match=r"allowed at most 0 USDC"):
            await payer.http.get("/paid/page/nothing-to-pay-with")
        account = await account_of(payer)
        assert (account.deposits, account.deposits_under_way) == (0, [])


async def test_bodies_and_streams_are_paid_for(shopper: Any) -> None:
    async with shopper() as payer:
        echoed = await payer.http.post("/paid/echo", content=b"what was sent")
        streamed = await payer.http.get("/paid/stream")
        assert (echoed.status_code, echoed.json()) == (200, "what was sent")
        assert (streamed.status_code, streamed.text) == (200, "part 0\npart 1\npart 2\n")
        assert (await account_of(payer)).charged == 2 * PRICE


async def test_vouchers_alone_pay_too_in_any_order(shopper: Any) -> None:
    async with shopper(proof="voucher") as payer:
        paths = [f"/paid/page/voucher-{number}" for number in range(40)]
        answers = await asyncio.gather(*(payer.http.get(path) for path in paths))
        assert {answer.status_code for answer in answers} == {200}
        assert (await account_of(payer)).charged == 40 * PRICE


async def test_a_settlement_pays_the_seller_to_the_unit_and_a_refund_returns_the_rest(
    market: Market, shopper: Any
) -> None:
    async with shopper() as payer:
        before = market.anvil.token_balance(market.token, payer.signer.address)
        tallystick("settle", "--aggregator", market.aggregator, TALLYSTICK_TOKEN=market.seller_token)
        received = market.received()
        answers = await asyncio.gather(*(payer.http.get(f"/paid/page/settle-{number}") for number in range(7)))
        assert {answer.status_code for answer in answers} == {200}
        tallystick("settle", "--aggregator", market.aggregator, TALLYSTICK_TOKEN=market.seller_token)
        assert market.received() - received == 7 * PRICE
        await payer.wallet.refund()
        after = market.anvil.token_balance(market.token, payer.signer.address)
        assert before - after == 7 * PRICE


async def test_a_wallet_opened_again_goes_on_where_it_was(shopper: Any) -> None:
    async with shopper() as payer:
        await asyncio.gather(*(payer.http.get(f"/paid/page/before-{number}") for number in range(10)))
    async with shopper(payer.signer) as again:
        await again.wallet.reconcile()
        assert (await account_of(again)).charged == 10 * PRICE
        assert (await again.http.get("/paid/page/after")).status_code == 200
        assert (await account_of(again)).deposits == 1
