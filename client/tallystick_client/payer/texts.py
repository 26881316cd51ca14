"""Amounts and times as a person reads them; programs get them in atomic units and seconds."""

from datetime import UTC, datetime

from tallystick.amounts import format_price


def show(amount: int, decimals: int, symbol: str) -> str:
    """An amount of atomic units in the token's unit, such as "0.001 USDC"; it may be below zero."""
    sign = "-" if amount < 0 else ""
    return sign + format_price(abs(amount), decimals, symbol)


def show_time(time_s: int) -> str:
    """A time since the epoch, in UTC."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")
