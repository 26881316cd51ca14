"""Threat 27: amounts are parsed once, at the edge, and exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.amounts import (
    Price,
    decode_amount,
    encode_amount,
    format_price,
    parse_amount,
    parse_price,
    parse_uint64,
)
from tallystick.errors import MalformedError

amounts = st.integers(0, 2**128 - 1)


@given(amounts)
def test_amount_survives_text_and_bytes(amount: int) -> None:
    assert parse_amount(str(amount), "amount") == amount
    assert decode_amount(encode_amount(amount), "amount") == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1\n",
        "01",
        "00",
        "1.0",
        "1e3",
        "1_000",
        "0x1",
        "\u0661",
        "\uff11",
        "²",
        "a",
        "9" * 40,
        "9" * 10_000,
    ],
)
def test_parse_amount_refuses_all_but_canonical_decimals(text: str) -> None:
    with pytest.raises(MalformedError, match=r"^price: got .*, allowed a decimal integer"):
        parse_amount(text, "price")


def test_parse_amount_ends_below_two_to_the_128() -> None:
    assert parse_amount("340282366920938463463374607431768211455", "a") == 2**128 - 1
    with pytest.raises(MalformedError):
        parse_amount("340282366920938463463374607431768211456", "a")


@pytest.mark.parametrize("value", [1, None, True, 1.5, b"1", ["1"], {}])
def test_parse_amount_refuses_what_is_no_text(value: object) -> None:
    with pytest.raises(MalformedError):
        parse_amount(value, "a")


@given(st.text())
def test_parse_amount_raises_nothing_but_malformed(text: str) -> None:
    try:
        amount = parse_amount(text, "a")
    except MalformedError:
        return
    assert str(amount) == text


def test_parse_uint64_ends_below_two_to_the_64() -> None:
    assert parse_uint64(str(2**64 - 1), "validBefore") == 2**64 - 1
    with pytest.raises(MalformedError, match=r"2\*\*64"):
        parse_uint64(str(2**64), "validBefore")


@pytest.mark.parametrize("data", [b"\0", b"\0\1", bytes(16), b"\1" * 17])
def test_decode_amount_refuses_leading_zeros_and_more_than_16_bytes(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^amount: got \d+ bytes, allowed at most 16"):
        decode_amount(data, "amount")


def test_zero_is_the_empty_string_and_the_maximum_has_16_bytes() -> None:
    assert encode_amount(0) == b""
    assert encode_amount(2**128 - 1) == b"\xff" * 16


@pytest.mark.parametrize("amount", [-1, 2**128])
def test_encode_amount_refuses_what_is_no_amount(amount: int) -> None:
    with pytest.raises(OverflowError):
        encode_amount(amount)


@given(amounts, st.integers(0, 18))
def test_price_survives_its_text(amount: int, decimals: int) -> None:
    assert parse_price(format_price(amount, decimals, "USDC"), decimals) == Price(amount, "USDC")


@pytest.mark.parametrize(
    ("text", "decimals", "amount"),
    [
        ("0.001 USDC", 6, 1000),
        ("1 USDC", 6, 10**6),
        ("0.000001 USDC", 6, 1),
        ("0 USDC", 6, 0),
        ("3 X", 0, 3),
        ("0.10 X", 2, 10),
    ],
)
def test_parse_price_is_exact(text: str, decimals: int, amount: int) -> None:
    assert parse_price(text, decimals).amount == amount


def test_parse_price_refuses_more_digits_than_the_token_has() -> None:
    with pytest.raises(MalformedError, match=r"at most 6 digits after the point for USDC"):
        parse_price("0.0000001 USDC")


@pytest.mark.parametrize(
    "text",
    ["", "USDC", "1", "1USDC", "1  USDC", " 1 USDC", "1 USDC ", "-1 USDC", "+1 USDC", ".5 USDC", "1. USDC", "01 USDC",
     "1e3 USDC", "1,5 USDC", "\u0661 USDC", "1 USDC\n", "1 US DC", "$1", "1 \uff04",
     "9" * 40 + " USDC", "9" * 39 + " USDC"],
)  # fmt: skip
def test_parse_price_refuses_other_forms(text: str) -> None:
    with pytest.raises(MalformedError, match=r"^price: got "):
        parse_price(text)


def test_format_price_drops_needless_zeros_only() -> None:
    assert format_price(1000, 6, "USDC") == "0.001 USDC"
    assert format_price(10_000_000, 6, "USDC") == "10 USDC"
    assert format_price(5, 0, "X") == "5 X"
    with pytest.raises(OverflowError):
        format_price(-1, 6, "USDC")
