"""The plug-ins for the official SDK, without an aggregator: prices, terms, bindings, kept answers, tokens."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import flask
import httpx
import pytest
from fastapi import Request
from x402 import schemas
from x402.http.middleware.fastapi import FastAPIAdapter
from x402.http.middleware.flask import FlaskAdapter
from x402.http.types import HTTPAdapter, HTTPRequestContext, HTTPTransportContext
from x402.schemas import AssetAmount, hooks

from tallystick.errors import MalformedError, RefusedError
from tallystick.hexadecimal import checksum, to_hex
from tallystick.requests import blinded_hash, body_digest, normal_target, request_hash
from tallystick.tokens import Token
from tallystick.x402 import DeferredTerms, Network, PaymentTerms
from tallystick_client import InsecureOriginError
from tallystick_client.x402 import BearerAuth, DeferredServerScheme, KeptAnswers, KeptAnswersMiddleware
from tallystick_client.x402.binding import bind, http_hash, is_bound_to_body, read_body, request_at, resource_hash
from tallystick_client.x402.kept import key_of
from tallystick_client.x402.payments import WalletPayments

NETWORK = "eip155:31337"
TOKEN, OTHER = bytes([7]) * 20, bytes([8]) * 20
TERMS = PaymentTerms("deferred", Network.parse(NETWORK, "network"), 1_000, TOKEN, bytes([9]) * 20)
ASSETS = [
    {"asset": checksum(TOKEN), "symbol": "USDC", "decimals": 6, "name": "USD Coin", "version": "2", "minDeposit": "5"},
    {"asset": checksum(OTHER), "symbol": "EURC", "decimals": 2, "name": "Euro Coin", "version": "1"},
]


def kind(assets: Any = None, **changes: Any) -> schemas.SupportedKind:
    """What a facilitator says of `deferred`."""
    extra = DeferredTerms(bytes([1]) * 20, bytes([2]) * 20, 86_400, "Escrow", "1", blinding=True).extra()
    told = extra | ({"assets": assets} if assets is not None else {}) | changes
    return schemas.SupportedKind(x402_version=2, scheme="deferred", network=NETWORK, extra=told)


def scheme(assets: Any = None, **settings: Any) -> DeferredServerScheme:
    """A server scheme that knows the facilitator's terms."""
    made = DeferredServerScheme(**settings)
    assert made.validate_facilitator_support(NETWORK, kind(assets), []) is None
    return made


@pytest.mark.parametrize(
    ("price", "amount", "asset"),
    [
        ("0.001 USDC", "1000", TOKEN),
        ("0.01 EURC", "1", OTHER),
        ("$2.5 USDC", "2500000", TOKEN),
        (AssetAmount(amount="77", asset=checksum(bytes([3]) * 20)), "77", bytes([3]) * 20),
        ({"amount": "78", "asset": checksum(TOKEN)}, "78", TOKEN),
    ],
)
def test_a_price_is_read_in_the_facilitators_tokens(price: Any, amount: str, asset: bytes) -> None:
    read = scheme(ASSETS).parse_price(price, NETWORK)
    assert (read.amount, read.asset) == (amount, checksum(asset))


def test_money_without_a_symbol_is_the_only_token_that_there_is() -> None:
    assert scheme(ASSETS[:1]).parse_price("$0.001", NETWORK).amount == "1000"
    token = Token(TOKEN, "USDC", 6, "USD Coin", "2")
    assert scheme(tokens=[token]).parse_price(0.5, NETWORK).amount == "500000"


@pytest.mark.parametrize(
    ("assets", "price", "allowed"),
    [
        (ASSETS, "$0.001", '"0.001 USDC" or "0.001 EURC"'),
        (ASSETS, "0.001 DAI", '"0.001 USDC" or "0.001 EURC"'),
        ([], "$0.001", "an AssetAmount"),
        (ASSETS, "0.001 EURC", "at most 2 digits"),
        (ASSETS, AssetAmount(amount="1", asset="0x12"), "40 hex digits"),
    ],
)
def test_a_price_that_is_not_clear_is_refused(assets: Any, price: Any, allowed: str) -> None:
    with pytest.raises(MalformedError, match=allowed):
        scheme(assets).parse_price(price, NETWORK)


