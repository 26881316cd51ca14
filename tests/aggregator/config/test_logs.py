import base64
import io
import json
import logging
from collections.abc import Iterator

import pytest
from doubles import Payer

from tallystick.signatures import Signer
from tallystick_aggregator.api.tls import Tls
from tallystick_aggregator.auth.credentials import PREFIX
from tallystick_aggregator.chain.settings import ChainSettings, TokenSettings
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.runtime import logs
from tallystick_aggregator.store.port import Attempt

ALICE = Payer("alice")
TOKEN = PREFIX + "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE"
SIGNATURE = ALICE.voucher(1).signature


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Put the root logger back as it was."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.setLogRecordFactory(logging.LogRecord)


def logged(*, as_json: bool, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, as_json=as_json, stream=stream)
    return stream


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "secret",
    [TOKEN, f"Bearer {TOKEN}", f"authorization: bearer {TOKEN}", SIGNATURE.hex(), "0x" + SIGNATURE.hex().upper()],
)
def test_a_token_or_a_signature_never_reaches_the_log(as_json: bool, secret: str) -> None:
    stream = logged(as_json=as_json)
    log = logging.getLogger("somewhere")
    log.warning("got %s", secret)
    log.warning("got it", extra={"value": secret})
    log.error("failed", exc_info=ValueError(secret))
    text = stream.getvalue()
    assert text.count("[struck out]") == 3
    assert TOKEN not in text
    assert SIGNATURE.hex() not in text.lower()


def test_hashes_and_addresses_are_told() -> None:
    stream = logged(as_json=False)
    told = "0x" + "ab" * 32, "0x" + "cd" * 20
    logging.getLogger("tallystick.somewhere").info("%s %s", *told)
    assert all(one in stream.getvalue() for one in told)


def test_json_has_one_object_a_line_with_the_extra_fields() -> None:
    stream = logged(as_json=True)
    logging.getLogger("tallystick").warning("a line\nand another", extra={"incident": "12ab"})
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"], entry["incident"]) == (
        "warning",
        "tallystick",
        "a line\nand another",
        "12ab",
    )


def test_text_has_the_extra_fields_too() -> None:
    stream = logged(as_json=False)
    logging.getLogger("tallystick").warning("failed", extra={"incident": "12ab"})
    assert stream.getvalue().endswith("WARNING tallystick: failed incident=12ab\n")


def test_libraries_are_quiet_even_when_we_debug() -> None:
    stream = logged(as_json=False, level="debug")
    logging.getLogger("web3.providers").debug("raw request")
    logging.getLogger("tallystick").debug("ours")
    assert "raw request" not in stream.getvalue()
    assert "ours" in stream.getvalue()


@pytest.mark.parametrize("as_json", [False, True])
def test_g3_no_handler_gets_what_a_library_says_below_a_warning(as_json: bool) -> None:
    """Whoever sets its logger's level, and whoever listens: the words are gone where the record is made."""
    stream = logged(as_json=as_json, level="debug")
    heard: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = heard.append  # type: ignore[method-assign]
    for name in ("aiosqlite", "httpcore.http11", "uvicorn.access", "one.that.nobody.knows"):
        library = logging.getLogger(name)
        library.setLevel(logging.DEBUG)
        library.addHandler(listener)
        # A server that another test started by its defaults keeps its access log to itself.
        propagated, library.propagate = library.propagate, True
        try:
            library.debug("executing %s", (b"secret" * 8,))
            library.info("POST https://rpc.example/v3/key", extra={"n": 1})
            library.warning("that is worth telling")
        finally:
            library.removeHandler(listener)
            library.setLevel(logging.NOTSET)
            library.propagate = propagated
    assert stream.getvalue().count("worth telling") == 4
    assert "executing" not in stream.getvalue()
    told = [f"{record.getMessage()} {record.args} {record.__dict__}" for record in heard]
    assert len(told) == 12
    assert not [text for text in told if "secret" in text or "v3/key" in text]


def test_g3_asyncio_is_heard_only_of_errors() -> None:
    """In its debug mode it warns of slow calls, and shows what was handed to them."""
    stream = logged(as_json=False, level="debug")
    logging.getLogger("asyncio").warning("Executing <Handle f(secret)> took 1 s")
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    assert stream.getvalue().count("asyncio") == 1


SECRET = bytes(range(150, 182))


@pytest.mark.parametrize(
    "text",
    [
        repr(SECRET),
        f"params=({SECRET!r}, 7)",
        repr(b'"quoted" ' + SECRET),
        base64.b64encode(SECRET).decode(),
        f"key={base64.urlsafe_b64encode(SECRET).decode()} of it",
        "https://rpc.example/v3/s3cr3t",
        "(https://user:s3cr3t@rpc.example/)",
        "HTTP://rpc.example:8545?key=s3cr3t and more",
        "0x02" + SECRET.hex() * 4,
    ],
)
def test_g3_what_looks_like_a_secret_is_struck_out_of_our_own_words_too(text: str) -> None:
    stream = logged(as_json=False)
    logging.getLogger("tallystick").warning("got %s", text)
    logging.getLogger("tallystick").warning("got it", extra={"value": text})
    lines = stream.getvalue()
    assert lines.count("[struck out]") == 2
    assert "s3cr3t" not in lines
    assert not any(form in lines for form in (SECRET.hex(), repr(SECRET)[2:-1], base64.b64encode(SECRET).decode()))


def test_g3_an_endpoints_host_is_told() -> None:
    stream = logged(as_json=False)
    logging.getLogger("tallystick").warning("%s and %s", "http://127.0.0.1:8545", "https://rpc.example/v3/s3cr3t.")
    assert "http://127.0.0.1:8545 and https://rpc.example/[struck out]" in stream.getvalue()


def test_g3_what_holds_a_secret_does_not_show_it() -> None:
    key = ALICE.spend_key()
    registered = ev.SpendKeyRegistered(key.account_id, key.key_id, key.secret, key.cap, key.expires_at)
    attempt = Attempt(bytes(32), SECRET, 1, 1, 1)
    tls = Tls(b"certificate", SECRET, None)
    signer = Signer(SECRET)
    settings = ChainSettings(
        "eip155:31337",
        ("https://x/s3cr3t",),
        bytes(20),
        bytes(20),
        signer,
        signer,
        (TokenSettings(bytes(20), "USDC", 6, "USD Coin", "2"),),
    )
    shown = repr((key, registered, attempt, tls, settings))
    assert "s3cr3t" not in shown
    assert not any(form in shown for form in (repr(key.secret), key.secret.hex(), repr(SECRET), SECRET.hex()))
