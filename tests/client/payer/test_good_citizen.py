"""What the transport owes to sellers that are not ours, and to who uses it."""

import gzip
import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from payer_fakes import PRICE, FakeSeller, no_sleep

from tallystick.x402 import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    PAYMENT_SIGNATURE_HEADER,
    PaymentRequired,
    SettleResponse,
    decode_header,
    encode_header,
    encode_json,
)
from tallystick.x402.identifier import read_payment_id
from tallystick.x402.messages import PaymentPayload
from tallystick_client import PayingTransport, Wallet
from tallystick_client.payer.errors import InsecureOriginError, OfferNotAllowedError
from tallystick_client.payer.http.steps import payable_request
from tallystick_client.payer.policy.offers import OFFERS_MAX, Echo
from tallystick_client.payer.wallet.schemes.port import ECHO_BYTES_MAX, payment_header

URL = "https://a.example/1"
FOREIGN: dict[str, Any] = {
    "extra null": {"extra": None},
    "no timeout": {"maxTimeoutSeconds": ...},
    "version 1's names": {"maxAmountRequired": "1000", "amount": ..., "resource": "https://a.example/1"},
    "another chain": {"network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "asset": "EPjFWdd5"},
    "a number as amount": {"amount": 1000},
    "a name of a chain": {"network": "base"},
}


def client(wallet: Wallet, inner: httpx2.AsyncBaseTransport, **settings: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=PayingTransport(wallet, inner, sleep=no_sleep, **settings))


def answering(seller: FakeSeller, change: Any) -> FakeSeller:
    """The seller with its 402 changed: `change` is made to the JSON."""
    ask = seller.ask

    def changed(request: httpx2.Request, error: str = "payment required") -> httpx2.Response:
        required = decode_header(ask(request, error).headers[PAYMENT_REQUIRED_HEADER], PaymentRequired, "h")
        told = json.loads(encode_json(required))
        change(told)
        header = b64encode(json.dumps(told).encode()).decode()
        return httpx2.Response(402, headers={PAYMENT_REQUIRED_HEADER: header})

    seller.ask = changed  # type: ignore[method-assign]
    return seller


def without(entry: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    changed = {**entry, **change}
    return {name: value for name, value in changed.items() if value is not ...}


def payments_of(seller: FakeSeller) -> list[dict[str, Any]]:
    headers = [request.headers[PAYMENT_SIGNATURE_HEADER] for request in seller.paid_requests]
    return [json.loads(encode_json(decode_header(header, PaymentPayload, "h"))) for header in headers]


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("at", [0, -1], ids=["first", "last"])
async def test_w8_an_offer_that_cannot_be_read_is_skipped(
    wallet: Wallet, seller: FakeSeller, name: str, at: int
) -> None:
    def mix(told: dict[str, Any]) -> None:
        strange = without(told["accepts"][0], FOREIGN[name])
        told["accepts"] = [strange, *told["accepts"]] if at == 0 else [*told["accepts"], strange]

    async with client(wallet, answering(seller, mix)) as http:
        assert (await http.get(URL)).status_code == 200


async def test_w8_where_no_offer_remains_each_problem_is_told(wallet: Wallet, seller: FakeSeller) -> None:
    def only_strange(told: dict[str, Any]) -> None:
        one = told["accepts"][0]
        told["accepts"] = [7, *(without(one, change) for change in FOREIGN.values())]

    async with client(wallet, answering(seller, only_strange)) as http:
        with pytest.raises(OfferNotAllowedError) as refused:
            await http.get(URL)
    problems = refused.value.problems
    assert len(problems) == 1 + len(FOREIGN)
    assert all(problem.startswith(f"accepts[{at}]") for at, problem in enumerate(problems))
    assert "maxTimeoutSeconds" in problems[2]


@pytest.mark.parametrize(
    "field", [{"error": 7}, {"resource": "https://a.example/1"}, {"extensions": ["x"]}, {"outputSchema": {}}]
)
async def test_w8_what_else_cannot_be_read_of_a_402_is_left_out(
    wallet: Wallet, seller: FakeSeller, field: dict[str, Any]
) -> None:
    async with client(wallet, answering(seller, lambda told: told.update(field))) as http:
        assert (await http.get(URL)).status_code == 200


async def test_w8_no_more_offers_are_read_than_are_looked_at(wallet: Wallet, seller: FakeSeller) -> None:
    def many(told: dict[str, Any]) -> None:
        told["accepts"] = [{}] * OFFERS_MAX + told["accepts"]

    async with client(wallet, answering(seller, many)) as http:
        with pytest.raises(OfferNotAllowedError):
            await http.get(URL)


@pytest.mark.parametrize("scheme", ["deferred", "exact"])
async def test_w9_resource_and_extensions_are_repeated_and_the_id_is_added(
    open_wallet: Any, seller: FakeSeller, scheme: str
) -> None:
    wallet: Wallet = await open_wallet(**({"deposit": None} if scheme == "exact" else {}))
    resource = {"url": URL, "description": "An article", "tags": ["news"]}
    extensions = {
        "payment-identifier": {"info": {"required": False, "hint": 1}, "schema": {"type": "object"}},
        "bazaar": {"info": {"x": [1, {"y": None}]}},
    }

    def add(told: dict[str, Any]) -> None:
        told.update(resource=resource, extensions=extensions)

    async with client(wallet, answering(seller, add)) as http:
        assert (await http.get(URL)).status_code == 200
    sent = seller.paid_requests[0].headers[PAYMENT_SIGNATURE_HEADER]
    told = decode_header(sent, dict[str, Any], "h")
    message = decode_header(sent, PaymentPayload, "h")
    id_ = read_payment_id(message)
    assert id_ is not None
    assert (told["x402Version"], told["accepted"]["scheme"]) == (2, scheme)
    assert told["resource"] == resource
    named = told["extensions"].pop("payment-identifier")
    assert told["extensions"] == {"bazaar": extensions["bazaar"]}
    assert named["info"].pop("id")
    assert named == extensions["payment-identifier"]


async def test_w9_a_payment_that_is_sent_ahead_repeats_nothing_of_another_page(
    wallet: Wallet, seller: FakeSeller
) -> None:
    async with client(wallet, seller) as http:
        for page in range(2):
            assert (await http.get(f"https://a.example/{page}")).status_code == 200
    asked, ahead = payments_of(seller)
    assert len(seller.requests) == 3
    assert "pay-ahead" in asked["extensions"]
    assert "resource" not in ahead
    assert list(ahead["extensions"]) == ["payment-identifier"]


async def test_w9_a_402_that_is_too_long_to_repeat_is_paid_without(wallet: Wallet, seller: FakeSeller) -> None:
    offer = wallet.choose(PaymentRequired(accepts=[seller.offer("deferred", "a.example", PRICE)]))
    long = replace(offer, echo=Echo({"url": URL}, {"x": "y" * ECHO_BYTES_MAX}))
    assert payment_header(long, {}, bytes(16)) == payment_header(offer, {}, bytes(16))


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_w10_head_and_options_are_never_paid_for(wallet: Wallet, seller: FakeSeller, method: str) -> None:
    async with client(wallet, seller) as http:
        response = await http.request(method, URL)
        assert response.status_code == 402
        assert (await http.get(URL)).status_code == 200
        assert (await http.request(method, URL)).status_code == 402
    assert len(seller.paid_requests) == 1


async def test_w10_nothing_is_paid_over_plain_http(wallet: Wallet, seller: FakeSeller) -> None:
    async with client(wallet, seller) as http:
        assert (await http.get(URL)).status_code == 200
        with pytest.raises(InsecureOriginError, match=r"http://a\.example asks for payment: got http, allowed https"):
            await http.get(URL.replace("https", "http"))
    assert len(seller.paid_requests) == 1
    async with client(wallet, seller, require_https=False) as http:
        assert (await http.get(URL.replace("https", "http"))).status_code == 200


async def test_w10_a_redirect_to_plain_http_is_not_paid_for(wallet: Wallet, seller: FakeSeller) -> None:
    seller.others["/moved"] = lambda _: httpx2.Response(302, headers={"location": "http://a.example/1"})
    async with client(wallet, seller) as http:
        with pytest.raises(InsecureOriginError):
            await http.get("https://a.example/moved", follow_redirects=True)
    assert not seller.paid_requests


@pytest.mark.parametrize(
    ("scheme", "host", "private"),
    [
        ("https", "shop.example", True),
        ("http", "shop.example", False),
        ("http", "shop.example:443", False),
        ("http", "localhost:8000", True),
        ("http", "127.0.0.1:8000", True),
        ("http", "127.9.9.9", True),
        ("http", "[::1]:8000", True),
        ("http", "[::2]", False),
        ("http", "10.0.0.1", False),
        ("http", "127.0.0.1.example", False),
        ("http", "localhost.example", False),
        ("http", "127.0.0.1@shop.example", False),
    ],
)
def test_w10_plain_http_is_private_on_this_machine_alone(scheme: str, host: str, private: bool) -> None:
    assert payable_request("GET", scheme, host, b"/", {}, b"").is_private is private


class Clock:
    """A clock that each request and each pause moves on."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize("deposit", [True, False], ids=["deferred", "exact"])
async def test_w10_all_that_is_sent_for_a_request_has_one_deadline(
    open_wallet: Any, seller: FakeSeller, deposit: bool
) -> None:
    wallet: Wallet = await open_wallet(**({} if deposit else {"deposit": None}))
    clock = Clock()

    def lost(_: httpx2.Request) -> httpx2.Response:
        clock.now_s += 1
        raise httpx2.ReadTimeout("no answer")

    seller.before = [lost] * 10
    transport = PayingTransport(wallet, seller, sleep=clock.sleep, monotonic=clock, deadline_s=2)
    async with httpx2.AsyncClient(transport=transport, timeout=1) as http:
        with pytest.raises(httpx2.ReadTimeout):
            await http.get(URL)
    assert clock.now_s - 1_000 <= 3
    assert len(seller.paid_requests) == 2, "a second one after 0.2 s, none after the next second"
    assert all(request.extensions["timeout"]["read"] <= 2 for request in seller.paid_requests)


async def test_w10_a_payment_under_way_is_not_asked_for_after_the_requests_own_deadline(
    open_wallet: Any, seller: FakeSeller
) -> None:
    wallet: Wallet = await open_wallet(deposit=None)
    clock = Clock()
    pending = httpx2.Response(409, headers={"retry-after": "2"}, json={})
    seller.before = [lambda _: pending] * 50
    transport = PayingTransport(wallet, seller, sleep=clock.sleep, monotonic=clock)
    async with httpx2.AsyncClient(transport=transport) as http:
        assert (await http.get(URL, extensions={"payment_deadline_s": 5})).status_code == 409
    assert clock.now_s - 1_000 <= 5


@pytest.mark.parametrize(
    ("reason", "is_open"),
    [
        ("the connection broke", True),
        ("unexpected_settle_error", True),
        ("payment_pending", True),
        ("settlement_pending", True),
        ("reservation_released", False),
        ("payment_id_reused", False),
    ],
)
async def test_an_official_seller_that_does_not_know_what_it_took_gets_the_same_payment_again(
    wallet: Wallet, seller: FakeSeller, reason: str, is_open: bool
) -> None:
    failed = encode_header(SettleResponse(success=False, error_reason=reason, transaction="", network="eip155:31337"))
    seller.after = [lambda _: httpx2.Response(402, headers={PAYMENT_RESPONSE_HEADER: failed}, json={})]
    async with client(wallet, seller) as http:
        assert (await http.get(URL)).status_code == 402
        (account,) = (await wallet.status()).accounts
        assert account.unknown == (PRICE if is_open else 0)
        await http.get(URL)
    sent = [payment["extensions"]["payment-identifier"]["info"]["id"] for payment in payments_of(seller)]
    assert (sent[1] == sent[0]) is is_open


async def test_p7_headers_of_up_to_64_kib_are_read(wallet: Wallet, seller: FakeSeller) -> None:
    def grow(told: dict[str, Any]) -> None:
        told["resource"] = {"url": URL + "?q=" + "x" * 40_000}

    async with client(wallet, answering(seller, grow)) as http:
        assert (await http.get(URL)).status_code == 200


@pytest.mark.parametrize("style", ["urlsafe", "unpadded"])
async def test_p10_a_402_in_base64url_or_without_padding_is_paid(
    wallet: Wallet, seller: FakeSeller, style: str
) -> None:
    ask = seller.ask

    def changed(request: httpx2.Request, error: str = "?>~ \u00ff\u00fe") -> httpx2.Response:
        header = ask(request, error).headers[PAYMENT_REQUIRED_HEADER]
        header = header.replace("+", "-").replace("/", "_") if style == "urlsafe" else header.rstrip("=")
        return httpx2.Response(402, headers={PAYMENT_REQUIRED_HEADER: header})

    seller.ask = changed  # type: ignore[method-assign]
    async with client(wallet, seller) as http:
        assert (await http.get(URL)).status_code == 200


V1 = {
    "x402Version": 1,
    "error": "X-PAYMENT header is required",
    "accepts": [{"scheme": "exact", "network": "base", "maxAmountRequired": "1000"}],
}


async def test_p23_a_seller_of_version_1_is_told_from_others_by_its_body(wallet: Wallet) -> None:
    answer = httpx2.MockTransport(lambda _: httpx2.Response(402, json=V1))
    async with client(wallet, answer) as http:
        with pytest.raises(OfferNotAllowedError, match=r"x402Version: got 1, allowed 2"):
            await http.get(URL)


async def test_p23_a_seller_of_version_1_is_told_from_others_by_its_header(wallet: Wallet, seller: FakeSeller) -> None:
    async with client(wallet, answering(seller, lambda told: told.update(x402Version=1))) as http:
        with pytest.raises(OfferNotAllowedError, match=r"PAYMENT-REQUIRED \$\.x402Version: got 1, allowed 2"):
            await http.get(URL)


@pytest.mark.parametrize(
    "answer",
    [
        {"json": {"error": "no money"}},
        {"json": [1]},
        {"content": b"{", "headers": {"content-type": "application/json"}},
        {"text": json.dumps(V1)},
        {"content": b" " * 70_000, "headers": {"content-type": "application/json"}},
    ],
)
async def test_p23_another_402_without_terms_is_the_callers_to_read(wallet: Wallet, answer: dict[str, Any]) -> None:
    async with client(wallet, httpx2.MockTransport(lambda _: httpx2.Response(402, **answer))) as http:
        response = await http.get(URL)
        assert response.status_code == 402
        assert response.content == httpx2.Response(402, **answer).content


async def test_p23_a_compressed_402_is_not_unpacked_by_the_transport(wallet: Wallet) -> None:
    bomb = gzip.compress(b" " * 50_000_000)

    async def answer(_: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "application/json", "content-encoding": "gzip", "content-length": str(len(bomb))}
        return httpx2.Response(402, headers=headers, stream=httpx2.ByteStream(bomb))

    async with client(wallet, httpx2.MockTransport(answer)) as http, http.stream("GET", URL) as response:
        assert response.status_code == 402
        assert not response.is_stream_consumed


def test_a_receipt_in_base64url_is_read_too() -> None:
    sent = SettleResponse(success=True, transaction="?>~", network="eip155:1")
    assert decode_header(encode_header(sent).replace("+", "-").rstrip("="), SettleResponse, "h") == sent
