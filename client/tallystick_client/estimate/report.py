"""An estimate as data and as text. Pure: coins and dollars are exact until they are shown."""

from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, Final

from tallystick_client.estimate.costs import DAY_S, MILLI, SCHEMES, Day, Item, Workload, batch_settlement, break_even
from tallystick_client.estimate.costs import exact as exact_day
from tallystick_client.estimate.figures import BY_APPROVAL, CHAINS

WEI_PER_COIN: Final = 10**18
MICRO: Final = 10**6
_PLAIN: Final = Context(prec=60)
_SHOWN: Final = 3
"""Digits of a coin or dollar amount below one that are shown in text."""

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prices:
    """What gas and the coin cost; None where nobody said. `usd_micro`: millionths of a dollar for one coin."""

    gas_wei: int | None = None
    usd_micro: int | None = None

    def coins(self, gas: int) -> Decimal | None:
        """The price of this gas, in coins."""
        return None if self.gas_wei is None else _PLAIN.divide(Decimal(gas * self.gas_wei), Decimal(WEI_PER_COIN))

    def usd(self, gas: int) -> Decimal | None:
        """The price of this gas, in dollars."""
        if self.gas_wei is None or self.usd_micro is None:
            return None
        return _PLAIN.divide(Decimal(gas * self.gas_wei * self.usd_micro), Decimal(WEI_PER_COIN * MICRO))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A day of one workload by every scheme."""

    work: Workload
    chain: str
    prices: Prices
    days: tuple[Day, ...]

    @classmethod
    def of(cls, work: Workload, chain: str, prices: Prices) -> "Estimate":
        """Estimate this workload on a chain of `CHAINS`."""
        return cls(work, chain, prices, tuple(scheme(work) for scheme in SCHEMES))

    @property
    def cheapest(self) -> Day:
        """The day that takes the least gas, which every scheme pays at the same price; the first of equals."""
        return min(self.days, key=lambda day: day.gas)

    @property
    def break_even(self) -> dict[str, int | None]:
        """From how many requests a payer a day `deferred` takes less gas than each of the others."""
        return {"batch-settlement": break_even(self.work, batch_settlement), "exact": break_even(self.work, exact_day)}


def as_dict(estimate: Estimate) -> dict[str, Any]:
    """The estimate as JSON values. Gas and wei are whole numbers, wei as text; coins and dollars are exact decimals,
    as text, and null where a price is not known.
    """
    work, prices, preset = estimate.work, estimate.prices, CHAINS[estimate.chain]

    def priced(item: Item | Day) -> dict[str, Any]:
        wei = None if prices.gas_wei is None else str(item.gas * prices.gas_wei)
        return {
            "transactions": item.transactions,
            "gas": item.gas,
            "wei": wei,
            "coin": _text(prices.coins(item.gas)),
            "usd": _text(prices.usd(item.gas)),
        }

    return {
        "chain": estimate.chain,
        "coin": preset.coin,
        "gas_wei": None if prices.gas_wei is None else str(prices.gas_wei),
        "usd_per_coin": None if prices.usd_micro is None else _text(_PLAIN.divide(Decimal(prices.usd_micro), MICRO)),
        "payers": work.payers,
        "sellers": work.sellers,
        "sellers_per_payer": work.sellers_per_payer,
        "requests_per_day": work.requests_of_all,
        "settlement_interval_s": work.interval_s,
        "deposits_per_day": _text(_PLAIN.divide(Decimal(work.deposits_milli), MILLI)),
        "claims": "approval" if work.rows is BY_APPROVAL else "voucher",
        "schemes": {
            day.scheme: {
                "per_day": priced(day)
                | {"items": [{"name": item.name.partition(",")[0]} | priced(item) for item in day.items]},
                "opening": priced(day.opening),
                # Rounded up, as a part of a unit of gas cannot be told exactly.
                "gas_per_request": -(-day.gas // work.requests_of_all),
            }
            for day in estimate.days
        },
        "cheapest": estimate.cheapest.scheme,
        "break_even_requests_per_payer_per_day": estimate.break_even,
        "not_counted": [preset.not_counted] if preset.not_counted else [],
    }


def heading(estimate: Estimate) -> str:
    """What was estimated."""
    work, prices, coin = estimate.work, estimate.prices, CHAINS[estimate.chain].coin
    if prices.gas_wei is None:
        cost = "in gas alone, as no price of it was given"
    else:
        cost = f"at {_plain(_PLAIN.divide(Decimal(prices.gas_wei), 10**9))} gwei"
    if prices.usd_micro is not None:
        cost += f" and {_plain(_PLAIN.divide(Decimal(prices.usd_micro), MICRO))} USD for one {coin}"
    whom = _count(work.sellers, "seller")
    if work.sellers_per_payer < work.sellers:
        whom = f"{work.sellers_per_payer:,} of {whom}"
    return (
        f"A day of {_count(work.payers, 'payer')} with {_count(work.requests, 'request')} each to {whom}.\n"
        f"Settled every {_duration(work.interval_s)}, on {estimate.chain}, {cost}."
    )


def table(estimate: Estimate) -> tuple[Row, list[Row]]:
    """The headings, and for each scheme a row of its total followed by rows of its items, indented."""
    prices, coin = estimate.prices, CHAINS[estimate.chain].coin
    with_coin, with_usd = prices.gas_wei is not None, prices.usd_micro is not None

    def row(name: str, item: Item | Day) -> Row:
        cells = [name, f"{item.transactions:,}", f"{item.gas:,}"]
        cells += [_amount(prices.coins(item.gas))] * with_coin + [_amount(prices.usd(item.gas))] * with_usd
        return tuple(cells)

    headings = ("per day", "transactions", "gas", *[coin] * with_coin, *["USD"] * with_usd)
    rows: list[Row] = []
    for day in estimate.days:
        rows.append(row(day.scheme, day))
        if len(day.items) > 1:
            rows += [row(f"  {item.name}", item) for item in day.items]
    return headings, rows


def per_request_table(estimate: Estimate) -> tuple[Row, list[Row]]:
    """By scheme: what one request takes, and what opening accounts and channels takes once."""
    prices, coin, count = estimate.prices, CHAINS[estimate.chain].coin, estimate.work.requests_of_all
    money = "USD" if prices.usd_micro is not None else coin if prices.gas_wei is not None else ""
    price = prices.usd if money == "USD" else prices.coins

    def shown(gas: int, parts: int = 1) -> Row:
        cost = price(gas)
        return () if cost is None else (_amount(_PLAIN.divide(cost, parts)),)

    headings = ("", "gas a request", *[f"{money} a request"] * bool(money), "gas to open, once", *[money] * bool(money))
    rows = [
        (
            day.scheme,
            f"{-(-day.gas // count):,}",
            *shown(day.gas, count),
            f"{day.opening.gas:,}",
            *shown(day.opening.gas),
        )
        for day in estimate.days
    ]
    return headings, rows


def verdict(estimate: Estimate) -> list[str]:
    """Which scheme is cheapest, and from how many requests deferred is."""
    best = estimate.cheapest
    others = [
        f"{day.scheme} takes {_ratio(day.gas, best.gas)} times the gas" for day in estimate.days if day is not best
    ]
    lines = [f"Cheapest: {best.scheme}; {', '.join(others)}."]
    for scheme, requests in estimate.break_even.items():
        if requests is None:
            lines.append(f"deferred never takes less than {scheme} for these payers and sellers.")
        else:
            first = "the first request" if requests == 1 else f"{requests:,} requests"
            lines.append(f"deferred takes less than {scheme} from {first} a day of each payer.")
    return lines


def assumptions(estimate: Estimate) -> list[str]:
    """Where the figures come from, what is taken for granted, and what is not counted."""
    work, not_counted = estimate.work, CHAINS[estimate.chain].not_counted
    by = "by one approval for each payer" if work.rows is BY_APPROVAL else "each by its own voucher"
    times = _plain(_PLAIN.divide(Decimal(work.deposits_milli), MILLI))
    often = "once" if work.deposits_milli == MILLI else f"{times} times"
    lines = [
        "Gas of deferred and exact is measured on our contract and a minimal token; USDC behind its proxy takes more.",
        (
            "Gas of batch-settlement is published for the original contract, not measured here, and not that of our"
            " stand-in."
        ),
        (
            f"A steady day: everyone was paid before. Each deposit is topped up {often} a day: deferred has one for"
            f" each payer ({work.payers:,}), batch-settlement one for each payer and seller ({work.channels:,})."
        ),
        f"Requests come evenly and go round a payer's sellers. Rows of deferred are claimed {by}.",
        (
            "Opening is the first deposits, and in deferred the first claims, too; those of batch-settlement are not"
            " published. It is in no total."
        ),
        "Not counted: refunds, withdrawals, failed transactions, other tips than the gas price has"
        + (f"; {not_counted}." if not_counted else "."),
    ]
    if estimate.prices.gas_wei is None or estimate.prices.usd_micro is None:
        lines.append("Without --gas-gwei (or --rpc-url) and --eth-usd no coins and dollars are shown.")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _duration(seconds: int) -> str:
    for unit, name in ((DAY_S, "day"), (3_600, "hour"), (60, "minute")):
        if seconds % unit == 0:
            count = seconds // unit
            return name if count == 1 else f"{count} {name}s"
    return f"{seconds} seconds"


def _ratio(one: int, other: int) -> str:
    """Cut, not rounded, so that nothing looks more than it is."""
    places = 2 if one < 2 * other else 1 if one < 10 * other else 0
    return f"{one * 10**places // other / 10**places:,.{places}f}"


def _plain(value: Decimal) -> str:
    return f"{value.normalize(_PLAIN):,f}"


def _text(value: Decimal | None) -> str | None:
    return None if value is None else f"{value.normalize(_PLAIN):f}"


def _amount(value: Decimal | None) -> str:
    """To the cent where it is a dollar or more, to three digits below."""
    if value is None or not value:
        return "0"
    places = 2 if value >= 1 else _SHOWN - 1 - value.adjusted()
    return f"{value:,.{places}f}"