def test_an_offer_carries_the_facilitators_terms_and_its_own() -> None:
    requirements = schemas.PaymentRequirements(
        scheme="deferred",
        network=NETWORK,
        asset=checksum(TOKEN),
        amount="1",
        pay_to=checksum(bytes([9]) * 20),
        max_timeout_seconds=60,
        extra={"mine": 1},
    )
    extra = scheme(ASSETS).enhance_payment_requirements(requirements, kind(ASSETS), []).extra
    assert extra == {**(kind().extra or {}), "minDeposit": "5", "mine": 1}


@pytest.mark.parametrize("changes", [{"escrow": "0x12"}, {"name": ""}, {"assets": [{"asset": checksum(TOKEN)}]}])
def test_a_facilitator_whose_terms_cannot_be_used_is_told_at_the_start(changes: dict[str, Any]) -> None:
    problem = DeferredServerScheme().validate_facilitator_support(NETWORK, kind(**changes), [])
    assert problem is not None
    assert "allowed" in problem


class Adapter:
    """A framework's request, as the SDK's adapters show it."""

    def __init__(self, url: str, **headers: str) -> None:
        self._url = url
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def get_header(self, name: str) -> str | None:
        return self._headers.get(name)

    def get_url(self) -> str:
        return self._url


def served(method: str, path: str, url: str, payment: str | None = None, **headers: str) -> HTTPTransportContext:
    adapter: Any = Adapter(url, **headers)
    return HTTPTransportContext(HTTPRequestContext(adapter, path, method, payment))


@pytest.mark.parametrize("target", ["/a", "/a?b=%7e&c=1", "/%61%2Fb?x", "/a//b?q=a+b", "/", "/ü?ö=ä"])
def test_buyer_and_seller_bind_a_payment_alike(target: str) -> None:
    request = httpx.Request("GET", f"http://shop.test{target}")
    path = request.url.raw_path.decode().partition("?")[0]
    context = served("GET", path, str(request.url))
    assert http_hash(context, b"") == request_hash("GET", normal_target(request.url.raw_path))
    assert http_hash(context, b"") == resource_hash(str(request.url))
    assert http_hash(context, b"x") == request_hash("GET", normal_target(request.url.raw_path), body_digest(b"x"))


def by_fastapi(target: str, host: str) -> HTTPAdapter:
    path, _, query = target.partition("?")
    scope = {"type": "http", "method": "GET", "scheme": "http", "path": unquote(path), "raw_path": path.encode()}
    scope |= {"query_string": query.encode(), "headers": [(b"host", host.encode())], "server": ("shop.test", 80)}
    return FastAPIAdapter(Request(scope))


def by_flask(target: str, host: str) -> HTTPAdapter:
    path, _, query = target.partition("?")
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": unquote(path), "QUERY_STRING": query, "RAW_URI": target}
    environ |= {"HTTP_HOST": host, "SERVER_NAME": "shop.test", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}
    return FlaskAdapter(flask.Request(environ))


@pytest.mark.parametrize("framework", [by_fastapi, by_flask])
@pytest.mark.parametrize("host", ["shop.test", "x?other=1", "x#", "x/y?"])
def test_a_query_is_bound_as_it_was_sent_whatever_the_framework_makes_of_it(
    framework: Callable[[str, str], HTTPAdapter], host: str
) -> None:
    for query in (*(f"q=%{byte:02X}" for byte in range(256)), "url=https%3A%2F%2Fexample.org%2F%3Fa%3D1", "a[]=1&b=?"):
        context = HTTPRequestContext(framework(f"/p?{query}", host), "/p", "GET")
        bound = http_hash(HTTPTransportContext(context), b"")
        assert bound == request_hash("GET", normal_target(f"/p?{query}".encode())), query


def test_a_body_is_bound_where_its_length_is_declared() -> None:
    assert is_bound_to_body(served("POST", "/", "/", content_length="3").request.adapter)
    assert is_bound_to_body(served("GET", "/", "/").request.adapter)
    assert not is_bound_to_body(served("POST", "/", "/", transfer_encoding="chunked").request.adapter)
    assert not is_bound_to_body(served("POST", "/", "/", content_length="99999999999").request.adapter)


def test_an_unknown_framework_needs_a_reader_of_its_own() -> None:
    with pytest.raises(TypeError, match="read_body"):
        read_body(served("GET", "/", "/").request.adapter)


