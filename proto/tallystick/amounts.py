"""Amounts and prices: parsed once at the edge into integers of atomic units, 0 <= x < 2**128. Never floats.

Three forms exist outside: decimal text (x402's JSON), minimal big-endian bytes (our protobuf), and prices with a
decimal point for people ("0.001 USDC").
"""

import re
from typing import Final, NamedTuple

from tallystick.errors import MalformedError
from tallystick.quantities import MAX_AMOUNT, Amount

_AMOUNT_ALLOWED: Final = "a decimal integer without sign or leading zeros, below 2**128"
_BYTES_ALLOWED: Final = "at most 16 big-endian bytes without a leading zero byte"
_PRICE_ALLOWED: Final = 'a decimal number and a token\'s symbol, as in "0.001 USDC"'

# ASCII classes, not \d: unicode has digits that int() reads and other parsers do not.
_PRICE: Final = re.compile(
    r"(?P<whole>0|[1-9][0-9]{0,38})(?:\.(?P<fraction>[0-9]{1,38}))? (?P<symbol>[A-Za-z0-9._-]{1,16})"
)


def parse_amount(text: object, field: str) -> Amount:
    """The amount in atomic units that canonical decimal text stands for.

    Raises MalformedError on anything else: signs, spaces, leading zeros, unicode digits, fractions, 2**128 and above.
    """
    return Amount(_parse_uint(text, field, MAX_AMOUNT, _AMOUNT_ALLOWED))


def parse_uint64(text: object, field: str) -> int:
    """The same for a number below 2**64, such as a time in seconds since the epoch."""
    return _parse_uint(text, field, 2**64 - 1, "a decimal integer without sign or leading zeros, below 2**64")


def parse_uint256(text: object, field: str) -> int:
    """The same for a number below 2**256: a nonce, or an allowance."""
    return _parse_uint(text, field, 2**256 - 1, "a decimal integer without sign or leading zeros, below 2**256")


def encode_amount(amount: int) -> bytes:
    """The protobuf form: big-endian without a leading zero byte; zero is empty.

    Raises OverflowError outside 0 <= amount < 2**128: such an integer is no amount.
    """
    if not 0 <= amount <= MAX_AMOUNT:
        raise OverflowError("an amount must be at least 0 and below 2**128")
    return amount.to_bytes((amount.bit_length() + 7) // 8, "big")


def decode_amount(data: bytes, field: str) -> Amount:
    """The amount in atomic units; raises MalformedError unless `data` is what `encode_amount` makes."""
    if len(data) > 16 or data[:1] == b"\0":
        raise MalformedError(field, data, _BYTES_ALLOWED)
    return Amount(int.from_bytes(data, "big"))


class Price(NamedTuple):
    """A price: atomic units, and the symbol of the token they are counted in."""

    amount: int
    symbol: str


def parse_price(text: object, decimals: int = 6, field: str = "price") -> Price:
    """An exact price from "0.001 USDC", for a token with this many decimals.

    Raises MalformedError on any other form, on more fractional digits than the token has, and from 2**128 on.
    """
    match = _PRICE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise MalformedError(field, text, _PRICE_ALLOWED)
    fraction = match["fraction"] or ""
    if len(fraction) > decimals:
        raise MalformedError(field, text, f"at most {decimals} digits after the point for {match['symbol']}")
    amount = int(match["whole"] + fraction.ljust(decimals, "0"))
    if amount > MAX_AMOUNT:
        raise MalformedError(field, text, "less than 2**128 atomic units")
    return Price(amount, match["symbol"])


def format_price(amount: int, decimals: int, symbol: str) -> str:
    """The exact price for people, without needless zeros: `format_price(1000, 6, "USDC")` is "0.001 USDC"."""
    if amount < 0:
        raise OverflowError("an amount must be at least 0")
    whole, fraction = divmod(amount, 10**decimals)
    digits = str(fraction).rjust(decimals, "0").rstrip("0") if fraction else ""
    return f"{whole}.{digits} {symbol}" if digits else f"{whole} {symbol}"


def _parse_uint(text: object, field: str, maximum: int, allowed: str) -> int:
    if not isinstance(text, str):
        raise MalformedError(field, text, allowed)
    # Length first: int() is slow, and raises, on texts of thousands of digits.
    if (
        not 0 < len(text) <= len(str(maximum))
        or not (text.isascii() and text.isdigit())
        or (text[0] == "0" and text != "0")
    ):
        raise MalformedError(field, text, allowed)
    number = int(text)
    if number > maximum:
        raise MalformedError(field, text, allowed)
    return number
