"""What a payer's payment tells: the page to its seller, to nobody else."""

from typing import Any

import httpx2
import pytest
from payer_fakes import PRICE, FakeAggregator, FakeSeller, no_sleep

from tallystick.requests import blinded_hash, request_hash
from tallystick.x402 import (
    PAYMENT_SIGNATURE_HEADER,
    DeferredPayment,
    PaymentPayload,
    decode_header,
    read_deferred,
)
from tallystick_client import PayingTransport, Wallet


def payments_of(seller: FakeSeller) -> list[DeferredPayment]:
    headers = [request.headers[PAYMENT_SIGNATURE_HEADER] for request in seller.paid_requests]
    return [read_deferred(decode_header(header, PaymentPayload, "h")) for header in headers]


def client(wallet: Wallet, seller: FakeSeller) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=PayingTransport(wallet, seller, sleep=no_sleep))


async def test_where_a_seller_takes_them_payments_are_blinded_each_by_bytes_of_its_own(
    wallet: Wallet, seller: FakeSeller, aggregator: FakeAggregator
) -> None:
    async with client(wallet, seller) as http:
        for _ in range(2):
            assert (await http.get("https://a.example/1")).status_code == 200
    first, second = payments_of(seller)
    plain = request_hash("GET", b"/1")
    for payment in (first, second):
        assert len(payment.blind) == 16
        assert payment.request_hash == blinded_hash(plain, payment.blind)
    assert first.blind != second.blind
    (account,) = aggregator.accounts.values()
    known = [request for channel in account.channels.values() for _, request in channel.payments.values()]
    assert sorted(known) == sorted([first.request_hash, second.request_hash])
    assert plain not in known


async def test_a_seller_that_does_not_say_so_gets_the_plain_hash(wallet: Wallet, seller: FakeSeller) -> None:
    seller.is_blinding = False
    async with client(wallet, seller) as http:
        assert (await http.get("https://a.example/1")).status_code == 200
    (payment,) = payments_of(seller)
    assert (payment.blind, payment.request_hash) == (b"", request_hash("GET", b"/1"))


@pytest.mark.parametrize("is_blinding", [True, False])
async def test_a_payment_that_follows_a_refused_one_is_bound_to_the_same_hash(
    wallet: Wallet, seller: FakeSeller, is_blinding: bool
) -> None:
    """Under the same payment id, so that both together are charged once, even if the refusal was a lie."""
    seller.is_blinding = is_blinding

    def dearer(request: httpx2.Request) -> httpx2.Response:
        seller.price = 2 * PRICE
        return seller.ask(request, "amount_mismatch: dearer now")

    seller.before.append(dearer)
    async with client(wallet, seller) as http:
        assert (await http.get("https://a.example/1")).status_code == 200
    first, second = payments_of(seller)
    assert first.payment_id == second.payment_id
    assert (first.request_hash, first.blind) == (second.request_hash, second.blind)


async def test_no_text_of_a_payment_shows_its_blind(wallet: Wallet, seller: FakeSeller) -> None:
    async with client(wallet, seller) as http:
        await http.get("https://a.example/1")
    (payment,) = payments_of(seller)
    texts: list[Any] = [repr(payment), str(payment)]
    assert all(payment.blind.hex() not in text and repr(payment.blind) not in text for text in texts)
