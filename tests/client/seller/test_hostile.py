"""Whatever comes in PAYMENT-SIGNATURE, the answer is 402 with the field's name: never a 500, never a page."""

import asyncio
import base64
import copy
import json
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seller_shop import Unmoved, supported_by

from tallystick import x402
from tallystick_client import Paywall, Rule

PAGE = "/articles/1"


@pytest.fixture
def ask(fake: Any) -> Any:
    """Sends headers to a shop and returns its answer; the handler must never run."""
    supported = supported_by(fake)

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError("a page was given away")

    paywall = Paywall(
        app, aggregator=Unmoved(supported), pay_to="0x" + "5e" * 20, rules=[Rule(path="*", price="0.001 USDC")]
    )

    async def send(headers: list[tuple[str, bytes]], **request: Any) -> httpx2.Response:
        transport = httpx2.ASGITransport(paywall)
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop.test") as http:
            return await http.get(request.pop("target", PAGE), headers=headers, **request)

    return lambda *headers, **request: asyncio.run(send(list(headers), **request))


def refused(response: httpx2.Response) -> str:
    """The error of a proper 402, or of the 400 to what is no payment."""
    if response.status_code == 400:
        return "{error}: {message}".format_map(response.json())
    assert response.status_code == 402
    required = x402.decode_header(response.headers["payment-required"], x402.PaymentRequired, "PAYMENT-REQUIRED")
    assert [offer.scheme for offer in required.accepts] == ["deferred", "exact"]
    assert required.error
    assert not required.error.startswith("payload_invalid"), "that is 400"
    return required.error


@pytest.fixture
def good(buyer: Any, ask: Any) -> dict[str, Any]:
    """Well-formed payments as JSON, by scheme."""
    response = ask()
    payments = {
        "deferred": buyer.deferred(buyer.terms(response, "deferred"), PAGE),
        "exact": buyer.exact(buyer.terms(response, "exact")),
    }
    return {scheme: json.loads(base64.b64decode(p["PAYMENT-SIGNATURE"])) for scheme, p in payments.items()}


def header(payment: Any) -> tuple[str, bytes]:
    return ("PAYMENT-SIGNATURE", base64.b64encode(json.dumps(payment).encode()))


