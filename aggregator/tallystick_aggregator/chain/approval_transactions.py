"""A payer's signed approval, read from its bytes: an EIP-1559 transaction, by eth-account."""

from typing import Any, Final

from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes
from rlp.exceptions import RLPException

from tallystick.errors import InvalidSignatureError
from tallystick.signatures import recover
from tallystick_aggregator.chain.bundle_port import ApprovalTransaction
from tallystick_aggregator.chain.escrow_calls import selector

APPROVE_SELECTOR: Final = selector("approve(address,uint256)")
_TYPE: Final = 2
_SIGNATURE: Final = ("v", "r", "s")


def read_approval(raw: bytes) -> ApprovalTransaction | None:
    """Return what it says; None if it is no transaction of type 2 with a signature that the chain takes."""
    if raw[:1] != bytes((_TYPE,)):
        return None
    try:
        fields: dict[str, Any] = dict(TypedTransaction.from_bytes(HexBytes(raw)).as_dict())
        v, r, s = (int(fields.pop(name)) for name in _SIGNATURE)
        digest = bytes(TypedTransaction.from_dict(fields).hash())
        signer = recover(digest, r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((27 + v,)))
    except (RLPException, InvalidSignatureError, ValueError, TypeError, LookupError, OverflowError):
        return None
    if fields["accessList"]:
        return None
    return ApprovalTransaction(
        raw=raw,
        signer=signer,
        chain_id=fields["chainId"],
        nonce=fields["nonce"],
        gas_limit=fields["gas"],
        max_fee_wei=fields["maxFeePerGas"],
        priority_fee_wei=fields["maxPriorityFeePerGas"],
        to=bytes(fields["to"]),
        value=fields["value"],
        data=bytes(fields["data"]),
    )
