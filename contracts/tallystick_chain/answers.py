"""Single values that endpoints answer, read strictly: an answer that is not of its form is no answer (threat 16).

Every function takes parsed JSON and raises ChainUnavailableError, which never shows what came: it may be long.
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar

from tallystick_chain.errors import ChainUnavailableError

_QUANTITY: Final = re.compile(r"0[xX][0-9a-fA-F]{1,64}")

Answer = TypeVar("Answer")


def strict(decode: Callable[[Any], Answer]) -> Callable[[Any], Answer]:
    """Make an answer that `decode` cannot read one that never came."""

    @wraps(decode)
    def checked(answer: Any) -> Answer:
        try:
            return decode(answer)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ChainUnavailableError(f"an endpoint's answer is malformed: {type(error).__name__}") from error

    return checked


def optional(decode: Callable[[Any], Answer]) -> Callable[[Any], Answer | None]:
    """Null is an answer: there is no such thing."""
    return lambda answer: None if answer is None else decode(answer)


@strict
def read_bytes(text: Any) -> bytes:
    """Bytes of any number."""
    return parse_hex(text)


def parse_hex(text: Any) -> bytes:
    """Bytes of any number. Raises ValueError and TypeError."""
    # Two thirds of the time that thousands of accounts took went into a regular expression over the digits.
    if not isinstance(text, str) or text[:2] not in {"0x", "0X"}:
        raise TypeError("no text with 0x")
    data = bytes.fromhex(text[2:])
    if 2 * len(data) != len(text) - 2:  # white space is skipped
        raise ValueError("not bytes in hex")
    return data


@strict
def read_integer(text: Any) -> int:
    """A number below 2**256."""
    if not _QUANTITY.fullmatch(text):
        raise ValueError("not a quantity in hex")
    return int(text, 16)


@strict
def read_base_fee(block: Any) -> int:
    """What a block takes for a unit of gas, in wei; 0 before EIP-1559."""
    return read_integer(block.get("baseFeePerGas") or "0x0")


@strict
def read_rewards(history: Any) -> list[int]:
    """The tips of eth_feeHistory at the one percentile that was asked for, of each block that is not empty."""
    ratios, rewards = history["gasUsedRatio"], history["reward"]
    return [read_integer(tip[0]) for ratio, tip in zip(ratios, rewards, strict=False) if ratio]


def parse_fixed(text: Any, size: int) -> bytes:
    """So many bytes. Raises ValueError and TypeError."""
    data = parse_hex(text)
    if len(data) != size:
        raise ValueError(f"not {size} bytes")
    return data
