import pytest
from eth_utils import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from tallystick.errors import MalformedError
from tallystick.hexadecimal import checksum, parse_address, parse_bytes, parse_bytes_up_to, to_hex

addresses = st.binary(min_size=20, max_size=20)


@given(addresses)
def test_checksum_is_that_of_eip_55(address: bytes) -> None:
    assert checksum(address) == to_checksum_address(address)


@given(addresses)
def test_an_address_is_read_in_checksummed_lower_and_upper_case(address: bytes) -> None:
    digits = address.hex()
    for text in (checksum(address), "0x" + digits, "0x" + digits.upper()):
        assert parse_address(text, "payTo") == address


def test_a_wrong_checksum_is_refused_and_the_right_one_named() -> None:
    right = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
    with pytest.raises(MalformedError, match=right):
        parse_address(right.replace("aA", "AA"), "payTo")


@pytest.mark.parametrize(
    "text",
    ["", "0x", "0x" + "1" * 39, "0x" + "1" * 41, "1" * 40, "1" * 42, "0X" + "1" * 40, "0x" + "1" * 38 + " 1",
     "0x" + "g" * 40, "0x" + "\uff11" * 40, " 0x" + "1" * 40, 1, None, b"0x", ["0x"]],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: object) -> None:
    with pytest.raises(MalformedError, match=r"^payTo: got .*, allowed 0x and 40 hex digits"):
        parse_address(text, "payTo")


@given(st.binary(max_size=80))
def test_bytes_survive_their_hex(data: bytes) -> None:
    assert parse_bytes(to_hex(data), len(data), "salt") == data
    assert parse_bytes_up_to(to_hex(data), 80, "signature") == data


@pytest.mark.parametrize("text", ["0x123", "0x" + "11" * 5, "11", "0x1g", "0x 1", None, 5])
def test_bytes_up_to_refuses_odd_long_and_foreign_digits(text: object) -> None:
    with pytest.raises(MalformedError):
        parse_bytes_up_to(text, 4, "signature")


@given(st.text(), st.integers(0, 65))
def test_parse_bytes_raises_nothing_but_malformed(text: str, length: int) -> None:
    for candidate in (text, "0x" + text):
        try:
            data = parse_bytes(candidate, length, "x")
        except MalformedError:
            continue
        assert to_hex(data) == candidate.lower()


def test_an_error_about_bytes_never_quotes_them() -> None:
    secret = "0x" + "ab" * 31
    with pytest.raises(MalformedError) as caught:
        parse_bytes(secret, 32, "secret")
    assert "abab" not in str(caught.value)
    assert "62 hex digits" in str(caught.value)
