"""Amounts, times and ids as a person reads them; programs get them whole and in atomic units."""

from datetime import UTC, datetime

from tallystick.amounts import format_price


def show(amount: int, decimals: int, symbol: str) -> str:
    """An amount of atomic units in the token's unit, such as "0.001 USDC"; it may be below zero."""
    sign = "-" if amount < 0 else ""
    return sign + format_price(abs(amount), decimals, symbol)


def show_time(time_s: int) -> str:
    """A time since the epoch, in UTC."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def shorten(hexadecimal: str) -> str:
    """An address or id by its ends, such as "0x90F7…b906": to be recognised, not to be copied."""
    return f"{hexadecimal[:6]}…{hexadecimal[-4:]}"
