"""Transactions of type 2 (EIP-1559): what they bid, how they are signed. Pure."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import rlp  # type: ignore[import-untyped]  # it has none

from tallystick.hashing import keccak256
from tallystick.signatures import Signer
from tallystick_aggregator.chain.node import MarketFees
from tallystick_aggregator.chain.settings import FeeSettings
from tallystick_aggregator.journal.port import Attempt

_TYPE: Final = b"\x02"
_BASE_FEE_FACTOR: Final = 2
"""The base fee may double (in six full blocks) before a transaction is priced out."""
_URGENT_FACTOR: Final = 2


class Bid(NamedTuple):
    """What a transaction offers, in wei per gas."""

    max_fee: int
    priority_fee: int


class Unsigned(NamedTuple):
    """What a transaction says, apart from its bid. It carries no value."""

    chain_id: int
    nonce: int
    gas_limit: int
    to: bytes
    data: bytes


def bid(market: MarketFees, settings: FeeSettings, *, urgent: bool = False) -> Bid:
    """What to offer now. Never above the cap: where blocks cost more than that, the transaction waits."""
    factor = _URGENT_FACTOR if urgent else 1
    tip = min(
        max(market.priority_fee_per_gas_wei * factor, settings.priority_fee_per_gas_wei_min),
        settings.priority_fee_per_gas_wei_max,
    )
    max_fee = min(
        market.base_fee_per_gas_wei * _BASE_FEE_FACTOR * factor + tip,
        settings.max_fee_per_gas_wei,
    )
    return Bid(max_fee, min(tip, max_fee))


def bump(old: Bid, wanted: Bid, settings: FeeSettings) -> Bid | None:
    """The least that replaces `old` and is no less than `wanted`; None if the caps do not allow it.

    Pools take a replacement only if both of its fees are a tenth higher (some: an eighth).
    """
    max_fee = max(wanted.max_fee, _eighth_more(old.max_fee))
    priority_fee = max(wanted.priority_fee, _eighth_more(old.priority_fee))
    if max_fee > settings.max_fee_per_gas_wei or priority_fee > settings.priority_fee_per_gas_wei_max:
        return None
    return Bid(max_fee, min(priority_fee, max_fee))


def sign(signer: Signer, unsigned: Unsigned, offer: Bid, created_at: int) -> Attempt:
    """One signed form of a transaction."""
    fields: list[Any] = [
        unsigned.chain_id,
        unsigned.nonce,
        offer.priority_fee,
        offer.max_fee,
        unsigned.gas_limit,
        unsigned.to,
        0,
        unsigned.data,
        [],
    ]
    signature = signer.sign(keccak256(_TYPE + _rlp(fields)))
    parity, r, s = signature[64] - 27, int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    raw = _TYPE + _rlp([*fields, parity, r, s])
    return Attempt(keccak256(raw), raw, offer.max_fee, offer.priority_fee, created_at)


def bid_of(attempt: Attempt) -> Bid:
    """What a signed form offers."""
    return Bid(attempt.max_fee_per_gas_wei, attempt.max_priority_fee_per_gas_wei)


def _eighth_more(fee: int) -> int:
    return fee + fee // 8 + 1


def _rlp(fields: Sequence[Any]) -> bytes:
    return cast("bytes", cast("Any", rlp).encode(fields))
