"""What a facilitator is asked for and answers, whatever the scheme: kinds, attempts, verified and settled payments.

Addresses have 20 bytes, hashes 32; amounts are integers in the token's atomic units; times are seconds since the epoch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tallystick.tokens import Token


@dataclass(frozen=True, slots=True)
class Kind:
    """One scheme on one network.

    From `escrow` on it is of schemes whose payers deposit: the escrow with its EIP-712 domain, the operator, the
    withdraw delay in seconds that is proposed, and the shortest and longest that are taken. `extra` is what offers of
    other schemes carry in `extra`: JSON values. `extensions`: of x402, by their names, which its payments may use.

    `signers`, the addresses of 20 bytes that send its transactions, are told over HTTP only (x402 specification v2,
    §7.3).
    """

    scheme: str
    network: str
    assets: Sequence[Token]
    escrow: bytes = b""
    escrow_name: str = ""
    escrow_version: str = ""
    operator: bytes = b""
    withdraw_delay_s: int = 0
    withdraw_delay_s_min: int = 0
    withdraw_delay_s_max: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    signers: Sequence[bytes] = ()
    extensions: Sequence[str] = ()


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
class Attempt:
    """One handling of one request that an `exact` payment pays for: 16 random bytes, and 32 that stand for the request.

    The payment is this attempt's alone, until it is given back.
    """

    id: bytes = field(repr=False)
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """A payment that will settle. `replayed`: it was seen before, and pays for what it paid for then only.

    `handle` names what was reserved, if anything was, until `expires_at`, which is also how long an attempt holds a
    payment; a replayed payment has none. `extra` is what the scheme tells in x402's answers over HTTP: JSON values.
    """

    payer: bytes
    handle: bytes = field(default=b"", repr=False)
    expires_at: int = 0
    replayed: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Settled:
    """A payment that was settled: what it moved, the channel's charged total right after it (`deferred`), the hash of
    the transaction that moved it (`exact`), and whether it had been settled before. `extra` is as in Verified.

    `moves`: whether `amount` moved on chain; x402's answer names no amount that only a channel counts, where its scheme
    has it so (`batch-settlement`).
    """

    payer: bytes
    amount: int
    charged: int = 0
    transaction: bytes = b""
    replayed: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    moves: bool = True
