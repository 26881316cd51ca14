"""What the aggregator asks of its store. `memory` is the twin for tests and simulation, `sqlite` the real one.

A `Store` holds a `Journal`, an `Outbox` and `Listings`; module `opening` opens one by its URL. Sellers' tokens are not
in it: they change while the store is locked for the server alone (`auth.credentials`).

Two promises hold for every method that writes: when it returns, what was written is on disk (I3); when it raises
`StoreUnavailableError`, nothing was written that anyone may rely on, and the caller has to refuse (fail closed).

StoreError                   everything below
├── StoreUnavailableError    the store cannot take this now; the same call may work later
│   ├── StoreLockedError     another process has the store
│   └── StoreUncertainError  ... and nobody can tell before the next start whether it was written: answer nothing
└── StoreUnusableError       this file cannot serve: no database, somebody else's, a newer version's
    └── StoreDamagedError    it holds what cannot have been written by us
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from tallystick_aggregator.ledger.events import Event
from tallystick_aggregator.ledger.payments import PackedPayment, PaymentKey
from tallystick_aggregator.ledger.state import Ledger


class StoreError(Exception):
    """The root of the store's errors."""


class StoreUnavailableError(StoreError):
    """The store cannot take this now: disk full, I/O error, locked, closed. Retryable for the caller's caller."""


class StoreLockedError(StoreUnavailableError):
    """Another process has the store."""


class StoreUncertainError(StoreUnavailableError):
    """The disk failed in the middle, and then would not tell what it has: the write may be there after a restart.

    Nothing of it is in memory, and it is undone before the next write. Whoever asked must not be told that it was
    refused; no answer is the right one, and a retry with the same payment id finds out.
    """


class StoreUnusableError(StoreError):
    """This file cannot serve as the store, now or later: one sentence says why. For the start only."""


class StoreDamagedError(StoreUnusableError):
    """The store holds something that cannot have been written by this program."""


class Journal(Protocol):
    """The ledger's history. Only one process has it open, and in it one writer: its appends follow one another."""

    @property
    def epoch(self) -> int:
        """How many times the store was opened, this time included (threat 38)."""
        ...

    @property
    def backlog(self) -> int:
        """Events that no checkpoint covers yet: what the next start would have to replay."""
        ...

    async def load(self) -> Ledger:
        """The ledger as of the last commit: the newest checkpoint and the events after it, replayed.

        Raises StoreDamagedError if what is there cannot be read.
        """
        ...

    async def append(self, events: Sequence[Event]) -> None:
        """Make the events durable, all or none, in one transaction with one fsync.

        Each append that returned is followed by the `Draft.adopt` of its draft, on the ledger that `load` gave, before
        the next append. Not to be cancelled: the outcome would be unknown.
        """
        ...

    async def recall(self, payments: Sequence[tuple[bytes, bytes]]) -> Mapping[PaymentKey, PackedPayment]:
        """Look up (channel id, payment id) pairs that are no longer in memory; keyed by `state.payment_key`.

        Ids from before `Ledger.payments_forgotten_ms` may or may not be found. Raises StoreUnavailableError.
        """
        ...

    async def checkpoint(self, now_ms: int) -> None:
        """Write down the state that the events so far led to, and drop those events and the forgotten payments.

        To be called from time to time, by `backlog` and by age; never twice at once. Appends go on meanwhile. If it
        raises StoreUnavailableError, nothing is lost; call it again. `now_ms` bounds the age of payments in memory.
        """
        ...

    def trim(self) -> None:
        """Take from the ledger's memory some of the payments that checkpoints have written down; below a millisecond.

        Only the ledger's writer may call it, and only between two batches: never after it has looked which payments
        it must recall, and before it has decided about them.
        """
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
    NONCE_FILLER = 5
    """Nothing, to ourselves: it fills a gap in the nonces, so that those after it can be mined."""
    COLLECT = 6
    """Pays out what a failed transfer has left owed to a seller or payer."""


