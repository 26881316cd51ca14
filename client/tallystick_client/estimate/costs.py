"""The arithmetic of an estimate: transactions and gas of one day, by scheme. Pure, and integers throughout.

The day is a steady one. Accounts and channels are open, sellers were paid before, requests come evenly, and each
payer's requests go round its sellers. So a settlement claims a row of every channel that there were requests for,
and a transaction carries as many rows as its gas and its bytes allow.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tallystick.errors import MalformedError
from tallystick_client.estimate import figures
from tallystick_client.estimate.figures import BY_VOUCHERS, RowCosts

DAY_S: Final = 86_400
PARTIES_MAX: Final = 1_000_000
REQUESTS_PER_HOUR_MAX: Final = 1_000_000_000
DEPOSITS_PER_DAY_MAX: Final = 1_000
INTERVAL_S_MIN: Final = 60
MILLI: Final = 1_000


@dataclass(frozen=True, slots=True)
class Workload:
    """Who pays whom, how often. Raises MalformedError for what is out of its range.

    `requests`: of each payer, a day. `interval_s`: between settlements; divides a day. `deposits_milli`: how many
    times a day each account (deferred) or channel (batch-settlement) is topped up, in thousandths.
    """

    payers: int
    sellers: int
    sellers_per_payer: int
    requests: int
    interval_s: int = 3_600
    deposits_milli: int = MILLI
    rows: RowCosts = BY_VOUCHERS

    def __post_init__(self) -> None:
        _check("payers", self.payers, 1, PARTIES_MAX)
        _check("sellers", self.sellers, 1, PARTIES_MAX)
        _check("sellers_per_payer", self.sellers_per_payer, 1, self.sellers, ", which is the number of sellers")
        _check("requests", self.requests, 1, 24 * REQUESTS_PER_HOUR_MAX)
        _check("deposits_milli", self.deposits_milli, 0, MILLI * DEPOSITS_PER_DAY_MAX)
        if not INTERVAL_S_MIN <= self.interval_s <= DAY_S or DAY_S % self.interval_s:
            raise MalformedError("interval_s", self.interval_s, "60 to 86,400 seconds that divide a day")

    @property
    def channels(self) -> int:
        """Pairs of a payer and a seller."""
        return self.payers * self.sellers_per_payer

    @property
    def paid_sellers(self) -> int:
        """Sellers that anyone pays: each channel's is another as long as there are others."""
        return min(self.sellers, self.channels)

    @property
    def settlements(self) -> int:
        """Settlements a day, were there always something to settle."""
        return DAY_S // self.interval_s

    @property
    def requests_of_all(self) -> int:
        """Requests a day of all payers."""
        return self.payers * self.requests


@dataclass(frozen=True, slots=True)
class Item:
    """One kind of transaction: how many a day, and the gas of all of them."""

    name: str
    transactions: int
    gas: int


@dataclass(frozen=True, slots=True)
class Day:
    """What a scheme sends in a day. `opening`: once, before the first day, and in no total."""

    scheme: str
    items: tuple[Item, ...]
    opening: Item

    @property
    def transactions(self) -> int:
        """Of all items."""
        return sum(item.transactions for item in self.items)

    @property
    def gas(self) -> int:
        """Of all items."""
        return sum(item.gas for item in self.items)


def deferred(work: Workload) -> Day:
    """A day by `deferred`: a deposit for each payer, claims that pay the sellers in the same transaction."""
    claims = [(times, *_deferred_claim(work, rows)) for times, rows in _settlements(work)]
    deposits = _deposits(work, work.payers)
    return Day(
        "deferred",
        (
            Item("top-ups", deposits, deposits * figures.TOP_UP_GAS),
            Item("claims, which pay", *_summed(claims)),
        ),
        Item(
            "opening",
            work.payers,
            work.payers * figures.FIRST_DEPOSIT_GAS + work.channels * figures.FIRST_CLAIM_GAS,
        ),
    )


