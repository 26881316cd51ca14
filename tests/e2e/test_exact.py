"""exact end to end: one ERC-3009 transfer a request, sent once."""

import asyncio
from typing import Any

import httpx
import pytest
from market import PRICE, Market

from tallystick.x402 import PAYMENT_RESPONSE_HEADER, PAYMENT_SIGNATURE_HEADER, SettleResponse, decode_header
from tallystick_client.payer.errors import BalanceTooLow


async def test_who_has_no_deposit_pays_by_one_transfer_a_request(market: Market, shopper: Any) -> None:
    async with shopper(deposit=None) as payer:
        before = market.anvil.token_balance(market.token, payer.signer.address)
        answers = [await payer.http.get(f"/paid/page/exact-{number}") for number in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        status = await payer.wallet.status()
        assert (status.accounts, [spent.paid for spent in status.exact]) == ([], [3 * PRICE])
    receipts = [decode_header(answer.headers[PAYMENT_RESPONSE_HEADER], SettleResponse, "receipt") for answer in answers]
    assert all(receipt.success for receipt in receipts)
    assert len({receipt.transaction for receipt in receipts}) == 3
    for receipt in receipts:
        assert market.anvil.rpc("eth_getTransactionReceipt", receipt.transaction)["status"] == "0x1"
    assert before - market.anvil.token_balance(market.token, payer.signer.address) == 3 * PRICE


async def test_the_same_payment_presented_often_is_sent_once(market: Market, shopper: Any) -> None:
    async with shopper(deposit=None) as payer:
        assert (await payer.http.get("/paid/page/exact-once")).status_code == 200
        (header,) = payer.payments
        before = market.anvil.token_balance(market.token, payer.signer.address)
        async with httpx.AsyncClient(base_url=market.url, headers={PAYMENT_SIGNATURE_HEADER: header}) as http:
            again = await asyncio.gather(*(http.get("/paid/page/exact-once") for _ in range(10)))
        assert {answer.status_code for answer in again} <= {200, 409}
        assert market.anvil.token_balance(market.token, payer.signer.address) == before
    assert market.handled("page exact-once") == 1


async def test_an_empty_purse_pays_nothing(market: Market, shopper: Any) -> None:
    async with shopper(signer=market.payer(money=PRICE - 1), deposit=None) as payer:
        with pytest.raises(BalanceTooLow, match="nothing was signed"):
            await payer.http.get("/paid/page/exact-poor")
        assert not payer.payments
    assert market.handled("page exact-poor") == 0
