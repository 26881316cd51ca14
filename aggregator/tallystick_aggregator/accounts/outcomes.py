"""What becomes of a call: the chain or the store cannot be had, there are too many, its transaction is under way.

The outbox knows each transaction by a reference that follows from what it does: a token's authorization, a refund. A
call that comes again finds it there and learns what became of it, after a restart too (I8). One whose nonce was used by
another transaction (SUPERSEDED) never happened: `Chain.send` sends it anew under the same reference.
"""

from collections.abc import Awaitable
from typing import Final, TypeVar

from tallystick_aggregator.chain.port import Chain, ChainUnavailableError
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.store.port import (
    OutboundTransaction,
    Outbox,
    StoreUnavailableError,
    StoreUncertainError,
    TransactionKind,
    TransactionStatus,
)

Answer = TypeVar("Answer")

ATTEMPTS_MAX: Final = 16
"""Transactions of one call at most, where one that reverted may be sent again, as it can happen once only."""
NEVER_HAPPENED: Final = frozenset({TransactionStatus.SUPERSEDED, TransactionStatus.REVERTED})


async def unless_unavailable(answer: Awaitable[Answer]) -> Answer | Refusal:
    """Await an answer; where the store or the chain cannot be had, refuse instead. Nothing has changed then.

    Where the store cannot tell whether something has changed, there is no answer: StoreUncertainError goes on.
    """
    try:
        return await answer
    except StoreUncertainError:
        raise
    except StoreUnavailableError as error:
        return refuse(Why.STORE_UNAVAILABLE, error=error)
    except ChainUnavailableError as error:
        return refuse(Why.CHAIN_UNAVAILABLE, error=error)


def overloaded(what: str, most: int) -> Refusal:
    """Refuse what would be one too many of something."""
    return refuse(Why.TOO_MANY_AT_ONCE, f"more than {most}", f"at most {most}", field=what, what=what)


async def find_sent(outbox: Outbox, kind: TransactionKind, reference: bytes) -> OutboundTransaction | None:
    """Return the transaction under this reference, unless it was never sent or never happened."""
    found = await outbox.by_reference(kind, reference)
    return None if found is not None and found.status is TransactionStatus.SUPERSEDED else found


async def newest_sent(
    outbox: Outbox, kind: TransactionKind, reference: bytes
) -> tuple[OutboundTransaction | None, bytes]:
    """Return the newest transaction of a call, and the reference that the next one would go under.

    That is the newest one's own after ATTEMPTS_MAX that reverted.
    """
    newest, under = None, reference
    for attempt in range(ATTEMPTS_MAX):
        under = reference + bytes([attempt]) if attempt else reference
        found = await outbox.by_reference(kind, under)
        if found is None:
            break
        newest = found
        if found.status is not TransactionStatus.REVERTED:
            break
    return newest, under


async def wait_until_mined(
    chain: Chain, outbound: OutboundTransaction, what: str, timeout_s: float, *, final: bool = False
) -> OutboundTransaction | Refusal:
    """Wait until it is in a block (or final), and say so if it is not, or reverted: unknown is never failed (I8)."""
    try:
        outbound = await chain.wait(outbound, final=final, timeout_s=timeout_s)
    except TimeoutError:
        return under_way(outbound, what)
    if outbound.status is TransactionStatus.REVERTED:
        return reverted(outbound, what)
    if outbound.status in (TransactionStatus.PENDING, TransactionStatus.SUPERSEDED):
        return under_way(outbound, what)
    return outbound


def under_way(outbound: OutboundTransaction, what: str) -> Refusal:
    """Say that it was sent and is not in a block yet; names the newest of its forms, which is the likeliest to be."""
    newest = outbound.attempts[-1].transaction_hash if outbound.attempts else b""
    return refuse(Why.TRANSACTION_PENDING, transaction=newest, what=what)


def reverted(outbound: OutboundTransaction, what: str) -> Refusal:
    """Say that it is in a final block, and failed there."""
    return refuse(Why.TRANSACTION_REVERTED, transaction=outbound.transaction_hash, what=what)


async def named_otherwise(outbox: Outbox, payment_id: bytes, reference: bytes) -> Refusal | None:
    """Refuse a payment whose identifier was sent for another one; None if it is new, or its own."""
    if not payment_id:
        return None
    known = await outbox.by_payment_id(payment_id)
    return None if known is None or known.reference == reference else refuse(Why.PAYMENT_IDENTIFIER_TAKEN)
