"""What passes between a seller and its aggregator, as bytes and integers.

Addresses have 20 bytes, ids and hashes 32, payment ids 16; amounts are integers in the token's atomic units; times are
seconds since the epoch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tallystick.channels import ChannelConfig
from tallystick.spend_keys import SpendProof


@dataclass(frozen=True, slots=True)
class Asset:
    """A token that the aggregator takes; `name` and `version` are the token's own EIP-712 domain."""

    token: bytes
    symbol: str
    decimals: int
    name: str
    version: str
    min_deposit: int


@dataclass(frozen=True, slots=True)
class Kind:
    """One scheme on one network.

    From `escrow` on it is of `deferred`. `extra` is what the aggregator has its offers say of another scheme.
    """

    scheme: str
    network: str
    assets: tuple[Asset, ...]
    escrow: bytes
    escrow_name: str
    escrow_version: str
    operator: bytes
    withdraw_delay_s: int
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers must keep to."""

    charges_per_batch_max: int
    unanswered_batches_max: int
    reservation_s: int
    payment_id_retention_s: int


@dataclass(frozen=True, slots=True)
class Supported:
    """What the aggregator can verify and settle, and what the token that asked is good for."""

    kinds: tuple[Kind, ...]
    limits: Limits
    receivers: frozenset[bytes]
    """Whom the token charges for; empty where the aggregator does not tell."""
    scopes: frozenset[str]
    """What the token is for: "charge", "read", "settle"."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One payment of a channel with the payer's proof (design: decision rule 2).

    `ceiling` and `signature` are the voucher; 0 and empty where none comes along. `amount` is what is charged; for a
    reservation, the most that may be captured.
    """

    channel_id: bytes
    payment_id: bytes
    amount: int
    request_hash: bytes
    ceiling: int = 0
    signature: bytes = field(default=b"", repr=False)
    spend: SpendProof | None = None


@dataclass(frozen=True, slots=True)
class DeferredCharge:
    """A charge with what names its channel, so that the aggregator can open one that it does not know."""

    config: ChannelConfig
    charge: Charge


@dataclass(frozen=True, slots=True)
class OtherPayment:
    """A payment of a scheme that only the aggregator reads: x402's PaymentPayload, as JSON."""

    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Charged:
    """A charge that stands, on the aggregator's disk. `charged` is the channel's charged total right after it.

    `replayed`: this payment id was charged before, and pays for nothing new; only where `resent` is set too, a stream
    that broke had to send the charge again, and the one before may have been itself.
    """

    charged: int
    replayed: bool
    resent: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One handling of one request that an `exact` payment pays for: 16 random bytes, and 32 that stand for the request.

    The payment is this attempt's alone, until it is given back.
    """

    id: bytes = field(repr=False)
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """A payment that can be settled.

    `handle` names the reservation of a `deferred` payment; it is empty where somebody else holds it. `replayed`: this
    payment was charged before and pays for the kept answer only. `reservation_expires_at`: of the reservation, or of
    what an attempt holds.
    """

    payer: bytes
    handle: bytes = field(repr=False)
    reservation_expires_at: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Settled:
    """A payment that was settled: what it moved, the transaction that moved it (`exact`), the channel's charged total
    right after it (`deferred`), and whether it had been settled before.
    """

    payer: bytes
    amount: int
    transaction: bytes
    charged: int
    replayed: bool


class SettlementStatus(Enum):
    """What became of a claim transaction; a failed one's rows are claimed by a later one."""

    UNSPECIFIED = 0
    PENDING = 1
    MINED = 2
    FINAL = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class Payout:
    """What a settlement paid to one receiver in one token."""

    receiver: bytes
    token: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """One claim transaction, the caller's part of it; `gas_used` is of the whole transaction."""

    id: int
    network: str
    transaction: bytes
    status: SettlementStatus
    created_at: int
    block_number: int
    gas_used: int
    rows: int
    payouts: tuple[Payout, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a settlement did not claim of one channel, in atomic units, and why."""

    network: str
    channel_id: bytes
    receiver: bytes
    token: bytes
    amount: int
    reason: str


class SettledNow(list[Settlement]):
    """The claim transactions that `settle_now` brought about or found under way; `left_out`: what is owed and was not
    claimed.
    """

    def __init__(self, settlements: Iterable[Settlement] = (), left_out: Iterable[LeftOut] = ()) -> None:
        super().__init__(settlements)
        self.left_out = list(left_out)
