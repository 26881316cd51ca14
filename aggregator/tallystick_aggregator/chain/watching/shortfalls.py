"""Tells of accounts on which more is committed than the chain has of them (I11), until that is over."""

import logging
from collections.abc import Iterable

from tallystick.hexadecimal import to_hex
from tallystick_aggregator.ledger.invariants import short_accounts
from tallystick_aggregator.ledger.state import Ledger

_alarm = logging.getLogger("tallystick.alarm")


class Shortfalls:
    """What is short now, as of the last look."""

    def __init__(self) -> None:
        self._short: dict[bytes, tuple[int, int]] = {}

    def look(self, ledger: Ledger, changed: Iterable[bytes]) -> None:
        """Look at the accounts that were read, and at those that were short before."""
        now = short_accounts(ledger, {*changed, *self._short})
        for account_id, (committed, funds) in now.items():
            if self._short.get(account_id) != (committed, funds):
                _alarm.critical(
                    "account short: %s: %d is committed, the chain has %d: no charge and no capture until that is over",
                    to_hex(account_id), committed, funds,
                )  # fmt: skip
        for account_id in self._short.keys() - now.keys():
            _alarm.warning("account no longer short: %s", to_hex(account_id))
        self._short = now

    def problem(self) -> str:
        """In one sentence, which accounts are short; empty if none is."""
        if not self._short:
            return ""
        account_id, (committed, funds) = next(iter(self._short.items()))
        more = f", and {len(self._short) - 1} more" if len(self._short) > 1 else ""
        return f"account short: {to_hex(account_id)}: {committed} committed, {funds} on chain{more}"
