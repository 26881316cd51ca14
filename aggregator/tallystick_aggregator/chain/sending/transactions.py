"""Transactions of type 2 (EIP-1559): how they are signed. Pure."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import rlp  # type: ignore[import-untyped]  # it has none

from tallystick.hashing import keccak256
from tallystick.signatures import Signer
from tallystick_aggregator.chain.sending.bidding import Bid
from tallystick_aggregator.store.port import Attempt

_TYPE: Final = b"\x02"


class Unsigned(NamedTuple):
    """What a transaction says, apart from its bid. It carries no value."""

    chain_id: int
    nonce: int
    gas_limit: int
    to: bytes
    data: bytes


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


def _rlp(fields: Sequence[Any]) -> bytes:
    return cast("bytes", cast("Any", rlp).encode(fields))
