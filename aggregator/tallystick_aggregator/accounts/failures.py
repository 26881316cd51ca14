"""Refusals that speak of the aggregator's own state or of a transaction's fate; the caller may come again."""

from collections.abc import Awaitable
from typing import TypeVar

from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.store.port import StoreUnavailableError, StoreUncertainError

Answer = TypeVar("Answer")


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


def transaction_pending(what: str) -> Refusal:
    """Say that a transaction was sent and not seen in a block yet: unknown is never failed (I8)."""
    return refuse(Why.TRANSACTION_PENDING, what=what)


def transaction_failed(what: str, transaction_hash: bytes) -> Refusal:
    """Say that a transaction was mined and reverted."""
    return refuse(Why.TRANSACTION_REVERTED, what=what, transaction=transaction_hash.hex())
