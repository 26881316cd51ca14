"""What became of charges on chain: claim transactions, of each the part that is a seller's own.

Addresses have 20 bytes, ids and hashes 32; amounts are integers in the token's atomic units; times are seconds since
the epoch.
"""

from dataclasses import dataclass
from enum import Enum


class SettlementStatus(Enum):
    """What became of a claim transaction; a failed one's rows are claimed by a later one."""

    UNSPECIFIED = 0
    PENDING = 1
    MINED = 2
    FINAL = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class Payout:
    """What a transaction pays to one receiver in one token."""

    receiver: bytes
    token: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """One claim transaction; `gas_used` is of the whole transaction."""

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