def batch_settlement(work: Workload) -> Day:
    """A day by the standard: a deposit for each channel, claims, and a `settle` for each seller."""
    rows_max = figures.TRANSACTION_BYTES_MAX // figures.STANDARD_ROW_BYTES
    claims: list[tuple[int, int, int]] = []
    settles = 0
    for times, rows in _settlements(work):
        count = _quotient_up(rows, rows_max)
        claims.append((times, count, count * figures.STANDARD_CLAIM_GAS + rows * figures.STANDARD_ROW_GAS))
        settles += times * min(rows, work.paid_sellers)
    deposits = _deposits(work, work.channels)
    return Day(
        "batch-settlement",
        (
            Item("top-ups", deposits, deposits * figures.STANDARD_TOP_UP_GAS),
            Item("claims", *_summed(claims)),
            Item("settles, which pay", settles, settles * figures.STANDARD_SETTLE_GAS),
        ),
        Item("opening", work.channels, work.channels * figures.STANDARD_FIRST_DEPOSIT_GAS),
    )


def exact(work: Workload) -> Day:
    """A day by `exact`: a transfer for each request."""
    count = work.requests_of_all
    return Day("exact", (Item("transfers", count, count * figures.TRANSFER_GAS),), Item("opening", 0, 0))


SCHEMES: Final[tuple[Callable[[Workload], Day], ...]] = (deferred, batch_settlement, exact)


def break_even(work: Workload, other: Callable[[Workload], Day]) -> int | None:
    """From how many requests a payer a day `deferred` takes less gas than `other`; None if never.

    `work`'s own number of requests plays no part. With the number returned deferred takes less, with one request
    fewer (if that is one at all) it does not.
    """

    def wins(requests: int) -> bool:
        at = replace(work, requests=requests)
        return deferred(at).gas < other(at).gas

    # Once every settlement claims every channel, deferred takes no more gas, however many requests come.
    all_claimed = work.sellers_per_payer * work.settlements
    most = deferred(replace(work, requests=all_claimed)).gas
    high = max(all_claimed, most // (work.payers * figures.TRANSFER_GAS) + 1)
    if wins(1):
        return 1
    if not wins(high):
        return None
    low = 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if wins(middle) else (middle, high)
    return high


def _deferred_claim(work: Workload, rows: int) -> tuple[int, int]:
    """Transactions and gas of one settlement of so many rows."""
    costs, accounts, sellers = work.rows, min(rows, work.payers), min(rows, work.paid_sellers)
    count = max(
        _parts(
            accounts * costs.account_gas + rows * costs.row_gas,
            figures.TRANSACTION_GAS_MAX - figures.CLAIM_GAS,
            sellers * figures.PAYMENT_GAS,
            rows * figures.PAYMENT_GAS,
        ),
        _parts(
            accounts * costs.account_bytes + rows * costs.row_bytes,
            figures.TRANSACTION_BYTES_MAX - figures.HEADER_BYTES,
            sellers * figures.RECEIVER_BYTES,
            rows * figures.RECEIVER_BYTES,
        ),
    )
    gas = count * figures.CLAIM_GAS + accounts * costs.account_gas + rows * costs.row_gas
    return count, gas + min(rows, count * sellers) * figures.PAYMENT_GAS


def _parts(rows: int, room: int, all_sellers: int, row_sellers: int) -> int:
    """Into how many transactions rows of this size are cut, each with this room.

    Either each carries all sellers, or each row is counted with a seller of its own, whichever needs fewer.
    """
    apart = _quotient_up(rows + row_sellers, room)
    return min(apart, _quotient_up(rows, room - all_sellers)) if all_sellers < room else apart


def _settlements(work: Workload) -> tuple[tuple[int, int], ...]:
    """The day's settlements: how many there are of each number of rows."""
    rows = min(work.channels * work.settlements, work.requests_of_all)
    count = min(work.settlements, rows)
    each, more = divmod(rows, count)
    return ((count - more, each), (more, each + 1)) if more else ((count, each),)


def _deposits(work: Workload, places: int) -> int:
    return _quotient_up(places * work.deposits_milli, MILLI)


def _summed(settlements: list[tuple[int, int, int]]) -> tuple[int, int]:
    """Transactions and gas of settlements: times, transactions and gas of each."""
    return (
        sum(times * count for times, count, _ in settlements),
        sum(times * gas for times, _, gas in settlements),
    )


def _quotient_up(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def _check(field: str, value: int, least: int, most: int, why: str = "") -> None:
    if not least <= value <= most:
        raise MalformedError(field, value, f"{least:,} to {most:,}{why}")
