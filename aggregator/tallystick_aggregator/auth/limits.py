"""How often something expensive may be asked for, and what payers may make the operator spend on gas.

Whoever asks for a gasless deposit or refund, or pays by `exact`, makes the operator send a transaction. There is an
hourly budget for each kind, and a share a payer. All of it is counted by `chain.gas` from the outbox. Claims are
counted there too, and nothing here ever stops one: they pay sellers.

Strangers come by the thousand: those who have never paid anybody may use STRANGERS_PERCENT of a budget at most, so that
what is left tops up the accounts that the operator lives on.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated, Final

from msgspec import Meta

from tallystick_aggregator.chain.port import Chain
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.ledger.state import Account
from tallystick_aggregator.store.port import TransactionKind


class RateLimit:
    """A token bucket: at most `burst` at once and `per_s` a second in the long run. One event loop only."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self.burst = burst
        self._per_s = per_s
        self._clock = clock
        self._left = float(burst)
        self._at = clock()

    def give_back(self) -> None:
        """Undo a `take`: what was allowed was not done."""
        self._left = min(self.burst, self._left + 1)

    def take(self) -> bool:
        """Whether one more may go now; takes it if so."""
        now = self._clock()
        self._left = min(self.burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


RATES_MAX: Final = 10_000


class RateLimits:
    """A RateLimit for each of many; of more than RATES_MAX who was asked about longest ago is forgotten first."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._rates: OrderedDict[bytes, RateLimit] = OrderedDict()

    def of(self, key: bytes) -> RateLimit:
        """The limit of one of them."""
        rate = self._rates.setdefault(key, RateLimit(self._per_s, self._burst))
        self._rates.move_to_end(key)
        if len(self._rates) > RATES_MAX:
            self._rates.popitem(last=False)
        return rate


STRANGERS_PERCENT: Final = 75
GAS_TYPICAL: Final = {TransactionKind.DEPOSIT: 150_000, TransactionKind.REFUND: 130_000, TransactionKind.EXACT: 120_000}
"""What a transaction counts for until it is in the outbox: its gas limit is not known before."""
SOON_S: Final = 10
"""When to ask again where what is being sent right now takes the rest."""
_NAMES: Final = {
    TransactionKind.DEPOSIT: "deposit",
    TransactionKind.REFUND: "refund",
    TransactionKind.EXACT: "exact payment",
}

_alarm = logging.getLogger("tallystick.alarm")


_GAS_MAX: Final = 10**12
_Gas = Annotated[int, Meta(ge=0, le=_GAS_MAX)]
_PerPayer = Annotated[int, Meta(ge=0, le=1_000_000)]


@dataclass(frozen=True, slots=True)
class GasLimits:
    """What the operator pays for on each network in any hour; 0: no limit.

    Gas, not money: an operator multiplies by its network's gas price. A first deposit takes some 110,000, a top-up or a
    refund some 90,000, an exact payment some 80,000.
    """

    deposit_gas_per_hour_max: _Gas = 12_000_000
    refund_gas_per_hour_max: _Gas = 6_000_000
    exact_gas_per_hour_max: _Gas = 100_000_000
    deposits_per_payer_hour_max: _PerPayer = 12
    refunds_per_payer_hour_max: _PerPayer = 6
    exacts_per_payer_hour_max: _PerPayer = 0
    refunds_unpaid: bool = False
    """Whether accounts that have never paid anybody are refunded too: the payer can withdraw on chain instead."""

    def gas_max(self, kind: TransactionKind) -> int:
        """Return the hourly budget of a kind; 0 for none."""
        return int(getattr(self, f"{kind.name.lower()}_gas_per_hour_max", 0))

    def per_payer_max(self, kind: TransactionKind) -> int:
        """Return how many of a kind one payer's address may bring about in an hour; 0: any number."""
        return int(getattr(self, f"{kind.name.lower()}s_per_payer_hour_max", 0))

    def problem(self) -> str:
        """Say which budget has no room for one transaction of a payer that has never paid: none would ever begin."""
        for kind, typical in GAS_TYPICAL.items():
            value, least = self.gas_max(kind), -(-typical * 100 // STRANGERS_PERCENT)
            if 0 < value < least:
                name = f"{kind.name.lower()}_gas_per_hour_max"
                return f"{name}: got {value}, allowed {least} to {_GAS_MAX}, or 0 for no limit"
        return ""


NO_LIMITS: Final = GasLimits(0, 0, 0, 0, 0, 0, refunds_unpaid=True)


@dataclass(slots=True)
class GasBudget:
    """The budgets of all networks. One event loop only."""

    limits: GasLimits = NO_LIMITS
    _held: Counter[tuple[str, TransactionKind]] = field(default_factory=Counter[tuple[str, TransactionKind]])
    _held_by: Counter[tuple[str, TransactionKind, bytes]] = field(
        default_factory=Counter[tuple[str, TransactionKind, bytes]]
    )
    _used_up: dict[tuple[str, TransactionKind], Chain] = field(default_factory=dict[tuple[str, TransactionKind], Chain])
    """What the alarm was raised for."""

    @contextmanager
    def hold(self, chain: Chain, kind: TransactionKind, payer: bytes, *, has_paid: bool) -> Generator[Refusal | None]:
        """Keep a place in the budget while a transaction is sent. Yields the refusal where there is none."""
        refusal = self.refusal(chain, kind, payer, has_paid=has_paid)
        if refusal is not None:
            yield refusal
            return
        key, by = (chain.network, kind), (chain.network, kind, payer)
        self._held[key] += 1
        self._held_by[by] += 1
        try:
            yield None
        finally:
            self._held[key] -= 1
            self._held_by[by] -= 1
            if not self._held_by[by]:
                del self._held_by[by]

    def refusal(self, chain: Chain, kind: TransactionKind, payer: bytes, *, has_paid: bool) -> Refusal | None:
        """Refuse what is beyond the payer's share or the budget; None if one more may be sent now."""
        return self._payers_share(chain, kind, payer) or self._budget(chain, kind, has_paid=has_paid)

    def problems(self) -> Sequence[str]:
        """Say which budgets are used up, for health and people."""
        found: list[str] = []
        for key, chain in list(self._used_up.items()):
            problem = self._problem(chain, key[1])
            if problem:
                found.append(problem)
            else:
                del self._used_up[key]
        return found

    def _payers_share(self, chain: Chain, kind: TransactionKind, payer: bytes) -> Refusal | None:
        most = self.limits.per_payer_max(kind)
        sent, held = chain.gas.count(kind, payer), self._held_by[chain.network, kind, payer]
        if not most or sent + held < most:
            return None
        wait_s = chain.gas.wait_s(kind, 1, payer) if sent >= most else SOON_S
        return refuse(
            Why.PAYERS_GAS_SPENT,
            f"{sent + held + 1} in an hour",
            f"at most {most} for each payer",
            field=f"{kind.name.lower()}s",
            retry_after_s=wait_s,
            what=_NAMES[kind],
            wait_s=wait_s,
        )

    def _budget(self, chain: Chain, kind: TransactionKind, *, has_paid: bool) -> Refusal | None:
        most = self.limits.gas_max(kind)
        if not most:
            return None
        spent, each = chain.gas.spent(kind), GAS_TYPICAL[kind]
        needed = each * (self._held[chain.network, kind] + 1)
        allowed = most if has_paid else most * STRANGERS_PERCENT // 100
        if spent + needed <= allowed:
            return None
        over = spent + each - allowed
        if over > 0:
            self._alarm(chain, kind)
        wait_s = chain.gas.wait_s(kind, over) if over > 0 else SOON_S
        return refuse(
            Why.GAS_SPENT,
            f"{spent + needed} in an hour",
            f"at most {allowed}" + ("" if has_paid else " for accounts that have not paid yet"),
            field=f"{kind.name.lower()}_gas",
            retry_after_s=wait_s,
            what=_NAMES[kind],
            network=chain.network,
            wait_s=wait_s,
        )

    def _alarm(self, chain: Chain, kind: TransactionKind) -> None:
        """Raise the alarm once for each time that a budget is used up."""
        self.problems()
        if (chain.network, kind) not in self._used_up:
            self._used_up[chain.network, kind] = chain
            _alarm.error("%s", self._problem(chain, kind))

    def _problem(self, chain: Chain, kind: TransactionKind) -> str:
        """What is used up; empty where there is room, if only for those that have paid."""
        spent, most = chain.gas.spent(kind), self.limits.gas_max(kind)
        for_strangers = most if kind is TransactionKind.EXACT else most * STRANGERS_PERCENT // 100
        if not most or spent + GAS_TYPICAL[kind] <= for_strangers:
            return ""
        rest = "" if for_strangers == most else f", {for_strangers} of it for accounts that have not paid yet"
        return f"{chain.network}: the hour's gas for {_NAMES[kind]}s is used up: {spent} of {most}{rest}"


def has_paid(account: Account | None) -> bool:
    """Return whether anything was ever charged on an account; what is only reserved does not count."""
    return account is not None and account.committed > account.reserved
