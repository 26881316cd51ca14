"""When an account is read again although no event tells of it: a withdrawal is seen whatever the events said (R7)."""

from heapq import heappop, heappush
from typing import Final

from tallystick_aggregator.ledger.state import Account, Ledger

PARTS_OF_DELAY: Final = 8
"""An account is read again after this part of its withdraw delay, counted from the last time that its turn came."""
REREADS_PER_LOOK: Final = 1_000
"""Accounts at most in a look: what fits into one call at each block."""


class Rereads:
    """A plan by account. Turns are spread over the interval, so that a look has few of them."""

    def __init__(self) -> None:
        self._turns: list[tuple[float, bytes]] = []
        self._planned: set[bytes] = set()

    def plan(self, account: Account, now: float) -> None:
        """Plan the account's first turn; does nothing where it is planned."""
        if account.id not in self._planned:
            self._planned.add(account.id)
            share = int.from_bytes(account.id[:4], "big") / 2**32
            heappush(self._turns, (now + share * _interval_s(account), account.id))

    def due(self, ledger: Ledger, now: float) -> set[bytes]:
        """Return the accounts whose turn it is, and plan their next. Those without a channel need no reading."""
        found: set[bytes] = set()
        while self._turns and self._turns[0][0] <= now and len(found) < REREADS_PER_LOOK:
            _, account_id = heappop(self._turns)
            account = ledger.known_account(account_id)
            if account.channels:
                found.add(account_id)
            heappush(self._turns, (now + _interval_s(account), account_id))
        return found


def _interval_s(account: Account) -> float:
    return account.config.withdraw_delay_s / PARTS_OF_DELAY