def put(payment: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a path; the value `...` takes it away."""
    changed = copy.deepcopy(payment)
    *parents, last = path.split(".")
    at = changed
    for name in parents:
        at = at[name]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return changed


@pytest.mark.parametrize("scheme", ["deferred", "exact"])
def test_a_well_formed_payment_is_refused_by_the_aggregator_only(ask: Any, good: Any, scheme: str) -> None:
    assert refused(ask(header(good[scheme]))) == "spend_key_proof: No."


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"", "base64"),
        (b"not base64!", "base64"),
        (b"e30====", "base64"),
        (b"e30=\xff", "base64"),
        (base64.b64encode(b"{"), "UTF-8 JSON"),
        (base64.b64encode(b"\xff\xfe"), "UTF-8 JSON"),
        (base64.b64encode(b"[]"), "allowed object"),
        (base64.b64encode(b"{}"), "$.payload"),
        (base64.b64encode(b"[" * 5_000), "PAYMENT-SIGNATURE"),
        (base64.b64encode(b" " * 20_000), "allowed at most 16384"),
    ],
)
def test_what_is_no_payment_is_told_so(ask: Any, value: bytes, error: str) -> None:
    text = refused(ask(("PAYMENT-SIGNATURE", value)))
    assert text.startswith("payload_invalid: PAYMENT-SIGNATURE")
    assert error in text


def test_two_payments_are_told_so(ask: Any, good: Any) -> None:
    text = refused(ask(header(good["exact"]), header(good["exact"])))
    assert text == "payload_invalid: PAYMENT-SIGNATURE: got 2 of them, allowed one"


@pytest.mark.parametrize(
    ("scheme", "path", "value", "error"),
    [
        ("exact", "x402Version", 1, "$.x402Version"),
        ("exact", "accepted", ..., "$.accepted"),
        ("exact", "accepted.scheme", "permit", "scheme_unsupported: "),
        ("exact", "accepted.scheme", "x" * 500, "scheme_unsupported: "),
        ("exact", "accepted.network", "eip155:1", "network_unsupported: "),
        ("exact", "accepted.network", "solana:x", "accepted.network"),
        ("exact", "accepted.asset", "0x" + "11" * 20, "token_mismatch: "),
        ("exact", "accepted.asset", "0x11", "accepted.asset"),
        ("exact", "accepted.payTo", "0x" + "11" * 20, "receiver_mismatch: "),
        ("exact", "accepted.amount", "999", "amount_mismatch: "),
        ("exact", "accepted.amount", "01000", "accepted.amount"),
        ("exact", "accepted.amount", "-1000", "accepted.amount"),
        ("exact", "accepted.amount", "1000.0", "accepted.amount"),
        ("exact", "accepted.amount", "\u0661\u0660\u0660\u0660", "accepted.amount"),
        ("exact", "accepted.amount", 1000, "$.accepted.amount"),
        ("exact", "accepted.amount", str(2**128), "accepted.amount"),
        ("exact", "payload.signature", "0xzz", "payload.signature"),
        ("exact", "payload.signature", "0x" + "00" * 4_097, "payload.signature"),
        ("exact", "payload.authorization.value", "1e3", "payload.authorization.value"),
        ("exact", "payload.authorization.nonce", "0x00", "payload.authorization.nonce"),
        ("exact", "payload.authorization.validBefore", str(2**64), "payload.authorization.validBefore"),
        ("exact", "payload.authorization", [], "payload"),
        ("deferred", "payload.type", "deposit", "payload"),
        ("deferred", "payload.channelConfig.payerAuthorizer", "0x" + "00" * 20, "payerAuthorizer"),
        ("deferred", "payload.channelConfig.withdrawDelay", 1, "withdrawDelay"),
        ("deferred", "payload.channelConfig.withdrawDelay", -1, "withdrawDelay"),
        ("deferred", "payload.channelConfig.withdrawDelay", 1.5, "withdrawDelay"),
        ("deferred", "payload.channelConfig.salt", "0x", "payload.channelConfig.salt"),
        ("deferred", "payload.voucher.maxClaimableAmount", "007", "payload.voucher.maxClaimableAmount"),
        ("deferred", "payload.voucher.signature", "0x" + "11" * 64, "payload.voucher.signature"),
        ("deferred", "payload.voucher.channelId", "0x" + "11" * 31, "payload.voucher.channelId"),
        ("deferred", "payload.spendProof.mac", "", "payload.spendProof.mac"),
        ("deferred", "payload.spendProof.maxAmount", "+5", "payload.spendProof.maxAmount"),
        ("deferred", "extensions", ..., "extensions.payment-identifier.info.id"),
        ("deferred", "extensions.payment-identifier.info.id", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "UUIDv7"),
        ("deferred", "extensions.payment-identifier.info.id", 7, "extensions.payment-identifier.info.id"),
    ],
)
def test_the_error_names_the_field(ask: Any, good: Any, scheme: str, path: str, value: Any, error: str) -> None:
    text = refused(ask(header(put(good[scheme], path, value))))
    assert error in text
    assert len(text) < 500
    assert text.isascii()


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(value=st.binary(max_size=200))
def test_arbitrary_headers_are_answered_402(ask: Any, value: bytes) -> None:
    refused(ask(("PAYMENT-SIGNATURE", bytes(b for b in value if b not in b"\r\n\0"))))


@QUICK
@given(payment=JSON)
def test_arbitrary_json_is_answered_402(ask: Any, payment: Any) -> None:
    refused(ask(header(payment)))


@QUICK
@given(data=st.data(), scheme=st.sampled_from(["deferred", "exact"]))
def test_payments_with_one_wrong_value_are_answered_402(ask: Any, good: Any, data: Any, scheme: str) -> None:
    paths: list[str] = []

    def walk(at: Any, path: str) -> None:
        for name in at:
            paths.append(f"{path}{name}")
            if isinstance(at[name], dict):
                walk(at[name], f"{path}{name}.")

    walk(good[scheme], "")
    path = data.draw(st.sampled_from(paths))
    refused(ask(header(put(good[scheme], path, data.draw(JSON | st.just(...))))))


@pytest.mark.parametrize("length", ["-1", "abc", "1" * 30, "1.0", "\u0661"])
def test_a_content_length_that_is_none_is_400(exchange: Any, open_shop: Any, length: str) -> None:
    shop = open_shop()
    one = exchange(shop.paywall, PAGE, {}, method="POST")
    one.scope["headers"].append((b"content-length", length.encode()))
    asyncio.run(one.run())
    assert (one.status, shop.served) == (400, [])
    assert b"Content-Length: got " in one.body


async def test_a_path_that_means_two_things_is_400(open_shop: Any, exchange: Any) -> None:
    shop = open_shop()
    one = exchange(shop.paywall, "/free/../articles/1", {})
    await one.run()
    assert (one.status, shop.served) == (400, [])
    assert b"dot segments" in one.body


async def test_a_host_header_that_is_hostile_stays_inside_the_402(open_shop: Any, exchange: Any) -> None:
    shop = open_shop()
    one = exchange(shop.paywall, PAGE, {"host": 'evil"\\x.test\xff'})
    await one.run()
    assert one.status == 402


async def test_no_page_is_free_because_its_payment_header_is_spelled_otherwise(open_shop: Any) -> None:
    shop = open_shop()
    for name in ("X-PAYMENT", "payment_signature", "Payment-Response"):
        assert (await shop.http.get(PAGE, headers={name: "e30="})).status_code == 402
