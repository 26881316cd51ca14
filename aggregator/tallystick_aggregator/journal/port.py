"""What the aggregator asks of its store. `memory` is the twin for tests and simulation, `sqlite` the real one.

Two promises hold for every method that writes: when it returns, what was written is on disk (I3); when it raises
`StoreUnavailable`, nothing was written that anyone may rely on, and the caller has to refuse (fail closed).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from tallystick_aggregator.ledger.events import Event
from tallystick_aggregator.ledger.state import Ledger, Payment


class StoreUnavailable(Exception):
    """The store cannot take this now: disk full, I/O error, locked, closed. Retryable for the caller's caller."""


class StoreLocked(StoreUnavailable):
    """Another process has the store."""


class Journal(Protocol):
    """The ledger's history. Only one process has it open."""

    async def load(self) -> Ledger:
        """The ledger as of the last commit: the newest checkpoint and the events after it, replayed."""
        ...

    async def append(self, events: Sequence[Event]) -> None:
        """Make the events durable, all or none, in one transaction with one fsync."""
        ...

    async def recall(self, payments: Sequence[tuple[bytes, bytes]]) -> Mapping[bytes, Payment]:
        """Look up (channel id, payment id) pairs that are no longer in memory; keyed by `state.payment_key`."""
        ...

    async def close(self) -> None:
        """Release the store; idempotent."""
        ...


class TransactionKind(IntEnum):
    """What a transaction is for."""

    CLAIM = 1
    DEPOSIT = 2
    REFUND = 3
    EXACT = 4


class TransactionStatus(IntEnum):
    """What is known of a transaction. Unknown is never failed: without a receipt it stays PENDING (I8)."""

    PENDING = 1
    MINED = 2
    FINAL = 3
    REVERTED = 4
    """Mined in a final block, and reverted."""
    SUPERSEDED = 5
    """Its nonce was used by another transaction in a final block."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed form of a transaction; a replacement with a higher fee is a further attempt under the same nonce."""

    transaction_hash: bytes
    raw: bytes
    max_fee_per_gas_wei: int
    max_priority_fee_per_gas_wei: int
    created_at: int


@dataclass(frozen=True, slots=True)
class Payout:
    """What one receiver gets in a claim transaction."""

    receiver: bytes
    token: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A transaction in the outbox. Its signed bytes and nonce are journaled before it is sent (I8).

    `reference` (at most 64 bytes) is unique within its kind and makes the sending idempotent: a refund id, the token
    nonce of an authorization with its token and payer, a random id for a claim. `payouts` and `rows` are a claim's;
    `memo` holds what the kind needs to be reported again (opaque here).
    """

    id: int
    network: str
    kind: TransactionKind
    reference: bytes
    sender: bytes
    nonce: int
    to: bytes
    data: bytes
    gas_limit: int
    attempts: tuple[Attempt, ...]
    status: TransactionStatus
    created_at: int
    block_number: int = 0
    block_hash: bytes = b""
    transaction_hash: bytes = b""
    """Of the attempt that was mined."""
    gas_used: int = 0
    effective_gas_price_wei: int = 0
    rows: int = 0
    payouts: tuple[Payout, ...] = ()
    memo: bytes = b""


class Outbox(Protocol):
    """The transactions that were or will be sent."""

    async def add(self, outgoing: Outgoing) -> Outgoing:
        """Store a new one with its first attempt; returns it with its id. If (kind, reference) is there already,
        returns the one that is there, unchanged."""
        ...

    async def update(self, outgoing: Outgoing) -> None:
        """Replace the stored one by this (same id)."""
        ...

    async def by_reference(self, kind: TransactionKind, reference: bytes) -> Outgoing | None:
        """The one with this reference, if any."""
        ...

    async def open(self, network: str) -> Sequence[Outgoing]:
        """All that are PENDING or MINED, by nonce."""
        ...

    async def claims(self, receivers: Sequence[bytes], before_id: int, limit: int) -> Sequence[Outgoing]:
        """Claims that pay any of the receivers, newest first, with an id below `before_id` (0: all)."""
        ...

    async def next_nonce(self, network: str, sender: bytes) -> int:
        """One above the highest nonce stored for this sender; 0 if none is."""
        ...
