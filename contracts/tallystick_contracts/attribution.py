"""The suffix of a transaction's calldata by ERC-8021, schema 2: who is to be credited, and what claims attest.

Contracts ignore what follows their arguments; indexers read it from the end:

    [CBOR map][its length, 2 bytes][schema id 2, 1 byte][marker, 16 bytes]

The map has builder codes (`a`, `w`, `s`) and metadata (`m`). In `m` the facilitator of x402's batch-settlement attests
how many charges each row of a claim stands for (scheme_batch_settlement_evm.md, "Claim attestation"). Nothing of it is
signed: a count is as good as the sender of the transaction. Needs cbor2 (extra `chain`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import cbor2

MARKER: Final = bytes.fromhex("8021" * 8)
SCHEMA_ID: Final = 2
CHARGE_COUNTS: Final = "x402ChargeCounts"
_TAIL_BYTES: Final = 2 + 1 + len(MARKER)
_LENGTH_MAX: Final = 2**16 - 1
_COUNT_MAX: Final = 2**64 - 1


def charge_counts_suffix(counts: Sequence[int], builder_code: str = "") -> bytes:
    """What a claim's calldata ends with: for each row in call order the charges since the channel's last claim.

    Empty without rows and code. `builder_code` is the facilitator's own (`w`). Raises ValueError for a count that is no
    unsigned 64-bit integer, and for more than the suffix can hold (some 7,000 rows).
    """
    if not all(0 <= count <= _COUNT_MAX for count in counts):
        raise ValueError("a charge count must be at least 0 and below 2**64")
    entries: dict[str, Any] = {}
    if builder_code:
        entries["w"] = builder_code
    if counts:
        entries["m"] = {CHARGE_COUNTS: [*counts]}
    return encode_suffix(entries) if entries else b""


def encode_suffix(entries: Mapping[str, Any]) -> bytes:
    """The suffix with this map. Raises ValueError if its encoding has more than 65,535 bytes."""
    data = cbor2.dumps(dict(entries))
    if len(data) > _LENGTH_MAX:
        raise ValueError(f"the suffix has {len(data)} bytes, allowed are {_LENGTH_MAX}")
    return data + len(data).to_bytes(2, "big") + bytes([SCHEMA_ID]) + MARKER


def split_suffix(calldata: bytes) -> tuple[bytes, Mapping[str, Any] | None]:
    """The calldata without its suffix, and the suffix' map; None where it has none, or one that cannot be read."""
    if not calldata.endswith(MARKER) or len(calldata) < _TAIL_BYTES or calldata[-_TAIL_BYTES + 2] != SCHEMA_ID:
        return calldata, None
    start = len(calldata) - _TAIL_BYTES - int.from_bytes(calldata[-_TAIL_BYTES : -_TAIL_BYTES + 2], "big")
    if start < 0:
        return calldata, None
    try:
        entries = cbor2.loads(calldata[start:-_TAIL_BYTES])
    except cbor2.CBORDecodeError:
        return calldata, None
    if not isinstance(entries, dict):
        return calldata, None
    return calldata[:start], cast("Mapping[str, Any]", entries)


def read_charge_counts(entries: Mapping[str, Any] | None) -> tuple[int, ...] | None:
    """The counts in a suffix' map, in the order of the claim's rows; None if it attests none."""
    metadata = (entries or {}).get("m")
    counts = cast("Mapping[str, Any]", metadata).get(CHARGE_COUNTS) if isinstance(metadata, dict) else None
    if not isinstance(counts, list):
        return None
    found = tuple(cast("Sequence[Any]", counts))
    return found if all(type(count) is int and 0 <= count <= _COUNT_MAX for count in found) else None