class TransactionStatus(IntEnum):
    """What is known of a transaction. Unknown is never failed: without a receipt it stays PENDING (I8)."""

    PENDING = 1
    MINED = 2
    """In a block, and it did its work. One that reverted stays PENDING until that is final."""
    FINAL = 3
    """In a final block, and it did its work."""
    REVERTED = 4
    """Mined in a final block, and reverted."""
    SUPERSEDED = 5
    """Its nonce was used by another transaction in a final block."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed form of a transaction; a replacement with a higher fee is a further attempt under the same nonce."""

    transaction_hash: bytes
    raw: bytes = field(repr=False)
    max_fee_per_gas_wei: int
    max_priority_fee_per_gas_wei: int
    created_at: int


@dataclass(frozen=True, slots=True)
class Payout:
    """What somebody gets in a transaction, in atomic units of the token."""

    receiver: bytes
    token: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class OutboundTransaction:
    """A transaction in the outbox. Its signed bytes and nonce are journaled before it is sent (I8).

    `reference` (at most 64 bytes) is unique within its kind and makes the sending idempotent: a refund id, the token
    nonce of an authorization with its token and payer, a random id for a claim. `rows` are a claim's. `payouts` are
    what a claim is to pay, and once it is in a block what a claim, a deposit (to the escrow) or a refund (to the payer)
    has moved in fact, 0 included. `memo` holds what the kind needs to be reported again (opaque here).
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
    payer: bytes = b""
    """Whose signature brought it about; empty also in those from before it was written down."""
    payment_id: bytes = b""
    """What its payer named it by, as 32 bytes; unique where there is one."""


class Outbox(Protocol):
    """The transactions that were or will be sent."""

    async def add(self, outbound: OutboundTransaction) -> OutboundTransaction:
        """Store a new one with its first attempt; returns it with its id. If (kind, reference) is there already,
        returns the one that is there, unchanged.

        Another one may have the same nonce: after a reorganisation a NONCE_FILLER can take that of one that was mined.
        """
        ...

    async def update(self, outbound: OutboundTransaction) -> None:
        """Replace the stored one by this (same id)."""
        ...

    async def by_reference(self, kind: TransactionKind, reference: bytes) -> OutboundTransaction | None:
        """The one with this reference, if any."""
        ...

    async def by_payment_id(self, payment_id: bytes) -> OutboundTransaction | None:
        """The one that its payer named so, if any."""
        ...

    async def open(self, network: str) -> Sequence[OutboundTransaction]:
        """All that are PENDING or MINED, by nonce."""
        ...

    async def claims(self, receivers: Sequence[bytes], before_id: int, limit: int) -> Sequence[OutboundTransaction]:
        """Claims that pay any of the receivers, newest first, with an id below `before_id` (0: all)."""
        ...

    async def since(self, network: str, created_at: int) -> Sequence[OutboundTransaction]:
        """A network's transactions that were created after this time (seconds since the epoch), in their order."""
        ...

    async def next_nonce(self, network: str, sender: bytes) -> int:
        """One above the highest nonce stored for this sender, whatever became of it; 0 if none is.

        So it never gives a nonce that another transaction of this network and sender has.
        """
        ...


class Listings(Protocol):
    """What sellers have published of what they sell: one text each, opaque here."""

    async def put(self, seller: str, body: bytes) -> None:
        """Store a seller's text instead of the one before; an empty one removes it."""
        ...

    async def all(self) -> Mapping[str, bytes]:
        """All texts, by their sellers' names."""
        ...


class Store(Protocol):
    """Everything durable, open for this process alone."""

    @property
    def journal(self) -> Journal:
        """The ledger's history."""
        ...

    @property
    def outbox(self) -> Outbox:
        """The transactions that were or will be sent."""
        ...

    @property
    def listings(self) -> Listings:
        """What sellers have published."""
        ...

    @property
    def lost_epochs(self) -> int:
        """How many times the store was opened since this copy of it: above 0, a backup was put back (threat 38)."""
        ...

    async def close(self) -> None:
        """Release the store; idempotent. What is asked of it afterwards raises StoreUnavailableError."""
        ...


OpenStore = Callable[[str], Awaitable[Store]]
"""Opens or creates the store with this URL.

Raises StoreLockedError, StoreUnusableError or StoreUnavailableError in one sentence.
"""
