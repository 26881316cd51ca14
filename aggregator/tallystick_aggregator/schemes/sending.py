"""Lands a transaction once, however often it is asked for.

The outbox knows each transaction by a reference that follows from what it does: a token's authorization, a refund. A
call that comes again finds it there and learns what became of it, after a restart too (I8).

A transaction whose nonce was used by another one (SUPERSEDED) never happened. It is sent anew under a further
reference; nothing can happen twice by that, because deposits, transfers and refunds carry a nonce of their own that
the contract takes once.
"""

from collections.abc import Callable
from typing import Final

from tallystick_aggregator.chain.port import Call, Chain
from tallystick_aggregator.journal.port import Outbox, Outgoing, TransactionKind, TransactionStatus
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.failures import transaction_failed, transaction_pending

ATTEMPTS_MAX: Final = 16
"""References of one transaction at most."""

NEVER_HAPPENED: Final = frozenset({TransactionStatus.SUPERSEDED})


async def find_sent(outbox: Outbox, kind: TransactionKind, reference: bytes) -> Outgoing | None:
    """Return the newest transaction under this reference, if one was ever journaled."""
    newest = None
    for attempt in range(ATTEMPTS_MAX):
        found = await outbox.by_reference(kind, _reference(reference, attempt))
        if found is None:
            break
        newest = found
    return newest


async def send_once(
    chain: Chain,
    outbox: Outbox,
    kind: TransactionKind,
    reference: bytes,
    make_call: Callable[[], Call],
    *,
    memo: bytes = b"",
    again_after: frozenset[TransactionStatus] = NEVER_HAPPENED,
) -> Outgoing:
    """Send it unless it was; return what is in the outbox. `reference` has at most 63 bytes.

    It is sent anew after an outcome in `again_after`. Raises Reverted if it would revert now (nothing was sent then),
    and ChainUnavailable.
    """
    newest = None
    for attempt in range(ATTEMPTS_MAX):
        newest = await outbox.by_reference(kind, _reference(reference, attempt))
        if newest is None:
            return await chain.send(kind, _reference(reference, attempt), make_call(), memo=memo)
        if newest.status not in again_after:
            return newest
    assert newest is not None
    return newest


async def wait_until_mined(
    chain: Chain, outgoing: Outgoing, what: str, timeout_s: float, *, final: bool = False
) -> Outgoing | Refusal:
    """Wait until it is in a block (or final), and say so if it is not, or reverted."""
    try:
        outgoing = await chain.wait(outgoing, final=final, timeout_s=timeout_s)
    except TimeoutError:
        return transaction_pending(what)
    if outgoing.status is TransactionStatus.REVERTED:
        return transaction_failed(what, outgoing.transaction_hash)
    if outgoing.status in (TransactionStatus.PENDING, TransactionStatus.SUPERSEDED):
        return transaction_pending(what)
    return outgoing


def _reference(reference: bytes, attempt: int) -> bytes:
    return reference + bytes([attempt]) if attempt else reference
