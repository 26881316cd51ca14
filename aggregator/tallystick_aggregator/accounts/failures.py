"""Refusals that speak of the aggregator's own state or of a transaction's fate; the caller may come again."""

from collections.abc import Awaitable
from typing import TypeVar

from tallystick.reasons import Reason
from tallystick_aggregator.chain.port import ChainUnavailableError
from tallystick_aggregator.ledger.answers import Refusal
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
        return Refusal(Reason.STORE_UNAVAILABLE, f"The store cannot take this now: {error}. Nothing was changed.")
    except ChainUnavailableError as error:
        return Refusal(Reason.CHAIN_UNAVAILABLE, f"The chain cannot be reached now: {error}.")


def overloaded(what: str, most: int) -> Refusal:
    """Refuse what would be one too many of something."""
    return Refusal(
        Reason.OVERLOADED,
        f"Too many {what} at once; wait a moment and send it again.",
        what,
        f"more than {most}",
        f"at most {most}",
    )


def transaction_pending(what: str) -> Refusal:
    """Say that a transaction was sent and not seen in a block yet: unknown is never failed (I8)."""
    return Refusal(
        Reason.TRANSACTION_PENDING,
        f"The {what} was sent and is not in a block yet; send the same call again to learn what became of it.",
    )


def transaction_failed(what: str, transaction_hash: bytes) -> Refusal:
    """Say that a transaction was mined and reverted."""
    return Refusal(
        Reason.TRANSACTION_FAILED, f"The {what} was mined and reverted (transaction 0x{transaction_hash.hex()})."
    )
