"""What became of a transaction that was asked for once or more.

The outbox knows each transaction by a reference that follows from what it does: a token's authorization, a refund. A
call that comes again finds it there and learns what became of it, after a restart too (I8). One whose nonce was used by
another transaction (SUPERSEDED) never happened: `Chain.send` sends it anew under the same reference.
"""

from tallystick_aggregator.accounts.failures import transaction_failed, transaction_pending
from tallystick_aggregator.chain.port import Chain
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.store.port import OutboundTransaction, Outbox, TransactionKind, TransactionStatus


async def find_sent(outbox: Outbox, kind: TransactionKind, reference: bytes) -> OutboundTransaction | None:
    """Return the transaction under this reference, unless it was never sent or never happened."""
    found = await outbox.by_reference(kind, reference)
    return None if found is not None and found.status is TransactionStatus.SUPERSEDED else found


async def wait_until_mined(
    chain: Chain, outbound: OutboundTransaction, what: str, timeout_s: float, *, final: bool = False
) -> OutboundTransaction | Refusal:
    """Wait until it is in a block (or final), and say so if it is not, or reverted."""
    try:
        outbound = await chain.wait(outbound, final=final, timeout_s=timeout_s)
    except TimeoutError:
        return transaction_pending(what)
    if outbound.status is TransactionStatus.REVERTED:
        return transaction_failed(what, outbound.transaction_hash)
    if outbound.status in (TransactionStatus.PENDING, TransactionStatus.SUPERSEDED):
        return transaction_pending(what)
    return outbound
