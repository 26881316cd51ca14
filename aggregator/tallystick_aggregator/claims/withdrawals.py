"""Accounts that withdraw: when their claims are due, and when it is time for an alarm (I9). Pure: no clock, no chain.

A claim costs the operator gas, and a withdrawal costs its payer next to nothing and can be cancelled. So a withdrawal
is answered at once only if it could reach what was charged: if the account would not hold that any more afterwards.
(What is charged once the withdrawal is known never adds to this, I2.) If it could not, the ordinary settlement claims.
An account that makes the operator pay again and again is answered ever more slowly, but always in good time before the
safety margin; and inside the margin, when nothing more can be charged, whatever is left is claimed in any case.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from tallystick_aggregator.ledger.state import Account

LANDING_S: Final = 300.0
"""For so long a claim may be on its way; later it is told as one that does not land."""
PAUSE_S: Final = 60.0
"""Between two claims of one account that withdraws; doubled each time ..."""
PAUSE_S_MAX: Final = 86_400.0
"""... up to this, and forgotten after as long without any."""
URGENT_PAUSE_S: Final = 30.0
"""The same inside the margin."""
PACES_MAX: Final = 100_000


class Late(NamedTuple):
    """An account whose charges are not claimed yet, so short of its withdrawal's end."""

    account: Account
    left_s: float


class Look(NamedTuple):
    """What a look at all withdrawals says: accounts to claim now, those that became late, and those at risk for which a
    claim was due.
    """

    due: frozenset[bytes]
    newly_late: tuple[Late, ...]
    at_risk: frozenset[bytes]


@dataclass(slots=True)
class _Withdrawal:
    finalizes_at: int
    due_since: float = 0.0
    """Since when a claim is due and not in the ledger's mirror; 0: none is."""
    tried_at: float = 0.0
    late: bool = False


class _Pace(NamedTuple):
    claimed_at: float
    pause_s: float


def could_reach(account: Account) -> bool:
    """Whether the account would no longer hold what was charged and not claimed, once its withdrawal went through.

    In the ledger's terms: whether I2 has no slack left. `funds` less `claimed` is what the escrow holds.
    """
    return account.exposure > 0 and account.funds - account.withdrawing - account.refunding < account.committed


class Withdrawals:
    """Follows one escrow's withdrawals. `margin_s`: so long before its end an account is not charged any more."""

    def __init__(self, margin_s: float) -> None:
        self._margin_s = margin_s
        self._pending: dict[bytes, _Withdrawal] = {}
        self._paces: OrderedDict[bytes, _Pace] = OrderedDict()

    @property
    def late(self) -> int:
        """How many accounts are late."""
        return sum(withdrawal.late for withdrawal in self._pending.values())

    def begin(self, accounts: Iterable[Account]) -> None:
        """Follow those of these accounts that withdraw."""
        for account in accounts:
            if account.withdraw_finalizes_at:
                self._pending.setdefault(account.id, _Withdrawal(account.withdraw_finalizes_at))

    def look(self, account_of: Callable[[bytes], Account], now: float) -> Look:
        """Go through all that are followed; those that have ended are let go. `now` in seconds since the epoch."""
        due: set[bytes] = set()
        at_risk: set[bytes] = set()
        newly_late: list[Late] = []
        for account_id in list(self._pending):
            account = account_of(account_id)
            if not account.withdraw_finalizes_at:
                del self._pending[account_id]
                continue
            if self._pending[account_id].finalizes_at != account.withdraw_finalizes_at:  # another one took its place
                self._pending[account_id] = _Withdrawal(account.withdraw_finalizes_at)
            withdrawal = self._pending[account_id]
            if account.exposure <= 0:
                withdrawal.due_since, withdrawal.late = 0.0, False
                continue
            if self._is_due(account, withdrawal, now):
                due.add(account_id)
                withdrawal.due_since = withdrawal.due_since or now
            if withdrawal.due_since and could_reach(account):
                at_risk.add(account_id)
            was_late, withdrawal.late = withdrawal.late, self._is_late(account, withdrawal, now)
            if withdrawal.late and not was_late:
                newly_late.append(Late(account, account.withdraw_finalizes_at - now))
        return Look(frozenset(due), tuple(newly_late), frozenset(at_risk))

    def tried(self, account_ids: Iterable[bytes], now: float) -> None:
        """A settlement of these accounts went through, whether or not there was anything to claim."""
        for account_id in account_ids:
            if account_id in self._pending:
                self._pending[account_id].tried_at = now

    def claimed(self, account_ids: Iterable[bytes], now: float) -> None:
        """A claim of these accounts was sent because they withdraw."""
        for account_id in account_ids:
            pace = self._paces.pop(account_id, _Pace(0.0, 0.0))
            is_recent = now - pace.claimed_at < PAUSE_S_MAX
            pause_s = min(2 * pace.pause_s, PAUSE_S_MAX) if is_recent and pace.pause_s else PAUSE_S
            self._paces[account_id] = _Pace(now, pause_s)
        while len(self._paces) > PACES_MAX:
            self._paces.popitem(last=False)

    def _is_due(self, account: Account, withdrawal: _Withdrawal, now: float) -> bool:
        if now - withdrawal.tried_at < URGENT_PAUSE_S:
            return False
        left_s, margin_s = account.withdraw_finalizes_at - now, self._margin_of(account)
        if left_s <= margin_s:
            return True
        if not could_reach(account):
            return False
        pace = self._paces.get(account.id)
        return left_s <= margin_s + LANDING_S or pace is None or now - pace.claimed_at >= pace.pause_s

    def _is_late(self, account: Account, withdrawal: _Withdrawal, now: float) -> bool:
        left_s, margin_s = account.withdraw_finalizes_at - now, self._margin_of(account)
        if not could_reach(account):  # as far as is known: nobody is to be told of it too late
            return left_s <= margin_s / 2
        is_on_its_way_for_long = bool(withdrawal.due_since) and now - withdrawal.due_since >= LANDING_S
        return left_s <= margin_s or is_on_its_way_for_long

    def _margin_of(self, account: Account) -> float:
        """The safety margin; of a short delay at most half, so that a claim has time to land before an alarm."""
        return min(self._margin_s, account.config.withdraw_delay_s / 2)