def payment(**changes: Any) -> schemas.PaymentPayload:
    config = dict.fromkeys(("payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token"), checksum(TOKEN))
    voucher = {"channelId": to_hex(bytes(32)), "maxClaimableAmount": "1", "signature": to_hex(bytes(65))}
    payload = {
        "type": "voucher",
        "channelConfig": {**config, "withdrawDelay": 86_400, "salt": to_hex(bytes(32))},
        "voucher": voucher,
        **changes,
    }
    accepted = {"scheme": "deferred", "network": NETWORK, "amount": "1", "asset": checksum(TOKEN)}
    return schemas.PaymentPayload.model_validate(
        {
            "x402Version": 2,
            "payload": payload,
            "accepted": {**accepted, "payTo": checksum(TOKEN), "maxTimeoutSeconds": 60, "extra": {}},
            "resource": {"url": "http://shop.test/secret"},
            "extensions": {
                "payment-identifier": {"info": {"id": "0193a2b4-0000-7000-8000-000000000000"}},
                "pay-ahead": {"info": {"path": "/secret*"}},
            },
        }
    )


def test_what_tells_the_page_is_taken_out_before_the_facilitator_is_asked() -> None:
    request, blind = request_hash("GET", b"/secret"), bytes(range(16))
    bound = blinded_hash(request, blind)
    message = payment(requestHash=to_hex(bound), blind=to_hex(blind))
    bind(message, request)
    assert message.payload["requestHash"] == to_hex(bound)
    text = message.model_dump_json()
    assert "secret" not in text
    assert to_hex(blind) not in text
    assert "payment-identifier" in text


def test_a_payment_for_another_request_is_refused() -> None:
    with pytest.raises(RefusedError, match="request_mismatch"):
        bind(payment(requestHash=to_hex(bytes(32))), request_hash("GET", b"/secret"))
    context = hooks.VerifyContext(
        payment(requestHash=to_hex(bytes(32))), payment().accepted, transport_context={"toolName": "forecast"}
    )
    answer = DeferredServerScheme().before_verify(context)
    assert isinstance(answer, hooks.AbortResult)
    assert answer.reason.startswith("request_mismatch: ")


def test_a_tool_is_bound_by_the_sellers_word() -> None:
    request = resource_hash("mcp://tool/forecast")
    context = hooks.VerifyContext(payment(), payment().accepted, transport_context={"toolName": "forecast"})
    assert DeferredServerScheme().before_verify(context) is None
    assert context.payment_payload.payload["requestHash"] == to_hex(request)


def asked(header: str = "payment", **headers: str) -> dict[str, Any]:
    """ASGI's scope of a request with this payment."""
    names = {"payment-signature": header, **headers}
    return {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in names.items()]}


