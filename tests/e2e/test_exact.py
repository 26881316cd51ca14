"""exact end to end: one ERC-3009 transfer a request, sent once."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from market import PRICE, Market

from tallystick import eip712
from tallystick.eip712 import Domain
from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PAYMENT_SIGNATURE_HEADER,
    ExactAuthorization,
    PaymentPayload,
    PaymentRequired,
    SettleResponse,
    decode_header,
    encode_header,
    exact_payload,
)
from tallystick_client.payer.errors import BalanceTooLowError
from waiting import until


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
        async with httpx2.AsyncClient(base_url=market.url, headers={PAYMENT_SIGNATURE_HEADER: header}) as http:
            again = await asyncio.gather(*(http.get("/paid/page/exact-once") for _ in range(10)))
        assert {answer.status_code for answer in again} <= {200, 409}
        assert market.anvil.token_balance(market.token, payer.signer.address) == before
    assert market.handled("page exact-once") == 1


async def test_an_empty_purse_pays_nothing(market: Market, shopper: Any) -> None:
    async with shopper(signer=market.payer(money=PRICE - 1), deposit=None) as payer:
        with pytest.raises(BalanceTooLowError, match="nothing was signed"):
            await payer.http.get("/paid/page/exact-poor")
        assert not payer.payments
    assert market.handled("page exact-poor") == 0


def payment_of(market: Market, required: PaymentRequired, identifier: str) -> dict[str, str]:
    """The header of an exact payment by somebody new, as another client than ours might make it."""
    signer, offer = market.payer(), next(offer for offer in required.accepts if offer.scheme == "exact")
    nonce, valid_before, value = secrets.token_bytes(32), int(time.time()) + 600, int(offer.amount)
    struct = eip712.hash_transfer_with_authorization(signer.address, market.receiver, value, 0, valid_before, nonce)
    domain = Domain(offer.extra["name"], offer.extra["version"], 31337, market.token)
    signature = signer.sign(eip712.digest(domain, struct))
    authorization = ExactAuthorization(signer.address, market.receiver, value, 0, valid_before, nonce, signature)
    named = {"payment-identifier": {"info": {"required": False, "id": identifier}}} if identifier else None
    payload = PaymentPayload(payload=exact_payload(authorization), accepted=offer, extensions=named)
    return {PAYMENT_SIGNATURE_HEADER: encode_header(payload)}


async def ask_until_decided(url: str, payment: dict[str, str], mine: Callable[[], object]) -> list[httpx2.Response]:
    """The answers to a client that waits for a second at a time and opens a new connection each time."""
    answers: list[httpx2.Response] = []
    attempts = itertools.count()

    async def decided() -> bool:
        if next(attempts) == 4:
            mine()
        try:
            async with httpx2.AsyncClient(timeout=1) as http:
                answers.append(await http.get(url, headers=payment))
        except httpx2.ReadTimeout:
            return False
        return "retry-after" not in answers[-1].headers

    await until(decided, 60)
    return answers


@pytest.mark.parametrize("identifier", ["a-payment-id-of-mine", ""])
async def test_x4_a_block_that_takes_longer_than_the_client_waits_ends_in_the_page_or_in_an_honest_refusal(
    market: Market, identifier: str
) -> None:
    path = f"/paid/page/exact-slow-{bool(identifier)}"
    shop = market.start_shop(f"workers-{identifier}", "--workers", "2")
    try:
        url = shop.wait_for("running on ") + path
        shop.wait_for("startup complete", times=2)
        async with httpx2.AsyncClient() as http:
            asked = await http.get(url)
        required = decode_header(asked.headers[PAYMENT_REQUIRED_HEADER], PaymentRequired, "402")
        payment, before = payment_of(market, required, identifier), market.received()
        market.anvil.automine(on=False)
        try:
            answers = await ask_until_decided(url, payment, market.anvil.mine)
        finally:
            market.anvil.automine(on=True)
        *waiting, last = answers
        assert {answer.json()["error"] for answer in waiting} <= {"payment_pending"}
        if identifier:
            assert (last.status_code, last.json()) == (200, path.removeprefix("/paid/").replace("/", " "))
        else:
            assert (last.status_code, last.json()["error"]) == (409, "payment_used")
            assert "nobody can prove to be the payer" in shop.log.read_text()
        assert market.received() - before == PRICE
    finally:
        shop.stop()
