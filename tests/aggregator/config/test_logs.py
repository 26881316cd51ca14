import io
import json
import logging
from collections.abc import Iterator

import pytest
from doubles import Payer

from tallystick_aggregator import logs
from tallystick_aggregator.journal.credentials import PREFIX

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
    logging.getLogger("somewhere").info("%s %s", *told)
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