async def answered(kept: KeptAnswers, app: Any, scope: dict[str, Any]) -> list[Any]:
    """What an application behind kept answers says to a request."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    await KeptAnswersMiddleware(app, kept)(scope, receive, send)
    return sent


class App:
    """Counts its runs."""

    def __init__(self, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        self.runs = 0
        self._headers = list(headers)
        self._status = status

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.runs += 1
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        await send({"type": "http.response.body", "body": f"run {self.runs}".encode()})


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("http://shop.test?a=1", "http://shop.test", b"/?a=1"),
        ("http://rogue.test?@localhost", "http://rogue.test", b"/?@localhost"),
        ("http://localhost@rogue.test/page", "http://rogue.test", b"/page"),
        ("https://user:word@shop.test:8443/page", "https://shop.test:8443", b"/page"),
    ],
)
def test_a_buyer_knows_whom_a_url_speaks_to(url: str, origin: str, target: bytes) -> None:
    request = request_at("GET", url, {}, b"")
    assert (request.origin, request.target) == (origin, target)
    assert request.is_private is origin.startswith("https:")


def test_a_url_that_is_none_is_told() -> None:
    with pytest.raises(MalformedError, match="url"):
        request_at("GET", "http://[", {}, b"")


@pytest.mark.parametrize("url", ["http://shop.test/page", "/page", "", "//localhost@shop.test"])
async def test_w10_a_402_that_does_not_say_https_is_not_paid_by_a_client_without_hooks(url: str) -> None:
    wallet: Any = SimpleNamespace(schemes={"deferred": None})
    required = schemas.PaymentRequired(accepts=[payment().accepted], resource=schemas.ResourceInfo(url=url))
    with pytest.raises(InsecureOriginError):
        await WalletPayments(wallet, "deferred").pay("task", required, payment().accepted, None)


async def test_an_answer_is_sent_again_once_for_each_verification() -> None:
    kept, app, key = KeptAnswers(), App(), key_of("payment")
    new, second, third = asked(), asked(), asked()
    assert not kept.repeat(new, key)
    kept.begin(new, key, TERMS)
    first = await answered(kept, app, new)
    assert kept.repeat(second, key)
    assert kept.repeat(third, key)
    again = await asyncio.gather(answered(kept, app, second), answered(kept, app, third))
    assert [sent[1]["body"] for sent in (first, *again)] == [b"run 1"] * 3
    assert (await answered(kept, app, third))[1]["body"] == b"run 2", "nobody verified this one"
    kept.forget(key)
    assert not kept.repeat(asked(), key)


async def test_a_request_that_nobody_verified_takes_no_answer_from_one_that_was() -> None:
    kept, app, key = KeptAnswers(), App(), key_of("payment")
    new, again = asked(), asked()
    kept.begin(new, key, TERMS)
    assert (await answered(kept, App(), asked()))[1]["body"] == b"run 1", "a free page, with the same payment"
    assert (await answered(kept, app, new))[1]["body"] == b"run 1"
    assert kept.repeat(again, key)
    await answered(kept, App(), asked())
    assert (await answered(kept, app, again))[1]["body"] == b"run 1"
    assert app.runs == 1, "a payment that was used has a handler run for it once"


async def test_what_belongs_to_a_person_or_has_failed_is_not_kept() -> None:
    for app in (App((b"cache-control", b"no-store")), App(status=404)):
        kept, scope = KeptAnswers(), asked()
        kept.begin(scope, key_of("payment"), TERMS)
        await answered(kept, app, scope)
        assert not kept.repeat(asked(), key_of("payment"))
    kept, scope = KeptAnswers(), asked(cookie="session=1")
    kept.begin(scope, key_of("payment"), TERMS)
    await answered(kept, App(), scope)
    assert not kept.repeat(asked(), key_of("payment"))


async def test_answers_are_kept_for_a_while_and_up_to_a_size() -> None:
    now = [0.0]
    kept = KeptAnswers(bytes_max=80_000, age_s=10, clock=lambda: now[0])
    for name in ("old", "new"):
        scope = asked(name)
        kept.begin(scope, key_of(name), TERMS)
        await answered(kept, App(), scope)
        now[0] += 6
    assert (kept.repeat(asked(), key_of("old")), kept.repeat(asked(), key_of("new"))) == (False, True)


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        ("payment_pending", True),
        ("store_unavailable", True),
        ("the facilitator did not answer", True),
        ("Facilitator settle failed (502): ", True),
        ("reservation_released", False),
        ("payment_id_reused", False),
    ],
)
async def test_an_answer_is_kept_unless_its_payment_is_refused_for_good(error: str, is_kept: bool) -> None:
    kept, key, scope = KeptAnswers(), key_of("payment"), asked()
    kept.begin(scope, key, TERMS)
    await answered(kept, App(), scope)
    adapter: Any = SimpleNamespace(_request=SimpleNamespace(scope=scope))
    transport = HTTPTransportContext(HTTPRequestContext(adapter, "/", "GET", "payment"))
    failed = hooks.SettleFailureContext(
        payment(), payment().accepted, transport_context=transport, error=RuntimeError(error)
    )
    DeferredServerScheme(kept=kept).on_settle_failure(failed)
    assert kept.repeat(asked(), key) is is_kept


def test_a_token_is_read_anew_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    auth = BearerAuth(f"file:{file}")
    file.write_text("second\n")
    headers = auth.get_auth_headers()
    assert headers.verify == headers.settle == headers.supported == {"Authorization": "Bearer second"}
    monkeypatch.setenv("SELLER", "third")
    assert BearerAuth("env:SELLER").get_auth_headers().bazaar == {"Authorization": "Bearer third"}
    with pytest.raises(MalformedError, match="token"):
        BearerAuth("env:NOT_SET")


def test_a_program_ends_though_nobody_closed_its_synchronous_facilitator(tmp_path: Path) -> None:
    # In a module, as Flask's are: what is a local variable of a function's ends with the function.
    (tmp_path / "shop.py").write_text(
        "from tallystick_client.x402 import FacilitatorClientSync\n"
        "facilitator = FacilitatorClientSync('127.0.0.1:1', token='ts_x')\n"
    )
    ended = subprocess.run([sys.executable, tmp_path / "shop.py"], timeout=60, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
