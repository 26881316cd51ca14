"""What the chain itself says of a run: the escrow's state rebuilt from its events, and what became of exact payments.

Read from the node directly, at the end, so that no figure rests on what the aggregator was told.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from _anvil import DevChain, function, hexed
from tallystick_contracts.events import decode
from tallystick_contracts.logs import EscrowState, rebuild

_AUTHORIZATION_STATE: Final = "authorizationState(address,bytes32)"


@dataclass(frozen=True, slots=True)
class _Log:
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class ChainBook:
    """The escrow's whole state, its events by name, and in how many transactions something was claimed."""

    state: EscrowState
    events: Counter[str]
    claim_transactions: int


def read(chain: DevChain, escrow: bytes) -> ChainBook:
    """Read all of the escrow's events."""
    asked = {"address": hexed(escrow), "fromBlock": "0x0", "toBlock": "latest"}
    answered: list[dict[str, Any]] = chain.rpc("eth_getLogs", asked)
    logs = [_Log(tuple(map(_bytes, log["topics"])), _bytes(log["data"])) for log in answered]
    names = [type(decode(log)).__name__ for log in logs]
    claims = {log["transactionHash"] for log, name in zip(answered, names, strict=True) if name == "Claimed"}
    return ChainBook(rebuild(logs), Counter(names), len(claims))


def has_landed(chain: DevChain, token: bytes, payer: bytes, nonce: bytes) -> bool:
    """Whether an authorization was used; nobody in a run cancels one."""
    return int.from_bytes(chain.call(token, function(_AUTHORIZATION_STATE, payer, nonce)), "big") == 1


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])
