"""Lets go of payments that the journal's tables hold, so that memory holds the recent ones only.

A payment leaves memory only when it can be recalled from the journal, and only if its time is before
`Ledger.payments_since_ms`. Whoever decides about an older id recalls it first: therefore neither function may run
between such a recall (or the look that found it unnecessary) and the decision.
"""

from collections.abc import Iterable

from tallystick_aggregator.ledger.state import Ledger


def answer_from(ledger: Ledger, since_ms: int) -> None:
    """From now on memory answers only for payment ids whose time (ms since the epoch) is at or after `since_ms`."""
    ledger.payments_since_ms = max(ledger.payments_since_ms, since_ms)


def drop_payments(ledger: Ledger, keys: Iterable[bytes]) -> None:
    """Drop payments by key (`state.payment_key`), all of them older than `payments_since_ms` and final."""
    payments = ledger.payments
    for key in keys:
        payments.pop(key, None)
