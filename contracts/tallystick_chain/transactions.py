"""Transactions of type 2 (EIP-1559), encoded by eth-account and signed by our own signer: its key never leaves it."""

from typing import Any, NamedTuple

from eth_account.typed_transactions.typed_transaction import TypedTransaction

from tallystick.hashing import keccak256
from tallystick.signatures import Signer
from tallystick_chain.fees import Bid


class Unsigned(NamedTuple):
    """What a transaction says, apart from its bid; `value` in wei. `to` empty: `data` creates a contract."""

    chain_id: int
    nonce: int
    gas_limit: int
    to: bytes
    data: bytes
    value: int = 0


class Signed(NamedTuple):
    """A transaction as it is sent."""

    transaction_hash: bytes
    raw: bytes


def sign(signer: Signer, unsigned: Unsigned, offer: Bid) -> Signed:
    """One signed form of a transaction."""
    fields: dict[str, Any] = {
        "type": 2,
        "chainId": unsigned.chain_id,
        "nonce": unsigned.nonce,
        "gas": unsigned.gas_limit,
        "maxFeePerGas": offer.max_fee,
        "maxPriorityFeePerGas": offer.priority_fee,
        "to": unsigned.to,
        "value": unsigned.value,
        "data": unsigned.data,
        "accessList": (),
    }
    signature = signer.sign(bytes(TypedTransaction.from_dict(fields).hash()))
    fields |= {
        "v": signature[64] - 27,
        "r": int.from_bytes(signature[:32], "big"),
        "s": int.from_bytes(signature[32:64], "big"),
    }
    raw = bytes(TypedTransaction.from_dict(fields).encode())
    return Signed(keccak256(raw), raw)
