"""What a wallet may spend, and how much it may put into an escrow. Checked before anything is signed.

Amounts are decimal strings in the token's unit ("0.01") or integers in atomic units. Each token is counted by itself:
with two tokens on the allow-list, each may be spent up to the budgets. Headroom that was granted counts as spent until
it is returned, so a budget holds even if every worker dies with all of its headroom in a seller's hands.
"""

from dataclasses import dataclass
from typing import Final

from tallystick.amounts import parse_price
from tallystick.errors import Described, MalformedError
from tallystick.quantities import MAX_AMOUNT

DAY_S: Final = 86_400

AmountLike = str | int | None


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets in atomic units of one token."""

    per_request: int = MAX_AMOUNT
    per_host: int = MAX_AMOUNT
    per_day: int = MAX_AMOUNT
    total: int = MAX_AMOUNT


@dataclass(frozen=True, slots=True)
class Budgets:
    """The most that may be spent per request, per host, per day (UTC) and in all; None: no limit."""

    per_request: AmountLike = None
    per_host: AmountLike = None
    per_day: AmountLike = None
    total: AmountLike = None

    def limits(self, decimals: int) -> Limits:
        """The same in atomic units of a token with this many decimals; raises MalformedError."""
        return Limits(
            per_request=_limit(self.per_request, decimals, "budgets.per_request"),
            per_host=_limit(self.per_host, decimals, "budgets.per_host"),
            per_day=_limit(self.per_day, decimals, "budgets.per_day"),
            total=_limit(self.total, decimals, "budgets.total"),
        )


@dataclass(frozen=True, slots=True)
class DepositPolicy:
    """When the wallet deposits by itself: when what is unspent falls below `low`, it deposits up to `high`.

    Where the payer's address holds less than that, the wallet deposits all that it holds, if that is enough for what is
    to be paid (or for `low`) and not below the token's `min_deposit`; otherwise nothing. Beyond `high` an account holds
    what the token's `min_deposit` asks for, and what payments in flight need: that is deposited in steps of `high`.
    """

    low: str | int
    high: str | int

    def marks(self, decimals: int) -> tuple[int, int]:
        """Low and high in atomic units of a token with this many decimals; raises MalformedError."""
        low = atomic(self.low, decimals, "deposit.low")
        high = atomic(self.high, decimals, "deposit.high")
        if not high > 0 or low > high:
            got = Described(f"low {self.low}, high {self.high}")
            raise MalformedError("deposit", got, "a high above zero that is not below low")
        return low, high


def atomic(value: str | int, decimals: int, field: str) -> int:
    """A decimal string in the token's unit, or an integer, as atomic units; raises MalformedError."""
    # A bool is an int to Python, and a float is never money.
    if isinstance(value, bool) or not isinstance(value, str | int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MalformedError(field, value, 'a decimal string in the token\'s unit ("0.01") or atomic units')
    if isinstance(value, str):
        try:
            return parse_price(f"{value} X", decimals, field).amount
        except MalformedError:
            allowed = f"a decimal number of at most {decimals} digits after the point"
            raise MalformedError(field, value, allowed) from None
    if not 0 <= value <= MAX_AMOUNT:
        raise MalformedError(field, value, "from 0 to 2**128 - 1")
    return value


def _limit(value: AmountLike, decimals: int, field: str) -> int:
    return MAX_AMOUNT if value is None else atomic(value, decimals, field)
