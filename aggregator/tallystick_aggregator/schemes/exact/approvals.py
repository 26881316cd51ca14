"""Payers without coin that approve Permit2 by a transaction which we pay for (erc20_gas_sponsoring.md).

The approval is checked strictly before anything is simulated: it spends our gas money, and what it does not use stays
with the payer. It is sent in a bundle only (module `chain.sending.bundles`): without a builder none of this is offered.
"""

from typing import Final

from eth_abi.abi import encode

from tallystick.eip712 import PERMIT2_ADDRESS
from tallystick.hexadecimal import checksum, to_hex
from tallystick.x402 import Permit2Authorization, SignedApproval
from tallystick_aggregator.chain.approval_transactions import APPROVE_SELECTOR, read_approval
from tallystick_aggregator.chain.bundle_port import ApprovalTransaction, Bundle
from tallystick_aggregator.chain.port import Block, Chain
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse

APPROVAL_GAS_MAX: Final = 100_000
"""Gas limit of an approval at most; official clients sign 70,000, tokens take some 46,000."""
BUNDLE_S_MAX: Final = 900
"""How long a sponsored payment may be valid at most, in seconds: so long it is offered, and others wait."""


async def plan_bundle(chain: Chain, payment: Permit2Authorization, block: Block, now_s: int) -> Bundle | Refusal:
    """Return what goes before the settlement of a payment whose payer has not approved Permit2, or why nothing does."""
    approval, bundles = payment.approval, chain.bundles
    assert approval is not None, "the caller has looked"
    assert bundles is not None, "the caller has looked"
    transaction = read_approval(approval.raw)
    if transaction is None:
        return refuse(Why.APPROVAL_UNREADABLE, f"{len(approval.raw)} bytes", "a signed transaction of type 2")
    refusal = _is_for(approval, payment) or _does(transaction, approval, chain.chain_id)
    if refusal is not None:
        return refusal
    if payment.deadline > now_s + BUNDLE_S_MAX:
        return refuse(Why.APPROVAL_TOO_LONG, payment.deadline, f"at most {now_s + BUNDLE_S_MAX}")
    if await chain.code(payment.from_, block):
        return refuse(Why.APPROVAL_BY_CONTRACT, checksum(payment.from_), "an account without code")
    account, fees = await bundles.account(payment.from_, block), await bundles.fees()
    if transaction.nonce != account.nonce:
        return _wrong("nonce", transaction.nonce, account.nonce)
    if not fees.least <= transaction.max_fee_wei <= fees.most:
        return _wrong("maxFeePerGas", transaction.max_fee_wei, f"{fees.least} to {fees.most}")
    return Bundle(payment.from_, transaction, max(0, transaction.cost_wei - account.balance_wei))


def _is_for(approval: SignedApproval, payment: Permit2Authorization) -> Refusal | None:
    path = Why.APPROVAL_OF_ANOTHER.field
    for name, got, allowed in (
        ("from", approval.owner, payment.from_),
        ("asset", approval.token, payment.token),
        ("spender", approval.spender, PERMIT2_ADDRESS),
    ):
        if got != allowed:
            return refuse(Why.APPROVAL_OF_ANOTHER, checksum(got), checksum(allowed), field=f"{path}.{name}")
    if approval.amount < payment.permitted:
        return refuse(Why.APPROVAL_OF_ANOTHER, approval.amount, f"at least {payment.permitted}", field=f"{path}.amount")
    return None


def _does(transaction: ApprovalTransaction, approval: SignedApproval, chain_id: int) -> Refusal | None:
    """Check that the transaction does what the extension says of it, and nothing else."""
    call = APPROVE_SELECTOR + encode(["address", "uint256"], [approval.spender, approval.amount])
    for name, got, allowed in (
        ("signer", checksum(transaction.signer), checksum(approval.owner)),
        ("chainId", transaction.chain_id, chain_id),
        ("to", to_hex(transaction.to), to_hex(approval.token)),
        ("value", transaction.value, 0),
        ("data", to_hex(transaction.data), to_hex(call)),
    ):
        if got != allowed:
            return _wrong(name, got, allowed)
    if transaction.gas_limit > APPROVAL_GAS_MAX:
        return _wrong("gas", transaction.gas_limit, f"at most {APPROVAL_GAS_MAX}")
    if transaction.priority_fee_wei > transaction.max_fee_wei:
        return _wrong("maxPriorityFeePerGas", transaction.priority_fee_wei, f"at most {transaction.max_fee_wei}")
    return None


def _wrong(name: str, got: object, allowed: object) -> Refusal:
    return refuse(Why.APPROVAL_DIFFERS, got, allowed, name=name)
